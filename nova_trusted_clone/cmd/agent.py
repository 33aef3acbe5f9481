"""nova-trusted-clone-agent: one host's part in cloning, without nova.

It holds no thought of its own: options become a host, requests become calls of the use cases. Two sockets: one for the
operator (a unix socket in the state path), one for the agents of other hosts (TCP), which may only converse about a clone that
the control plane has announced.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log

from nova_trusted_clone.assembly import wiring
from nova_trusted_clone.clone.destination import Destination
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.incoming import Rejected
from nova_trusted_clone.clone.records import RecordError, read
from nova_trusted_clone.clone.source import FreezeFailed, Source
from nova_trusted_clone.conf import opts
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.hypervisor import drivers
from nova_trusted_clone.ports import Identity, NicIdentity
from nova_trusted_clone.transport import rpc

LOG = logging.getLogger(__name__)
ADMIN_SOCKET = "admin.sock"
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BRIDGE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
CODE = re.compile(r"trusted-clone(\.[a-z0-9-]{1,32}){1,4}")
MAX_NICS = 32
MAX_CLONES = 64
MakeSource = Callable[[Host], Source]


class BadRequest(rpc.PublicError):
    """A request whose argument is missing, of the wrong type or out of range; it names the argument."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "trusted-clone.request.malformed")


def _text(arguments: Mapping[str, Any], name: str, pattern: re.Pattern[str] | None = None) -> str:
    value = arguments.get(name)
    if (
        not isinstance(value, str)
        or len(value) > 4096
        or (pattern and not pattern.fullmatch(value))
    ):
        raise BadRequest(f"{name}: {'a text' if pattern is None else pattern.pattern} expected")
    return value


def _bytes(arguments: Mapping[str, Any], name: str) -> bytes:
    value = arguments.get(name)
    if not isinstance(value, bytes):
        raise BadRequest(f"{name}: bytes expected")
    return value


def _identity(arguments: Mapping[str, Any]) -> Identity:
    nics = arguments.get("nics")
    if (
        not isinstance(nics, list)
        or len(nics) > MAX_NICS
        or not all(isinstance(nic, dict) for nic in nics)
    ):
        raise BadRequest(f"nics: a list of up to {MAX_NICS} maps expected")
    return Identity(
        name=_text(arguments, "name", NAME),
        uuid=_text(arguments, "uuid", UUID),
        nics=tuple(
            NicIdentity(
                _text(nic, "mac", MAC), _text(nic, "bridge", BRIDGE) if nic.get("bridge") else None
            )
            for nic in nics
        ),
    )


def _port(arguments: Mapping[str, Any], name: str) -> int:
    value = arguments.get(name)
    if not isinstance(value, int) or not 1 <= value <= 65535:
        raise BadRequest(f"{name}: a port number expected")
    return value


def _named(operation: rpc.Handler) -> rpc.Handler:
    """Translate the use cases' errors into what a caller may see."""

    def answer(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return operation(arguments)
        except Rejected as error:
            raise rpc.PublicError(str(error), "trusted-clone.rejected") from error
        except FreezeFailed as error:
            raise rpc.PublicError(str(error), "trusted-clone.freeze.failed") from error
        except CoreError as error:
            raise rpc.PublicError(str(error), error.code) from error
        except wiring.ConfigError as error:
            raise rpc.PublicError(str(error), "trusted-clone.config") from error

    return answer


class Operations:
    """What can be asked of an agent."""

    def __init__(self, source: Source, destination: Destination, state_path: pathlib.Path) -> None:
        self._source = source
        self._destination = destination
        self._state_path = state_path

    def admin(self) -> dict[str, rpc.Handler]:
        """For the operator."""
        return self._all(
            "ping", "prepare", "clone", "clone_status", "freeze_status", "abort", "end", "evidence"
        )

    def peer(self) -> dict[str, rpc.Handler]:
        """For other hosts."""
        return self._all("message", "early", "status", "end")

    def _all(self, *names: str) -> dict[str, rpc.Handler]:
        return {name: _named(getattr(self, name)) for name in names}

    def ping(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Say that the agent answers."""
        return {}

    def prepare(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Expect a clone: ``order`` (bytes), ``name``, ``uuid``, ``nics`` [{mac, bridge}]."""
        return {
            "clone_id": self._destination.prepare(_bytes(arguments, "order"), _identity(arguments))
        }

    def clone(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Freeze a server and clone it: ``orders`` [{order, address, port}]."""
        orders = arguments.get("orders")
        if not isinstance(orders, list) or not 1 <= len(orders) <= MAX_CLONES:
            raise BadRequest(f"orders: a list of 1 to {MAX_CLONES} maps expected")
        if not all(isinstance(order, dict) for order in orders):
            raise BadRequest("orders: maps expected")
        wanted = [
            (_bytes(order, "order"), f"{_text(order, 'address')}:{_port(order, 'port')}")
            for order in orders
        ]
        return {"group": self._source.clone(wanted)}

    def message(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One handshake message for a clone: ``clone_id``, ``data``; its answer."""
        data = self._destination.message(
            _text(arguments, "clone_id"), _bytes(arguments, "data"), arguments
        )
        return {"data": data}

    def early(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Copy disks before the freeze: ``clone_id``, ``disks`` [target], ``bulk`` {address, port}."""
        disks = arguments.get("disks")
        if not isinstance(disks, list) or not all(isinstance(disk, str) for disk in disks):
            raise BadRequest("disks: a list of targets expected")
        self._destination.begin_early(_text(arguments, "clone_id"), disks, arguments)
        return {}

    def status(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """How far a clone is that this host receives."""
        return self._destination.status(_text(arguments, "clone_id"))

    clone_status = status

    def freeze_status(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """How far a freeze of this host is."""
        return self._source.status(_text(arguments, "group"))

    def abort(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """End a clone, or all clones, of a freeze of this host."""
        clone_id = _text(arguments, "clone_id") if arguments.get("clone_id") else None
        self._source.abort(_text(arguments, "group"), clone_id, "aborted by the operator")
        return {}

    def end(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """End a clone that this host receives: ``clone_id``, ``reason``, and its ``code`` if it has one."""
        self._destination.end(
            _text(arguments, "clone_id"),
            f"ended by the source: {_text(arguments, 'reason')}",
            _text(arguments, "code", CODE) if arguments.get("code") else "",
        )
        return {}

    def evidence(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The evidence of a complete clone that this host received."""
        clone_id = _text(arguments, "clone_id", re.compile("[0-9a-f]{32}"))
        try:
            return {"evidence": read(self._state_path / "clones" / clone_id / "evidence.json")}
        except RecordError as error:
            raise BadRequest(f"clone_id: no evidence: {error}") from error


def serve(
    conf: cfg.ConfigOpts,
    stopped: threading.Event,
    announce: Callable[[], None],
    make_source: MakeSource = Source,
) -> None:
    """Serve until ``stopped``."""
    options = conf.trusted_clone
    wiring.require_sound(options)
    with wiring.alone_in(pathlib.Path(options.state_path)):
        host = wiring.host(options)
        with contextlib.closing(host.vtpms):
            _serve(options, host, stopped, announce, make_source)


def _serve(
    options: Any,
    host: Host,
    stopped: threading.Event,
    announce: Callable[[], None],
    make_source: MakeSource,
) -> None:
    source, destination = make_source(host), Destination(host)
    destination.resume()
    source.resume()
    destination.start_watching()
    drivers.watch(host.place.libvirt_uri)
    operations = Operations(source, destination, host.place.state_path)
    servers = [
        rpc.Server(host.place.state_path / ADMIN_SOCKET, operations.admin()),
        rpc.Server((options.listen_address, options.peer_port), operations.peer()),
    ]
    for server in servers:
        server.start()
    announce()
    stopped.wait()
    for server in servers:
        server.close()
    destination.close()


def main(make_source: MakeSource = Source) -> int:
    """Run the agent until SIGTERM.

    :param make_source: others than the default are for tests
    """
    conf = cfg.ConfigOpts()
    opts.register(conf)
    log.register_options(conf)
    conf(sys.argv[1:], project="nova-trusted-clone", prog="nova-trusted-clone-agent")
    log.setup(conf, "nova-trusted-clone-agent")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        serve(conf, stopped, lambda: LOG.info("ready"), make_source)
    except wiring.ConfigError as error:
        print(f"nova-trusted-clone-agent: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
