"""The pause: memory, device state and disks of one instant.

What makes them that is the order: stop; hold the disks; save the device state; let QEMU's snapshot go on, which
write-protects the memory and lets the guest run on. The snapshot is started before, and held back until then
(``holdback``): that it really was is looked at in the pause, as nothing but that keeps it from an instant of its own. The
kernel tells it at once; QEMU, which takes milliseconds to answer, is asked only when the kernel cannot.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from nova_trusted_clone.hypervisor.base import FreezeFailed
from nova_trusted_clone.hypervisor.qemu import connection, diskfreeze, holdback
from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor

LOG = logging.getLogger(__name__)
DRAIN_DESCRIPTOR = "ntc-drain"
# QEMU's thread reads a byte of each page: 8 ms a GiB, several times that in small pages.
_ARRIVAL_LIMIT_S = 10.0
_RESUME_LIMIT_S = 30.0


class Stopwatch:
    """Named steps and how long each took, seconds."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block of code."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.steps[name] = time.perf_counter() - began


def pause(
    libvirtd: Any,
    domain: Any,
    monitor: Monitor,
    record: FreezeRecord,
    held: holdback.HeldConnection,
    watch: Stopwatch,
) -> float:
    """Freeze an armed server; return how long it stood still, seconds of QEMU's own clock.

    Once in hundreds of freezes libvirt was seen to keep an event to itself; the answer is then by our own clock, and more
    than the truth.

    :raises HypervisorError: it did not work out; something of it is still on the server
    """
    with connection.EventTimes(libvirtd, domain) as events, held.answered(record.process):
        with watch.step("lead"):
            arrival = _start_snapshot(monitor, record)
            diskfreeze.flush(monitor, record.disks)
        began = time.monotonic()
        with watch.step("suspend"):
            domain.suspend()
        with watch.step("disks"):
            diskfreeze.hold(monitor, record.disks)
        with watch.step("devices"):
            monitor.execute(
                "xen-save-devices-state", filename=f"/dev/fdset/{record.device_fdset}", live=False
            )
        with watch.step("migrate"):
            if arrival is None or not arrival.unmoved():
                _require_held(monitor)
            held.let_go()
        with watch.step("resume"):
            _await_resume(monitor, events)
        held.let_read()
        stopped, resumed = events.seen("STOP"), events.seen("RESUME")
        if stopped and resumed:
            return resumed[-1] - stopped[0]
        LOG.warning("libvirt did not say when the guest stopped and ran again")
        return time.monotonic() - began


def _start_snapshot(monitor: Monitor, record: FreezeRecord) -> holdback.Arrival | None:
    monitor.execute("migrate", uri=f"fd:{DRAIN_DESCRIPTOR}")
    arrival = holdback.await_arrival(record.process, _ARRIVAL_LIMIT_S)
    _require_held(monitor)
    return arrival


def _require_held(monitor: Monitor) -> None:
    """QEMU leaves ``setup`` after the write in which its thread is held back, and before it stops the guest.

    :raises FreezeFailed: the snapshot went on, or ended
    """
    found = monitor.execute("query-migrate")
    if found.get("status") != "setup":
        raise FreezeFailed(
            f"background snapshot: {found.get('error-desc', found.get('status'))} before the server stood still"
        )


def _await_resume(monitor: Monitor, events: connection.EventTimes) -> None:
    deadline = time.monotonic() + _RESUME_LIMIT_S
    while not events.wait("RESUME", 0.25):
        status = monitor.execute("query-migrate")
        if status.get("status") == "failed":
            raise FreezeFailed(f"background snapshot: {status.get('error-desc', 'failed')}")
        if monitor.execute("query-status")["running"]:
            return
        if time.monotonic() > deadline:
            raise FreezeFailed(f"the guest did not run again within {_RESUME_LIMIT_S:.0f} s")
