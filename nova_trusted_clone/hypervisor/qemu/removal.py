"""Take a freeze off a server that runs, whoever began it and however far it came."""

from __future__ import annotations

import concurrent.futures
import logging
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import (
    diskfreeze,
    hugepages,
    marker,
    ramblocks,
    rescue,
)
from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.monitor import (
    Monitor,
    await_condition,
    migration_status,
    set_capability,
)
from nova_trusted_clone.hypervisor.qemu.pause import DRAIN_DESCRIPTOR
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, mappings

LOG = logging.getLogger(__name__)
SNAPSHOT = "background-snapshot"
BUSY = (
    "setup",
    "active",
    "cancelling",
    "device",
    "pre-switchover",
    "postcopy-active",
    "wait-unplug",
)
_CANCEL_LIMIT_S = 60.0
# A QEMU that works answers within milliseconds, on a machine that is overloaded within some tenths of seconds.
_ANSWER_LIMIT_S = 5.0
# 0.1 s a GiB, and what a release takes longer at most. The rest is done at the next freeze, and by the kernel's own daemon.
_COLLAPSE_S = 2.0


def take_off(domain: Any, monitor: Monitor, record: FreezeRecord) -> None:
    """Take all of a freeze off a running server, whatever of it is there; nothing if the server is under another one.

    :raises HypervisorError: something is left
    """
    if _owner(monitor, record.process) != record.token:
        return
    # A cancelled snapshot answers no write fault any more, but needs QEMU's big lock to end, which is often held by
    # somebody who waits for such an answer.
    with rescue.kept_lifted(record.process):
        if migration_status(monitor) in BUSY:
            monitor.execute("migrate_cancel")
        if not record.resumed:
            _let_run(domain, monitor)
        await_condition(
            "the end of the snapshot",
            lambda: migration_status(monitor) not in BUSY,
            _CANCEL_LIMIT_S,
        )
        if not record.resumed:
            # A snapshot that was held back stops the guest once more before it ends, and may fail to resume it.
            _let_run(domain, monitor)
    set_capability(monitor, SNAPSHOT, False)
    monitor.execute("migrate-set-parameters", max_bandwidth=record.previous_bandwidth)
    diskfreeze.forget_descriptor(monitor, DRAIN_DESCRIPTOR)
    diskfreeze.undo(monitor, record.disks)
    _go_on_after_full_scratch(domain, monitor)
    fdsets = (record.device_fdset, *(disk.fdset for disk in record.disks))
    diskfreeze.forget_fdsets(monitor, fdsets)
    # The mark keeps other freezes away meanwhile, and nothing is protected any more.
    _collapse(monitor, record.process)
    marker.take(monitor)


def _go_on_after_full_scratch(domain: Any, monitor: Monitor) -> None:
    """Let a guest run on that stands still because there was no room for old content; its write is then done again.

    One that stands still because its own disk is full does so again at once.
    """
    if monitor.execute("query-status")["status"] == "io-error":
        LOG.warning("%s stood still for want of room for its disks' old content", domain.name())
        domain.resume()


def _owner(monitor: Monitor, process: ProcessId) -> str | None:
    """Whose freeze the server is under, also when QEMU itself waits for a write that nobody answers.

    That happens when the drain's reader has died. Lifting the protection ends that snapshot for good, whoever's it was: it was
    lost already.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(marker.owner, monitor)
        try:
            return answer.result(_ANSWER_LIMIT_S)
        except concurrent.futures.TimeoutError:
            LOG.warning("process %d does not answer: lifting its write protection", process.pid)
            rescue.lift_protection(process)
            return answer.result()


def _collapse(monitor: Monitor, process: ProcessId) -> None:
    """Give the guest its huge pages back; a release never fails by this."""
    try:
        blocks = ramblocks.locate(monitor, process.pid, mappings(process.pid))
    except HypervisorError as error:
        LOG.info("memory of process %d stays in small pages: %s", process.pid, error)
        return
    hugepages.collapse(process, blocks, _COLLAPSE_S)


def _let_run(domain: Any, monitor: Monitor) -> None:
    """Resume a guest that this freeze stopped; through libvirt, so that both know."""
    if monitor.execute("query-status")["running"]:
        return
    try:
        domain.resume()
    except libvirt.libvirtError as error:
        LOG.warning("libvirt does not resume %s (%s): asking QEMU", domain.name(), error)
    if not monitor.execute("query-status")["running"]:
        monitor.execute("cont")
