"""The product's freeze of a running guest, with its exporter process taking the memory, and nothing behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from bench.report import BenchError
from nova_trusted_clone.datapath import processes
from nova_trusted_clone.datapath.control import ControlClient
from nova_trusted_clone.hypervisor.qemu.monitor import await_condition
from nova_trusted_clone.hypervisor.qemu.source import QemuSource
from nova_trusted_clone.ports import Frozen

EXPORTER = "nova_trusted_clone.cmd.exporter"
START_LIMIT_S = 60.0
END_LIMIT_S = 300.0
LOOPBACK = "127.0.0.1"
# Nobody connects; the exporter wants a port before it says how far the capture is.
PORT_MIN, PORT_MAX = 49700, 49799


@contextlib.contextmanager
def _exporter(directory: pathlib.Path) -> Iterator[ControlClient]:
    running = processes.start(EXPORTER, directory)
    try:
        processes.wait_for_path(directory / "control.sock", running, START_LIMIT_S)
        client = ControlClient(directory / "control.sock")
        client.call(
            "listen",
            freeze_id=secrets.token_hex(16),
            address=LOOPBACK,
            port_min=PORT_MIN,
            port_max=PORT_MAX,
        )
        yield client
    finally:
        running.end()


def freeze(uri: str, server_uuid: str, directory: pathlib.Path) -> Frozen:
    """Freeze, capture the memory, release; returns when the guest is as it was.

    :param directory: made and removed; its path short enough for sockets, visible to the guest's host
    :raises BenchError: when the capture fails
    """
    frozen_at = directory / "freeze"
    frozen_at.mkdir(mode=0o700, parents=True)
    source = QemuSource(uri)
    try:
        with _exporter(directory / "exporter") as exporter:
            capture = pathlib.Path(str(exporter.call("capture")["socket"]))
            frozen = source.freeze(server_uuid, frozen_at, capture)
            exporter.call("frozen", regions=[dataclasses.asdict(r) for r in frozen.regions])
            await_condition("the end of the capture", lambda: _taken(exporter), END_LIMIT_S)
    finally:
        # After the exporter, as the service does it: QEMU 7.2 was seen to wait for good, in nbd-server-stop, for a client
        # that was just being refused.
        source.release(server_uuid, frozen_at)
        shutil.rmtree(directory)
    return frozen


def _taken(exporter: ControlClient) -> bool:
    capture = exporter.call("status")["capture"]
    if capture["failed"]:
        raise BenchError(f"the freeze failed: {capture['failed']}")
    return bool(capture["whole"])
