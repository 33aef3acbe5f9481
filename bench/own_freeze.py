"""The product's freeze of a running guest, with its exporter process draining, and nothing behind it."""

from __future__ import annotations

import contextlib
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
# Nobody connects; the exporter wants a port before it says how far the drain is.
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
    """Freeze, drain the memory, release; returns when the guest is as it was.

    :param directory: made and removed; its path short enough for sockets, visible to the guest's host
    :raises BenchError: when the drain fails
    """
    frozen_at = directory / "freeze"
    frozen_at.mkdir(mode=0o700, parents=True)
    source = QemuSource(uri)
    try:
        with _exporter(directory / "exporter") as exporter:
            drain = pathlib.Path(str(exporter.call("drain")["socket"]))
            try:
                frozen = source.freeze(server_uuid, frozen_at, drain)
                await_condition("the drain's end", lambda: _drained(exporter), END_LIMIT_S)
            finally:
                source.release(server_uuid, frozen_at)
    finally:
        shutil.rmtree(directory)
    return frozen


def _drained(exporter: ControlClient) -> bool:
    drain = exporter.call("status")["drain"]
    if drain["failed"]:
        raise BenchError(f"the freeze failed: {drain['failed']}")
    return bool(drain["drain_ended"])
