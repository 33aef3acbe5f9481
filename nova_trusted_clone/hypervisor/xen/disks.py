"""A Xen server's disks at the instant of the freeze: in the QEMU that serves them the same parts as in QEMU's own servers."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nova_trusted_clone.hypervisor.base import FreezeFailed, HypervisorError
from nova_trusted_clone.hypervisor.qemu.definition import Disk
from nova_trusted_clone.hypervisor.qemu.journal import FrozenDisk
from nova_trusted_clone.hypervisor.xen.monitor import XenMonitor

FIRST_FDSET = 746400
PULL_LIMIT_S = 3600.0
_JOB = "ntc-pull-{number}"


def plan(
    monitor: XenMonitor, disks: Iterable[Disk], directory: pathlib.Path
) -> tuple[FrozenDisk, ...]:
    """What will hold each disk; nothing is done yet.

    :raises FreezeFailed: QEMU does not serve a disk
    """
    nodes = _served(monitor)
    found = []
    for number, disk in enumerate(disks):
        inserted = nodes.get(disk.path)
        if inserted is None:
            raise FreezeFailed(
                f"disk {disk.target}: QEMU serves {', '.join(nodes) or 'nothing'}, not {disk.path}"
            )
        found.append(
            FrozenDisk(
                target=disk.target,
                node=str(inserted["node-name"]),
                size_bytes=int(inserted["image"]["virtual-size"]),
                scratch=str(directory / f"scratch-{disk.target}.qcow2"),
                fdset=FIRST_FDSET + number,
                read_only=disk.read_only,
            )
        )
    return tuple(found)


def _served(monitor: XenMonitor) -> dict[str, Mapping[str, Any]]:
    """What QEMU says of each image, by the file."""
    devices: Sequence[Mapping[str, Any]] = monitor.execute("query-block")
    found = [device["inserted"] for device in devices if "inserted" in device]
    return {str(inserted["image"]["filename"]): inserted for inserted in found}


def pull(monitor: XenMonitor, paths: Iterable[pathlib.Path]) -> None:
    """Copy what these images have in the store alone, so that they need it no longer.

    :raises HypervisorError: one could not be copied
    """
    for number, path in enumerate(paths):
        inserted = _served(monitor).get(str(path))
        if inserted is None or "backing-image" not in inserted["image"]:
            continue
        job = _JOB.format(number=number)
        monitor.execute("block-stream", job_id=job, device=inserted["node-name"], auto_dismiss=True)
        _await_end(monitor, job)
        if "backing-image" in _served(monitor)[str(path)]["image"]:
            raise HypervisorError(f"{path} still needs the store")


def _await_end(monitor: XenMonitor, job: str) -> None:
    deadline = time.monotonic() + PULL_LIMIT_S
    while any(one["id"] == job for one in monitor.execute("query-jobs")):
        if time.monotonic() > deadline:
            raise HypervisorError(f"job {job} did not end within {PULL_LIMIT_S:.0f} s")
        time.sleep(0.2)
