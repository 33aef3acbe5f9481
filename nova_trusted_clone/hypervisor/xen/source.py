"""Freezing a running Xen domain, and taking the freeze off it again.

Its memory is copied while it runs, page by page as Xen's log-dirty mode tells which were written to since; what is left is
copied while it stands still, and in the same moment its disks are held. Then it goes on as if nothing had been. A domain for
which Xen cannot log (PV) stands still for the whole copy; the saver's probe decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.base import (
    FreezeBusy,
    FreezeFailed,
    HypervisorError,
    Obstacles,
    ReleaseFailed,
)
from nova_trusted_clone.hypervisor.qemu import connection, definition, diskfreeze
from nova_trusted_clone.hypervisor.qemu.journal import FrozenDisk
from nova_trusted_clone.hypervisor.xen import (
    disks,
    identity,
    inspect,
    journal,
    monitor,
    saver,
    saving,
)
from nova_trusted_clone.hypervisor.xen.journal import FreezeRecord
from nova_trusted_clone.hypervisor.xen.monitor import XenMonitor
from nova_trusted_clone.hypervisor.xen.records import PAGE
from nova_trusted_clone.hypervisor.xen.saving import Saver
from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms
from nova_trusted_clone.ports import Frozen, RegionSource, ServerShape

LOG = logging.getLogger(__name__)
NBD_SOCKET = "nbd.sock"
DOMAIN = "domain.xml"
SAVER_LOG = "saver.log"
LOCKS = pathlib.Path("/run/lock")


class XenSource:
    """``ports.SourceHypervisor`` for the libvirt at ``uri``, which is this host's.

    :param vtpms: the vTPMs that this host keeps for its domains
    """

    def __init__(self, uri: str, vtpms: HostVtpms) -> None:
        self._uri = uri
        self._vtpms = vtpms

    def inspect(self, server_uuid: str) -> ServerShape:
        """Describe the server.

        :raises ServerNotFound: there is none
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find(libvirtd, server_uuid)
            return inspect.shape(domain, has_vtpm=self._vtpms.has(server_uuid))

    def offer_disks(self, server_uuid: str, directory: pathlib.Path) -> tuple[RegionSource, ...]:
        """Serve the disks as they are, before the freeze; ``release`` with the same directory ends it.

        :raises ServerNotFound: there is none
        :raises FreezeBusy: they are served already; nothing was changed
        :raises FreezeFailed: it did not work out; all was taken off again
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find(libvirtd, server_uuid)
            try:
                with _monitor(domain) as qemu:
                    found = self._planned(domain, qemu, directory)
                    journal.write(directory, _record(domain, found, directory))
                    if qemu is not None:
                        diskfreeze.start_server(qemu, directory / NBD_SOCKET)
                        diskfreeze.export(qemu, found, live=True)
            except FreezeBusy:
                raise
            except (HypervisorError, libvirt.libvirtError, OSError) as error:
                self.release(server_uuid, directory)
                raise FreezeFailed(f"server {server_uuid}: its disks: {error}") from error
            return tuple(_disk_region(disk, directory) for disk in found)

    def freeze(
        self, server_uuid: str, directory: pathlib.Path, capture_socket: pathlib.Path
    ) -> Frozen:
        """Freeze memory, device state and disks at one instant and let the server run on; ``capture_socket`` is not used.

        :raises ServerNotFound: there is none
        :raises Obstacles: it cannot be frozen; nothing was changed
        :raises FreezeBusy: it is frozen already; nothing was changed
        :raises FreezeFailed: it did not work out; all was taken off again
        """
        with connection.connected(self._uri) as libvirtd, _alone_with(server_uuid):
            domain = connection.find(libvirtd, server_uuid)
            if obstacles := self.inspect(server_uuid).obstacles:
                raise Obstacles(obstacles)
            try:
                return self._freeze(domain, directory)
            except FreezeBusy:
                raise
            except (HypervisorError, libvirt.libvirtError, OSError) as error:
                LOG.warning("freezing server %s: %s: taking it back", server_uuid, error)
                self.release(server_uuid, directory)
                raise FreezeFailed(f"server {server_uuid} was not frozen: {error}") from error

    def _freeze(self, domain: Any, directory: pathlib.Path) -> Frozen:
        number, memory_bytes = domain.ID(), domain.maxMemory() << 10
        with _monitor(domain) as qemu:
            found = self._planned(domain, qemu, directory)
            record = _record(domain, found, directory)
            journal.write(directory, record)
            if qemu is not None:
                diskfreeze.prepare(qemu, found, directory / NBD_SOCKET)
            arguments = ("save", str(number), str(directory), str(memory_bytes))
            with Saver(*arguments, log=directory / SAVER_LOG) as process:
                record = dataclasses.replace(record, saver=process.identity)
                journal.write(directory, record)
                ready = process.await_event("ready", saving.START_LIMIT_S)
                process.say("save")
                process.await_event("suspended", saving.SAVE_LIMIT_S)
                if qemu is not None:
                    _have_disks_again(domain, qemu)
                    diskfreeze.hold(qemu, found)
                process.say("resume")
                told = process.await_event("resumed", saving.RESUME_LIMIT_S)
                journal.write(directory, dataclasses.replace(record, resumed=True))
                saved = process.await_event("saved", saving.SAVE_LIMIT_S)
            if qemu is not None:
                diskfreeze.export(qemu, found)
        text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        saver.write_private(directory / DOMAIN, text.encode())
        LOG.info("server %s: frozen, %s: %s, %s", domain.UUIDString(), ready, told, saved)
        return Frozen(
            regions=_regions(directory, saved["ranges"], found),
            pause_s=float(told["pause_s"]),
            vtpm=self._vtpms.read(domain.UUIDString()),
            steps=tuple((name, float(told[f"{name}_s"])) for name in ("copy", "final", "resume")),
        )

    @staticmethod
    def _planned(
        domain: Any, qemu: XenMonitor | None, directory: pathlib.Path
    ) -> tuple[FrozenDisk, ...]:
        if qemu is None:
            return ()
        diskfreeze.require_idle(qemu)
        return disks.plan(qemu, definition.disks(definition.parse(domain.XMLDesc(0))), directory)

    def release(self, server_uuid: str, directory: pathlib.Path) -> None:
        """Take everything that a freeze put onto the server off again; resume it if it was left suspended; repeatable.

        :raises ReleaseFailed: something is left; the record stays, so that it can be repeated
        """
        record = journal.read(directory)
        if record is None:
            return
        if record.server_uuid != server_uuid:
            raise ReleaseFailed(f"{directory}: it is a freeze of server {record.server_uuid}")
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find_or_none(libvirtd, server_uuid)
            if domain is not None and domain.isActive() and domain.ID() == record.domain:
                try:
                    self._release(domain, record, directory)
                except (HypervisorError, libvirt.libvirtError) as error:
                    raise ReleaseFailed(f"server {server_uuid}: {error}") from error
        for name in record.files:
            pathlib.Path(name).unlink(missing_ok=True)
        journal.remove(directory)

    @staticmethod
    def _release(domain: Any, record: FreezeRecord, directory: pathlib.Path) -> None:
        if record.saver is not None:
            saving.end(record.saver)
            if not record.resumed:
                saving.let_run(record.domain, directory / SAVER_LOG)
        if record.disks:
            with monitor.connected(domain.ID()) as qemu:
                diskfreeze.undo(qemu, record.disks)
                diskfreeze.forget_fdsets(qemu, [disk.fdset for disk in record.disks])


def _record(domain: Any, found: tuple[FrozenDisk, ...], directory: pathlib.Path) -> FreezeRecord:
    names = (NBD_SOCKET, DOMAIN, SAVER_LOG, saver.MEMORY, saver.DEVICE_STATE)
    files = (*(disk.scratch for disk in found), *(str(directory / name) for name in names))
    return FreezeRecord(domain.UUIDString(), domain.ID(), found, files)


@contextlib.contextmanager
def _monitor(domain: Any) -> Iterator[XenMonitor | None]:
    """The QEMU that serves the domain's disks; none where it has none."""
    if not definition.disks(definition.parse(domain.XMLDesc(0))):
        yield None
        return
    with monitor.connected(domain.ID()) as qemu:
        yield qemu


def _have_disks_again(domain: Any, qemu: XenMonitor) -> None:
    """The device model of a saved HVM domain has given its images up, for another host to take (``xen-save-devices-state``).

    It goes on here, a little sooner than libxl has it go on; the domain itself still stands.
    """
    root = definition.parse(domain.XMLDesc(0))
    if root.findtext("os/type") == identity.FULL and not qemu.execute("query-status")["running"]:
        qemu.execute("cont")


@contextlib.contextmanager
def _alone_with(server_uuid: str) -> Iterator[None]:
    """One freeze of a server at a time; the kernel lets go of this when the process ends, however it ends.

    :raises FreezeBusy: there is another
    """
    with (LOCKS / f"nova-trusted-clone-{server_uuid}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FreezeBusy(
                "the server is being frozen already: wait for that freeze to end"
            ) from error
        yield


def _disk_region(disk: FrozenDisk, directory: pathlib.Path) -> RegionSource:
    source = {"type": "nbd", "socket": str(directory / NBD_SOCKET), "export": disk.target}
    return RegionSource("disk", disk.target, disk.size_bytes, source)


def _regions(
    directory: pathlib.Path, ranges: list[tuple[str, int, int]], found: tuple[FrozenDisk, ...]
) -> tuple[RegionSource, ...]:
    memory = str(directory / saver.MEMORY)
    regions = [
        RegionSource(
            "ram", name, count * PAGE, {"type": "file", "path": memory, "offset": first * PAGE}
        )
        for name, first, count in ranges
    ]
    regions += [_disk_region(disk, directory) for disk in found]
    for kind, name in (("device", saver.DEVICE_STATE), ("domain", DOMAIN)):
        path = directory / name
        regions.append(
            RegionSource(kind, kind, path.stat().st_size, {"type": "file", "path": str(path)})
        )
    return tuple(regions)
