"""The pause: memory, device state and disks of one instant.

What makes them that is that the guest stands still: hold the disks; save the device state; write-protect the memory; then it
runs on. Everything else was made ready before.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from nova_trusted_clone.hypervisor.base import FreezeFailed
from nova_trusted_clone.hypervisor.qemu import connection, diskfreeze
from nova_trusted_clone.hypervisor.qemu.handover import Handing
from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor

LOG = logging.getLogger(__name__)
_RESUME_LIMIT_S = 30.0
# A guest runs again some milliseconds after it was let go. From then on QEMU is asked, seldom and more seldom: what it is
# asked it answers on the thread that has to let the guest run.
_ASK_AFTER_S, _ASK_AT_MOST_EVERY_S = 0.025, 0.25
# libvirt tells QEMU's events by a thread of its own, which other work may hold up.
_LATE_EVENT_LIMIT_S = 1.0


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
    handing: Handing,
    watch: Stopwatch,
) -> float:
    """Freeze an armed server; return how long it stood still, seconds of QEMU's own clock.

    Once in hundreds of freezes libvirt was seen to tell an event late, or never; QEMU is then asked whether the guest runs. An
    event that does not come in a second leaves the answer to our own clock, by which it is more than the truth.

    :raises HypervisorError: it did not work out; something of it is still on the server
    """
    with connection.EventTimes(libvirtd, domain) as events:
        with watch.step("lead"):
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
        with watch.step("protect"):
            handing.protect()
        with watch.step("resume"):
            domain.resume()
            _await_resume(monitor, events)
        ended = time.monotonic()
        if events.wait("STOP", _LATE_EVENT_LIMIT_S) and events.wait("RESUME", _LATE_EVENT_LIMIT_S):
            return events.seen("RESUME")[-1] - events.seen("STOP")[0]
        LOG.warning("libvirt did not say when the guest stopped and ran again")
        return ended - began


def _await_resume(monitor: Monitor, events: connection.EventTimes) -> None:
    deadline = time.monotonic() + _RESUME_LIMIT_S
    patience = _ASK_AFTER_S
    while not events.wait("RESUME", patience):
        patience = min(2 * patience, _ASK_AT_MOST_EVERY_S)
        if monitor.execute("query-status")["running"]:
            return
        if time.monotonic() > deadline:
            raise FreezeFailed(f"the guest did not run again within {_RESUME_LIMIT_S:.0f} s")
