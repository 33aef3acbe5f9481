"""QEMU's own suspend and background snapshot, with nothing of the product: what a freeze is compared with."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from bench.report import BenchError
from nova_trusted_clone.hypervisor.qemu.connection import EventTimes, connected, find
from nova_trusted_clone.hypervisor.qemu.monitor import (
    Monitor,
    await_condition,
    migration_status,
    set_capability,
)

CAPABILITY = "background-snapshot"
DESCRIPTOR = "bench-snapshot"
BUFFER_BYTES = 4 << 20
UNLIMITED = 10**12
RESUME_LIMIT_S = 20.0
END_LIMIT_S = 300.0


class EventLost(BenchError):
    """libvirt kept QEMU's event to itself, as it does once in hundreds of times: how long the pause was is not known."""


@contextlib.contextmanager
def _thrown_away() -> Iterator[socket.socket]:
    """A socket whose bytes are read at once and thrown away."""
    mine, qemus = socket.socketpair()

    def read() -> None:
        buffer = bytearray(BUFFER_BYTES)
        while mine.recv_into(buffer):
            continue

    reader = threading.Thread(target=read, name="snapshot", daemon=True)
    reader.start()
    try:
        yield qemus
    finally:
        # QEMU has its own copy of this end, and closes it when the snapshot has ended.
        qemus.close()
        reader.join(END_LIMIT_S)
        mine.close()


def pause_s(uri: str, server_uuid: str) -> float:
    """Suspend, start a background snapshot (which lets the guest run on); seconds from STOP to RESUME.

    Returns when the snapshot has ended and QEMU is as it was.

    :raises EventLost: it has to be measured again
    :raises BenchError: when the guest does not go on
    """
    with connected(uri) as libvirtd, _thrown_away() as stream:
        domain = find(libvirtd, server_uuid)
        monitor = Monitor(domain)
        before = int(monitor.execute("query-migrate-parameters")["max-bandwidth"])
        set_capability(monitor, CAPABILITY, True)
        monitor.execute("migrate-set-parameters", max_bandwidth=UNLIMITED)
        monitor.execute_with_file(stream.fileno(), "getfd", fdname=DESCRIPTOR)
        try:
            with EventTimes(libvirtd, domain) as events:
                domain.suspend()
                monitor.execute("migrate", uri=f"fd:{DESCRIPTOR}")
                if not events.wait("RESUME", RESUME_LIMIT_S):
                    if monitor.execute("query-status")["running"]:
                        raise EventLost(f"{server_uuid} runs, and libvirt did not say so")
                    raise BenchError(
                        f"{server_uuid} did not run again: {migration_status(monitor)}"
                    )
                pause = events.seen("RESUME")[-1] - events.seen("STOP")[0]
            await_condition(
                "the end of the snapshot",
                lambda: migration_status(monitor) in ("completed", "failed"),
                END_LIMIT_S,
            )
            if migration_status(monitor) == "failed":
                raise BenchError(f"QEMU's own snapshot failed: {monitor.execute('query-migrate')}")
        finally:
            set_capability(monitor, CAPABILITY, False)
            monitor.execute("migrate-set-parameters", max_bandwidth=before)
    return pause
