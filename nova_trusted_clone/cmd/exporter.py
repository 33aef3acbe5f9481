"""nova-trusted-clone-exporter: serves one freeze of one server to the stores that were admitted.

Started by the source's service in a session of its own, so that it outlives it. It takes the source's memory as soon as that
is frozen, whatever the network does: through descriptors that it is handed open, so that it needs no privilege. It is told
what to do over the control socket in its directory; its log goes to ``exporter.log`` there.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import logging
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath import control
from nova_trusted_clone.datapath.control import BASE64, HEX, LIST, NUMBER, TEXT
from nova_trusted_clone.datapath.errors import DatapathError
from nova_trusted_clone.datapath.exporter import Exporter
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import keeper
from nova_trusted_clone.hypervisor.qemu.nbd import DiskSource, Keep
from nova_trusted_clone.hypervisor.qemu.sources import FrozenSources

LOG = logging.getLogger(__name__)
CONTROL_SOCKET = "control.sock"
CAPTURE_SOCKET = "capture.sock"
WATCH_S = 0.2
_FIELDS = {"kind": str, "name": str, "size_bytes": int, "source": dict}
MakeExporter = Callable[..., Exporter]


class ExporterProcess:
    """The control operations, and the process's end."""

    def __init__(
        self,
        directory: pathlib.Path,
        make_exporter: MakeExporter = Exporter,
        keep: Keep = lambda _connection: None,
    ) -> None:
        """Nothing is served yet.

        :param make_exporter: others than the default are for tests
        :param keep: is given each connection to the source's QEMU, which must not end before QEMU ends it
        """
        self._directory = directory
        self._keep = keep
        self._make_exporter = make_exporter
        self._exporter: Exporter | None = None
        self._sources: FrozenSources | None = None
        self._live_disks: list[DiskSource] = []
        self._port = 0
        self.ended = threading.Event()

    def operations(self) -> dict[str, control.Operation]:
        """What the control channel offers."""
        operation = control.Operation
        return {
            "listen": operation(
                self._listen,
                {"freeze_id": HEX, "address": TEXT, "port_min": NUMBER, "port_max": NUMBER},
            ),
            "identity": operation(self._identity),
            "capture": operation(self._listen_for_memory),
            "admit": operation(self._admit, {"certificate": BASE64, "clone_id": TEXT}),
            "dismiss": operation(self._dismiss, {"clone_id": TEXT}),
            "early": operation(self._early, {"regions": LIST}),
            "end_early": operation(self._end_early),
            "frozen": operation(self._frozen, {"regions": LIST}),
            "status": operation(self.status),
            "stop": operation(self.ended.set),
        }

    @property
    def exporter(self) -> Exporter:
        """The exporter.

        :raises DatapathError: before ``listen``
        """
        if self._exporter is None:
            raise DatapathError("the exporter does not listen yet: ask for listen first")
        return self._exporter

    def _listen(
        self, freeze_id: bytes, address: str, port_min: int, port_max: int
    ) -> Mapping[str, Any]:
        if self._exporter is not None:
            raise DatapathError("the exporter listens already")
        exporter = self._make_exporter(freeze_id, Ed25519PrivateKey.generate(), self._directory)
        self._port = _listen_on_one_of(exporter, address, range(port_min, port_max + 1))
        self._exporter = exporter
        return {"port": self._port}

    def _identity(self) -> Mapping[str, Any]:
        exporter = self.exporter
        return {
            "certificate": _text(exporter.certificate_der),
            "page_key": _text(exporter.page_key_public),
            "port": self._port,
        }

    def _listen_for_memory(self) -> Mapping[str, Any]:
        """Be ready to take the memory over; before the pause."""
        if self._sources is None:
            sources = FrozenSources(
                self._directory / CAPTURE_SOCKET, self._directory, keep=self._keep
            )
            sources.start()
            self._sources = sources
        return {"socket": str(self._directory / CAPTURE_SOCKET)}

    def _admit(self, certificate: bytes, clone_id: str) -> None:
        self.exporter.admit(certificate, clone_id)

    def _dismiss(self, clone_id: str) -> None:
        self.exporter.dismiss(clone_id)

    def _early(self, regions: list[Any]) -> None:
        """Serve disks as they are before the freeze, numbered in the order in which they are named."""
        named = [_region(number, row) for number, row in enumerate(regions)]
        disks = [
            DiskSource(
                region, pathlib.Path(str(source["socket"])), str(source["export"]), self._keep
            )
            for region, source in named
        ]
        self.exporter.offer_early(disks)
        self._live_disks = disks

    def _end_early(self) -> None:
        """Serve none of them any more: the freeze begins."""
        self.exporter.offer_early(())
        for disk in self._live_disks:
            disk.close()
        self._live_disks = []

    def _frozen(self, regions: list[Any]) -> Mapping[str, Any]:
        """Serve the frozen regions, numbered in the order in which they are named."""
        if self._sources is None:
            raise DatapathError("nothing takes the memory: ask for capture first")
        named = [_region(number, row) for number, row in enumerate(regions)]
        try:
            self._sources.open(named)
        except HypervisorError as error:
            raise DatapathError(str(error), code=error.code) from error
        self.exporter.publish(self._sources.sources.values())
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        return {
            "page_key": _text(self.exporter.page_key_public),
            "port": self._port,
            "regions": [
                {"id": r.id, "kind": r.kind, "name": r.name, "size_bytes": r.size_bytes}
                for r, _ in named
            ],
        }

    def _watch(self) -> None:
        """A freeze that turned out to be none serves nothing more."""
        assert self._sources is not None
        while not self.ended.wait(WATCH_S):
            if self._sources.failed_reason:
                self.exporter.fail(self._sources.failed_reason)
                return

    def status(self) -> Mapping[str, Any]:
        """The exporter's status and the capture's; bytes as base64."""
        if self._exporter is None:
            return {"failed": "", "root": None, "frozen": False}
        found = dict(self._exporter.status())
        found["root"] = _text(found["root"]) if isinstance(found["root"], bytes) else None
        found["capture"] = self._sources.status() if self._sources is not None else None
        return found

    def close(self) -> None:
        """Stop serving, close the sources. Each part is tried even if another fails."""
        with contextlib.ExitStack() as stack:
            if self._sources is not None:
                stack.callback(self._sources.close)
            if self._exporter is not None:
                stack.callback(self._exporter.close)


def _listen_on_one_of(exporter: Exporter, address: str, ports: Sequence[int]) -> int:
    for port in ports:
        try:
            return exporter.listen(address, port)
        except OSError as error:
            LOG.debug("port %d: %s", port, error)
    raise DatapathError(
        f"no port of {ports[0]}-{ports[-1]} on {address} is free: "
        "each freeze in use has one; widen bulk_port_min and bulk_port_max"
    )


def _region(number: int, row: Any) -> tuple[Region, Mapping[str, Any]]:
    """Read a region and its source.

    :raises MalformedInput: names the region and field
    """
    if not isinstance(row, dict) or set(row) != set(_FIELDS):
        raise MalformedInput(f"regions[{number}]: expected {', '.join(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if not isinstance(row[name], kind):
            raise MalformedInput(f"regions[{number}].{name}: expected {kind.__name__}")
    # Ids begin at 1: a zero on the wire is never a valid one.
    return Region(number + 1, row["kind"], row["name"], row["size_bytes"]), row["source"]


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def run(directory: pathlib.Path, make_exporter: MakeExporter = Exporter) -> int:
    """Run until ``stop`` or SIGTERM."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.umask(0o077)
    connections = keeper.start()
    logging.basicConfig(
        filename=directory / "exporter.log",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(threadName)s: %(message)s",
    )
    # Capture and lines share the interpreter: whoever waits for a page must not wait 5 ms more for a turn.
    sys.setswitchinterval(0.0005)
    process = ExporterProcess(directory, make_exporter, connections.keep)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.ended.set())
    server = control.ControlServer(directory / CONTROL_SOCKET, process.operations())
    with contextlib.ExitStack() as stack:
        stack.callback(process.close)
        server.start()
        stack.callback(server.close)
        process.ended.wait()
    LOG.info("ended")
    return 0


def main() -> int:
    """Run the exporter."""
    parser = argparse.ArgumentParser(prog="nova-trusted-clone-exporter", description=__doc__)
    parser.add_argument(
        "--directory", type=pathlib.Path, required=True, help="private to this exporter"
    )
    return run(parser.parse_args().directory)


if __name__ == "__main__":
    sys.exit(main())
