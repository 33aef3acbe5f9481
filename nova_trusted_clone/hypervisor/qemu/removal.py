"""Take a freeze off a server that runs, whoever began it and however far it came."""

from __future__ import annotations

import logging
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.qemu import diskfreeze, marker, userfault
from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor, await_condition, set_capability
from nova_trusted_clone.hypervisor.qemu.process import mappings

LOG = logging.getLogger(__name__)
BUSY = (
    "setup",
    "active",
    "cancelling",
    "device",
    "pre-switchover",
    "postcopy-active",
    "wait-unplug",
)
_PROTECTION_LIMIT_S = 10.0


def take_off(domain: Any, monitor: Monitor, record: FreezeRecord) -> None:
    """Take all of a freeze off a running server, whatever of it is there; nothing if the server is under another one.

    What the memory is protected with is the exporter's, which has ended or ends.

    :raises HypervisorError: something is left
    """
    if marker.owner(monitor) != record.token:
        return
    if not record.resumed:
        _let_run(domain, monitor)
    set_capability(monitor, userfault.SNAPSHOT, False)
    diskfreeze.undo(monitor, record.disks)
    _go_on_after_full_scratch(domain, monitor)
    fdsets = (record.device_fdset, *(disk.fdset for disk in record.disks))
    diskfreeze.forget_fdsets(monitor, fdsets)
    await_condition(
        "the end of its memory's protection",
        lambda: not any("uw" in mapping.flags for mapping in mappings(record.process.pid)),
        _PROTECTION_LIMIT_S,
    )
    marker.take(monitor)


def _go_on_after_full_scratch(domain: Any, monitor: Monitor) -> None:
    """Let a guest run on that stands still because there was no room for old content; its write is then done again.

    One that stands still because its own disk is full does so again at once.
    """
    if monitor.execute("query-status")["status"] == "io-error":
        LOG.warning("%s stood still for want of room for its disks' old content", domain.name())
        domain.resume()


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
