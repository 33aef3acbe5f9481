"""Freezing a running server, and taking the freeze off it again.

Before the pause all is made ready, in the pause (``pause``) nothing is done but what must be of one instant. What QEMU needs
(scratch images, the NBD server's socket, the device state's file) it gets as open descriptors; the exporter gets what it takes
the memory with (``handover``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import secrets
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.base import (
    FreezeBusy,
    FreezeFailed,
    HypervisorError,
    MonitorError,
    Obstacles,
    ReleaseFailed,
)
from nova_trusted_clone.hypervisor.qemu import (
    connection,
    definition,
    devicestate,
    diskfreeze,
    early,
    handover,
    hugepages,
    inspect,
    journal,
    marker,
    populate,
    ramblocks,
    regions,
    removal,
    userfault,
)
from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor, migration_status
from nova_trusted_clone.hypervisor.qemu.pause import Stopwatch, pause
from nova_trusted_clone.hypervisor.qemu.process import mappings, of_domain, open_memory
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock
from nova_trusted_clone.ports import Frozen, RegionSource, ServerShape

LOG = logging.getLogger(__name__)
# Far from what libvirt counts up from 0.
_FIRST_FDSET = 746300
# 0.1 s a GiB, and what a clone waits longer at most.
_COLLAPSE_BEFORE_S = 5.0


@dataclasses.dataclass(frozen=True)
class _Armed:
    """All that is ready when the pause begins."""

    record: FreezeRecord
    blocks: tuple[RamBlock, ...]
    device_file: int


class QemuSource:
    """``ports.SourceHypervisor`` for the libvirt at ``uri``."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def inspect(self, server_uuid: str) -> ServerShape:
        """Describe the server.

        :raises ServerNotFound: there is none
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find(libvirtd, server_uuid)
            found = inspect.shape(domain)
            if not found.running:
                return found
            process = of_domain(domain.UUIDString())
            more = tuple(inspect.process_obstacles(process))
            return dataclasses.replace(found, obstacles=found.obstacles + more)

    def offer_disks(self, server_uuid: str, directory: pathlib.Path) -> tuple[RegionSource, ...]:
        """Serve the disks as they are, before the freeze; ``release`` with the same directory ends it.

        :raises ServerNotFound: there is none
        :raises FreezeBusy: it is frozen, or its disks are served already; nothing was changed
        :raises FreezeFailed: it did not work out; all was taken off again
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find(libvirtd, server_uuid)
            monitor = Monitor(domain)
            if marker.owner(monitor) is not None:
                raise FreezeBusy("the server is frozen already: wait for that freeze to end")
            self._require_idle(domain, monitor)
            try:
                process = of_domain(domain.UUIDString())
                return early.offer(domain, monitor, process, directory, _FIRST_FDSET)
            except (HypervisorError, libvirt.libvirtError, OSError) as error:
                self.release(server_uuid, directory)
                raise FreezeFailed(f"server {server_uuid}: its disks: {error}") from error

    def freeze(
        self, server_uuid: str, directory: pathlib.Path, capture_socket: pathlib.Path
    ) -> Frozen:
        """Freeze memory, device state and disks at one instant and let the server run on.

        :raises ServerNotFound: there is none
        :raises Obstacles: it cannot be frozen; nothing was changed
        :raises FreezeBusy: it is frozen already; nothing was changed
        :raises FreezeFailed: it did not work out; all was taken off again
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find(libvirtd, server_uuid)
            found = inspect.shape(domain)
            if found.obstacles:
                raise Obstacles(found.obstacles)
            monitor = Monitor(domain)
            if marker.owner(monitor) is not None:
                raise FreezeBusy("the server is frozen already: wait for that freeze to end")
            self._require_idle(domain, monitor)
            try:
                return self._freeze(libvirtd, domain, monitor, directory, capture_socket)
            except FreezeBusy:
                # Another one was quicker: the mark is the other's, so nothing of ours was put onto the server.
                self.release(server_uuid, directory)
                raise
            except (HypervisorError, libvirt.libvirtError, OSError) as error:
                LOG.warning("freezing server %s: %s: taking it back", server_uuid, error)
                self.release(server_uuid, directory)
                raise FreezeFailed(f"server {server_uuid} was not frozen: {error}") from error

    @staticmethod
    def _require_idle(domain: Any, monitor: Monitor) -> None:
        if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            raise FreezeBusy("libvirt runs a job on the server (a backup, a migration, a save)")
        if migration_status(monitor) in removal.BUSY:
            raise FreezeBusy("QEMU's one migration is in use")
        diskfreeze.require_idle(monitor)

    def _freeze(
        self,
        libvirtd: Any,
        domain: Any,
        monitor: Monitor,
        directory: pathlib.Path,
        capture_socket: pathlib.Path,
    ) -> Frozen:
        watch = Stopwatch()
        with contextlib.ExitStack() as undo:
            handing = undo.enter_context(handover.Handing(capture_socket))
            with watch.step("prepare"):
                armed = self._arm(domain, monitor, directory)
            undo.callback(os.close, armed.device_file)
            with watch.step("hand over"):
                _hand_over(handing, armed, monitor)
            pause_s = pause(libvirtd, domain, monitor, armed.record, handing, watch)
            handing.say_frozen()
            journal.write(directory, dataclasses.replace(armed.record, resumed=True))
            with watch.step("after"):
                diskfreeze.export(monitor, armed.record.disks)
            state = _take(armed.device_file)
        diskfreeze.forget_fdsets(monitor, (armed.record.device_fdset,))
        stripped, blobs = devicestate.take_vtpm(state)
        _write_private(directory / regions.DEVICE_STATE, stripped)
        text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE)
        _write_private(directory / regions.DOMAIN, text.encode())
        described = regions.described(directory, armed.record, armed.blocks)
        return Frozen(described, pause_s, blobs, tuple(watch.steps.items()))

    # -- before the pause ---------------------------------------------------------------------------------------------

    def _arm(self, domain: Any, monitor: Monitor, directory: pathlib.Path) -> _Armed:
        process = of_domain(domain.UUIDString())
        if obstacles := inspect.process_obstacles(process):
            raise Obstacles(obstacles)
        root = definition.parse(domain.XMLDesc(0))
        disks = diskfreeze.plan(monitor, definition.disks(root), directory, _FIRST_FDSET + 1)
        record = FreezeRecord(
            server_uuid=domain.UUIDString(),
            token=f"{directory.name}/{secrets.token_hex(16)}",
            process=process,
            device_fdset=_FIRST_FDSET,
            disks=disks,
            files=(
                *(disk.scratch for disk in disks),
                *(str(directory / name) for name in regions.FILES),
            ),
        )
        journal.write(directory, record)
        marker.put(monitor, record.token)
        diskfreeze.prepare(monitor, disks, directory / regions.NBD_SOCKET)
        device_file = _device_file(monitor)
        blocks = ramblocks.locate(monitor, process.pid, mappings(process.pid))
        if lost := [block.name for block in blocks if block.address is None]:
            raise FreezeFailed(f"memory blocks {', '.join(lost)}: where they lie cannot be told")
        for block in blocks:
            populate.populate(process, block)
        hugepages.collapse(process, blocks, _COLLAPSE_BEFORE_S)
        return _Armed(record, blocks, device_file)

    # -- off again ----------------------------------------------------------------------------------------------------

    def release(self, server_uuid: str, directory: pathlib.Path) -> None:
        """Take everything that a freeze put onto the server off again; resume it if it was left paused; repeatable.

        :raises ReleaseFailed: something is left; the record stays, so that it can be repeated
        """
        record = journal.read(directory)
        if record is None:
            return
        if record.server_uuid != server_uuid:
            raise ReleaseFailed(f"{directory}: it is a freeze of server {record.server_uuid}")
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find_or_none(libvirtd, server_uuid)
            if domain is not None and domain.isActive() and record.process.alive():
                try:
                    removal.take_off(domain, Monitor(domain), record)
                except (HypervisorError, libvirt.libvirtError) as error:
                    # A server that ended meanwhile took all of it along.
                    if record.process.alive():
                        raise ReleaseFailed(f"server {server_uuid}: {error}") from error
        for name in record.files:
            pathlib.Path(name).unlink(missing_ok=True)
        journal.remove(directory)


def _hand_over(handing: handover.Handing, armed: _Armed, monitor: Monitor) -> None:
    """Give the exporter what it takes the memory with. It alone holds the protection from then on, as long as it lives."""
    process = armed.record.process
    with contextlib.ExitStack() as closing:
        protection = userfault.borrow(monitor, process)
        closing.callback(protection.close)
        for block in armed.blocks:
            assert block.address is not None
            try:
                protection.register(block.address, block.maximum_bytes)
            except OSError as error:
                raise FreezeFailed(
                    f"memory block {block.name}: it cannot be protected: {error}"
                ) from error
        files = open_memory(process)
        for descriptor in files:
            closing.callback(os.close, descriptor)
        handing.give(process, armed.blocks, (protection.descriptor, *files))


def _device_file(monitor: Monitor) -> int:
    """A file in memory for the device state, handed to QEMU: it holds the vTPM's secrets and never meets a disk."""
    reading = os.memfd_create("device-state", os.MFD_CLOEXEC)
    writing = os.open(f"/proc/self/fd/{reading}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        monitor.execute_with_file(writing, "add-fd", fdset_id=_FIRST_FDSET)
    except MonitorError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading


def _take(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, min(size, devicestate.MAX_DEVICE_STATE_BYTES + 1), 0)


def _write_private(path: pathlib.Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
