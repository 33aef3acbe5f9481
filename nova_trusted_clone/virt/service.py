"""This host's engine inside nova-compute: started when the host can clone, and why it cannot when it cannot.

A host that is not enrolled, or whose TPM does not answer, is an ordinary compute: it gets no trait, says why once, and is
looked at again whenever Nova updates its resources. Nothing here stops nova-compute from starting.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import nova.conf
from oslo_log import log as logging

from nova_trusted_clone.assembly import wiring
from nova_trusted_clone.clone.destination import Destination
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.incoming import Rejected
from nova_trusted_clone.clone.source import FreezeFailed, Source
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.hypervisor import drivers
from nova_trusted_clone.hypervisor.qemu.memorylinks import directory_of
from nova_trusted_clone.rpc.errors import Conflict
from nova_trusted_clone.virt import secrets
from nova_trusted_clone.virt.peers import RpcPeer

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
MAX_CONTEXTS = 64
FUSE = pathlib.Path("/dev/fuse")

Listener = Callable[[dict[str, Any]], None]


class Engine:
    """A started engine: both use cases on this host."""

    def __init__(self, host: Host, listener: Listener, contexts: Contexts) -> None:
        self.host = host
        self._contexts = contexts
        self.destination = Destination(host, listener=listener)
        self.source = Source(host)

    def resume(self) -> None:
        """Take over, or back, what a former nova-compute left."""
        self.destination.resume()
        self.source.resume()
        self.destination.start_watching()
        drivers.watch(self.host.place.libvirt_uri)

    def clone(self, context: Any, orders: Sequence[tuple[bytes, str]]) -> str:
        """Start one freeze, when former ones of the server have ended; return its id.

        A clone that another host had refused comes with a freeze of its own, while its siblings still fetch.
        """
        server = SignedOrder.decode(orders[0][0]).order().source_server
        self._contexts.keep(str(uuid.UUID(bytes=server)), context)
        return self.source.clone(orders, takes_turns=True)

    def has_freeze(self, freeze_id: str) -> bool:
        """Whether a freeze of that id was started here."""
        try:
            self.source.status(freeze_id)
        except FreezeFailed:
            return False
        return True

    def has_clone(self, clone_id: str) -> bool:
        """Whether an order for that clone was accepted here."""
        try:
            self.destination.status(clone_id)
        except Rejected:
            return False
        return True


class Contexts:
    """Whose request it is that a server is frozen for, in memory only: it has the tenant's token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: collections.OrderedDict[str, Any] = collections.OrderedDict()

    def keep(self, server: str, context: Any) -> None:
        """Take note of the newest request."""
        with self._lock:
            self._newest[server] = context
            self._newest.move_to_end(server)
            while len(self._newest) > MAX_CONTEXTS:
                self._newest.popitem(last=False)

    def passphrase(self, server: str, secret: str) -> bytes | None:
        """What encrypts the vTPM of a server here; None where libvirt is to be asked.

        :raises PassphraseUnavailable: when it cannot be had
        """
        with self._lock:
            context = self._newest.get(server)
        if context is None:
            return None  # a clone that is received: its secret is in libvirt until it runs
        return secrets.of_source(context, server, secret)


class CloneService:
    """Starts the engine once, and stops it once."""

    def __init__(self, listener: Listener, started: Callable[[Engine], None]) -> None:
        """:param started: called once, with the engine that has taken over what a former one left"""
        self._listener = listener
        self._started = started
        self._lock = threading.Lock()
        self._held = contextlib.ExitStack()
        self._contexts = Contexts()
        self._engine: Engine | None = None
        self._obstacles: list[str] | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine, where it was started."""
        return self._engine

    def require(self) -> Engine:
        """The engine.

        :raises Conflict: with the reason why this host has none
        """
        if self._engine is None:
            raise Conflict(self.why_not(), "trusted-clone.host.unable")
        return self._engine

    def why_not(self) -> str:
        """Why this host receives no clones, in words."""
        reasons = "; ".join(self._obstacles or ["it is starting"])
        return f"host {CONF.host} cannot clone: {reasons}"

    def look(self) -> bool:
        """Start the engine if that is possible now; return whether this host can receive clones. Reasons are logged once."""
        with self._lock:
            found = configuration_obstacles()
            if self._engine is None:
                found += self._try_to_start()
            if self._engine is not None:
                found += host_obstacles(self._engine.host)
            if found != self._obstacles:
                self._tell(found)
            self._obstacles = found
        return not found

    def stop(self) -> None:
        """Let go of everything; clones, stores and exporters go on by themselves."""
        with self._lock:
            if self._engine is not None:
                self._engine.destination.close()
            self._engine = None
            self._held.close()

    # -- within -------------------------------------------------------------------------------------------------------

    def _try_to_start(self) -> list[str]:
        options = CONF.trusted_clone
        try:
            with contextlib.ExitStack() as held:
                wiring.require_sound(options)
                held.enter_context(wiring.alone_in(pathlib.Path(options.state_path)))
                host = wiring.host(
                    options,
                    peers=_peers(options.message_timeout_s),
                    passphrase=self._contexts.passphrase,
                )
                held.callback(host.vtpms.close)
                engine = Engine(host, self._listener, self._contexts)
                engine.resume()
                self._engine, self._held = engine, held.pop_all()
                self._started(engine)
        except wiring.ConfigError as error:
            return [str(error)]
        return []

    @staticmethod
    def _tell(obstacles: Sequence[str]) -> None:
        if obstacles:
            LOG.warning("This host receives no trusted clones: %s", "; ".join(obstacles))
        else:
            LOG.info("This host can receive trusted clones.")


def configuration_obstacles() -> list[str]:
    """What in Nova's own configuration rules clones out."""
    found = []
    expected = ("xen",) if _on_xen() else ("kvm", "qemu")
    if CONF.libvirt.virt_type not in expected:
        found.append(
            f"[libvirt]virt_type is {CONF.libvirt.virt_type}; {' or '.join(expected)} expected with"
            f" [trusted_clone]libvirt_uri {CONF.trusted_clone.libvirt_uri}"
        )
    if CONF.libvirt.images_type != "qcow2":
        found.append(
            f"[libvirt]images_type is {CONF.libvirt.images_type}; qcow2 expected, since a clone's disks are overlays"
        )
    return found


def host_obstacles(host: Host) -> list[str]:
    """What this host lacks right now."""
    found = []
    try:
        host.random(8)
    except Exception as error:  # noqa: BLE001 - a TPM's driver may raise anything; it is told as the reason
        found.append(f"its TPM does not answer: {error}")
    try:
        ground = host.ground()
        _ = ground.anchors, ground.policy
    except wiring.ConfigError as error:
        found.append(str(error))
    if not _on_xen():  # where no guest's memory is a file
        found += _memory_obstacles()
    if not os.access(FUSE, os.R_OK | os.W_OK):
        found.append(f"{FUSE} cannot be opened")
    return found


def _on_xen() -> bool:
    return drivers.is_xen(CONF.trusted_clone.libvirt_uri)


def _memory_obstacles() -> list[str]:
    directory = directory_of(pathlib.Path(CONF.trusted_clone.memory_backing_dir))
    nearest = next(place for place in (directory, *directory.parents) if place.exists())
    if os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        return []
    return [f"memory_backing_dir: {nearest}: links cannot be laid there; see etc/tmpfiles.d"]


def _peers(timeout_s: float) -> Callable[[str], RpcPeer]:
    return lambda address: RpcPeer(address, timeout_s)
