"""A disk's content at one instant, held while the guest goes on writing (QEMU: image fleecing, ``docs/interop``).

Before the pause a scratch image is added whose backing is the live disk. In the pause one transaction starts, for all disks, a
job that copies a block's old content into the scratch image before the guest overwrites it. After the pause each scratch image
is exported over NBD. This is what ``virDomainBackupBegin`` does too; done through it, it stood for 33–41 ms of the pause (two
disks), against 2–3 ms here, because it creates, labels and saves its state within the call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import socket
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from nova_trusted_clone.hypervisor.base import FreezeBusy, FreezeFailed, MonitorError
from nova_trusted_clone.hypervisor.qemu import definition
from nova_trusted_clone.hypervisor.qemu.journal import FrozenDisk
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor, await_condition

_NBD_DESCRIPTOR = "ntc-nbd"
# Ends of jobs wait for requests in flight on the disk.
JOB_END_LIMIT_S = 30.0
# What a reservation leaves for the captured memory and everybody else.
SPARE_BYTES = 2 << 30
# With less than that nothing is begun: ``sources`` would end the freeze at once (LOW_SPACE_BYTES).
LEAST_BYTES = 256 << 20
LOG = logging.getLogger(__name__)


def plan(
    monitor: Monitor, disks: Iterable[definition.Disk], directory: pathlib.Path, first_fdset: int
) -> tuple[FrozenDisk, ...]:
    """What will hold each disk; nothing is done yet.

    :raises FreezeFailed: QEMU does not know a disk
    """
    devices: list[Mapping[str, Any]] = monitor.execute("query-block")
    found = []
    for number, disk in enumerate(disks):
        device = next((d for d in devices if disk.alias in str(d.get("qdev")).split("/")), None)
        if device is None or "inserted" not in device:
            raise FreezeFailed(f"disk {disk.target}: QEMU has no device {disk.alias} with a medium")
        inserted = device["inserted"]
        found.append(
            FrozenDisk(
                target=disk.target,
                node=str(inserted["node-name"]),
                size_bytes=int(inserted["image"]["virtual-size"]),
                scratch=str(directory / f"scratch-{disk.target}.qcow2"),
                fdset=first_fdset + number,
                read_only=disk.read_only,
                image=disk.path,
            )
        )
    return tuple(found)


def require_idle(monitor: Monitor) -> None:
    """Refuse while a job or another export uses the disks.

    :raises FreezeBusy: names them
    """
    jobs = [str(job["id"]) for job in monitor.execute("query-jobs")]
    exports = [str(export["id"]) for export in monitor.execute("query-block-exports")]
    if jobs or exports:
        raise FreezeBusy(f"the server's disks are in use by {', '.join(jobs + exports)}")


def prepare(monitor: Monitor, disks: Iterable[FrozenDisk], nbd_socket: pathlib.Path) -> None:
    """Before the pause: scratch images and the NBD server."""
    if not disks:
        return
    for disk in _written(disks):
        command = ["qemu-img", "create", "-q", "-f", "qcow2", disk.scratch, str(disk.size_bytes)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise FreezeFailed(f"{disk.scratch}: {made.stderr.strip()}")
        descriptor = os.open(disk.scratch, os.O_RDWR | os.O_CLOEXEC)
        try:
            _reserve(descriptor, disk)
            monitor.execute_with_file(descriptor, "add-fd", fdset_id=disk.fdset)
        finally:
            os.close(descriptor)
        monitor.execute(
            "blockdev-add",
            driver="qcow2",
            node_name=disk.scratch_node,
            backing=disk.node,
            discard="unmap",
            file={
                "driver": "file",
                "filename": f"/dev/fdset/{disk.fdset}",
                "node-name": f"{disk.scratch_node}-file",
            },
        )
    start_server(monitor, nbd_socket)


def _reserve(descriptor: int, disk: FrozenDisk) -> None:
    """Give the scratch image all the room that it can ever need, where that leaves enough for everything else.

    Where old content cannot be copied for want of room, QEMU 7.2 fails the guest's own write. A disk that is larger than the
    room is frozen all the same, as a guest overwrites little of it in the minutes of a clone; ``sources`` ends that freeze in
    time.
    """
    # Tables of a qcow2 image: 8 bytes and 2 bytes for each 64 KiB, and a few clusters.
    needed = disk.size_bytes + disk.size_bytes // 4096 + (1 << 20)
    found = os.fstatvfs(descriptor)
    free = found.f_bavail * found.f_frsize
    if free < LEAST_BYTES:
        raise FreezeFailed(
            f"{disk.scratch}: No space left on device: {free >> 20} MiB are free, a freeze needs {LEAST_BYTES >> 20} MiB"
        )
    if free >= needed + SPARE_BYTES:
        os.posix_fallocate(descriptor, 0, needed)
    else:
        LOG.warning(
            "disk %s: %d MiB for its old content are not reserved", disk.target, needed >> 20
        )


def start_server(monitor: Monitor, nbd_socket: pathlib.Path) -> None:
    """Have QEMU serve NBD on a socket that is made here, so that QEMU needs no right to its directory."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(nbd_socket))
        nbd_socket.chmod(0o600)
        listening.listen(16)
        monitor.execute_with_file(listening.fileno(), "getfd", fdname=_NBD_DESCRIPTOR)
    monitor.execute("nbd-server-start", addr={"type": "fd", "data": {"str": _NBD_DESCRIPTOR}})


def flush(monitor: Monitor, disks: Iterable[FrozenDisk]) -> None:
    """Before the pause: write out what QEMU and the kernel hold of the disks.

    Stopping a guest flushes its disks while it stands still already. What is flushed just before costs nothing then: 1 to 3 ms
    a freeze, and tens of milliseconds after the guest has written much. Where it cannot be done the stop does all of it.

    The kernel first, which may have gigabytes to write: it needs none of QEMU's locks, while QEMU holds its big one.
    """
    for disk in _written(disks):
        _write_out(disk)
    for disk in _written(disks):
        answer = monitor.human(f'qemu-io {disk.node} "flush"').strip()
        if answer:
            LOG.info("disk %s is flushed in the pause: %s", disk.target, answer)


def _write_out(disk: FrozenDisk) -> None:
    try:
        descriptor = os.open(disk.image, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        LOG.info("disk %s is written out by QEMU: %s", disk.target, error)


def hold(monitor: Monitor, disks: Iterable[FrozenDisk]) -> None:
    """In the pause: from now on old content is kept. All disks or none.

    QEMU 7.2 reads a command byte by byte, 6 ms a thousand: one disk is held without the words of a transaction.
    """
    jobs = [
        {
            "job-id": disk.job,
            "device": disk.node,
            "target": disk.scratch_node,
            "sync": "none",
        }
        for disk in _written(disks)
    ]
    if len(jobs) == 1:
        monitor.execute("blockdev-backup", **jobs[0])
    elif jobs:
        actions = [{"type": "blockdev-backup", "data": job} for job in jobs]
        monitor.execute("transaction", actions=actions)


def export(monitor: Monitor, disks: Iterable[FrozenDisk], *, live: bool = False) -> None:
    """After the pause: serve the frozen content, read-only; or ``live``, before it, the content as it is."""
    for disk in disks:
        monitor.execute(
            "block-export-add",
            type="nbd",
            id=disk.export,
            node_name=disk.node if live or disk.read_only else disk.scratch_node,
            name=disk.target,
            writable=False,
        )


def undo(monitor: Monitor, disks: Iterable[FrozenDisk]) -> None:
    """Take all of it off again, whatever of it is there.

    :raises HypervisorError: a job or an export does not end
    """
    disks = tuple(disks)
    mine = {disk.export for disk in disks}
    for export_id in mine & _names(monitor, "query-block-exports", "id"):
        monitor.execute("block-export-del", id=export_id, mode="hard")
    await_condition(
        "the end of the exports",
        lambda: not mine & _names(monitor, "query-block-exports", "id"),
        JOB_END_LIMIT_S,
    )
    jobs = {disk.job for disk in disks}
    for job in jobs & _names(monitor, "query-jobs", "id"):
        # It may end by itself in between: then it is unknown, which is what is wanted.
        with contextlib.suppress(MonitorError):
            monitor.execute("block-job-cancel", device=job, force=True)
    await_condition(
        "the end of the copying jobs",
        lambda: not jobs & _names(monitor, "query-jobs", "id"),
        JOB_END_LIMIT_S,
    )
    nodes = _names(monitor, "query-named-block-nodes", "node-name")
    for disk in disks:
        if disk.scratch_node in nodes:
            monitor.execute("blockdev-del", node_name=disk.scratch_node)
    if disks:
        _stop_server(monitor)


def _stop_server(monitor: Monitor) -> None:
    try:
        monitor.execute("nbd-server-stop")
    except MonitorError as error:
        if "not running" not in str(error):
            raise
    forget_descriptor(monitor, _NBD_DESCRIPTOR)


def forget_descriptor(monitor: Monitor, name: str) -> None:
    """Close a descriptor that was handed over by name; harmless when it was used up."""
    try:
        monitor.execute("closefd", fdname=name)
    except MonitorError as error:
        if "not found" not in str(error):
            raise


def forget_fdsets(monitor: Monitor, fdsets: Iterable[int]) -> None:
    """Close descriptors that were handed over in sets; harmless when there are none."""
    there = {int(one["fdset-id"]) for one in monitor.execute("query-fdsets")}
    for fdset in there & set(fdsets):
        monitor.execute("remove-fd", fdset_id=fdset)


def _written(disks: Iterable[FrozenDisk]) -> list[FrozenDisk]:
    """Those that the guest may write to; the others stay as they are by themselves."""
    return [disk for disk in disks if not disk.read_only]


def _names(monitor: Monitor, command: str, key: str) -> set[str]:
    return {str(one[key]) for one in monitor.execute(command) if key in one}
