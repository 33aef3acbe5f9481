"""What a server is, and what stands in the way of cloning it. Nothing is changed here."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.qemu import definition
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.ports import DiskShape, NicShape, ServerShape

_UFFD_SYSCTL = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")


def shape(domain: Any) -> ServerShape:
    """Describe a domain."""
    root = definition.parse(domain.XMLDesc(0))
    state, _reason = domain.state()
    running = state == libvirt.VIR_DOMAIN_RUNNING
    disks = definition.disks(root)
    return ServerShape(
        uuid=domain.UUIDString(),
        name=domain.name(),
        memory_bytes=domain.maxMemory() << 10,
        running=running,
        disks=tuple(
            DiskShape(disk.target, _virtual_size(domain, disk), disk.image_format, disk.path)
            for disk in disks
        ),
        nics=tuple(NicShape(alias, mac) for alias, mac in definition.nics(root)),
        has_vtpm=root.find("devices/tpm") is not None,
        has_generation_id=root.find("genid") is not None,
        vtpm_secret=definition.vtpm_secret(root),
        obstacles=tuple(
            ([] if running else ["the server is not running"])
            + device_obstacles(root)
            + memory_obstacles(root)
            + [reason for disk in disks for reason in disk_obstacles(disk)]
        ),
    )


def device_obstacles(root: ET.Element) -> list[str]:
    """Devices whose state cannot be taken along, and firmware that keeps state elsewhere."""
    found = []
    for element in root.iterfind("devices/hostdev"):
        kind = "a mediated device (vGPU)" if element.get("type") == "mdev" else "a host device"
        found.append(f"{kind} is passed through to the server")
    if any(i.get("type") == "hostdev" for i in root.iterfind("devices/interface")):
        found.append("a network interface is a host device passed through (SR-IOV)")
    if any(i.get("type") in ("vdpa", "vhostuser") for i in root.iterfind("devices/interface")):
        found.append("a network interface shares the server's memory with another process")
    if root.find("devices/filesystem") is not None:
        found.append("a file system of the host is shared with the server")
    if root.find("launchSecurity") is not None:
        found.append("the server's memory is encrypted (SEV or TDX)")
    if root.find("os/nvram") is not None:
        found.append("the server's firmware keeps its variables in a file (UEFI)")
    if len(root.findall("devices/tpm")) > 1:
        found.append("the server has more than one vTPM")
    found.extend(
        f"the vTPM is of type {backend.get('type')}, only an emulator's state can be taken along"
        for backend in root.iterfind("devices/tpm/backend")
        if backend.get("type") != "emulator"
    )
    return found


def memory_obstacles(root: ET.Element) -> list[str]:
    """Memory that cannot be write-protected, or that has more than one part."""
    found = []
    if root.find("memoryBacking/hugepages") is not None:
        found.append("the server's memory is on huge pages")
    source = root.find("memoryBacking/source")
    if source is not None and source.get("type") == "file":
        found.append(
            "the server's memory is a file's and cannot be write-protected "
            "(a clone that was started lazily cannot be cloned itself until it was stopped and started)"
        )
    if root.find("cpu/numa/cell") is not None or root.find("numatune") is not None:
        found.append("the server has NUMA cells, or its memory is bound to NUMA nodes of the host")
    if root.find("cputune/vcpupin") is not None:
        found.append("the server's processors are pinned to processors of the host")
    if root.find("devices/memory") is not None:
        found.append("the server has plugged memory (DIMM, NVDIMM or virtio-mem)")
    if root.find("devices/shmem") is not None:
        found.append("the server shares memory with the host (ivshmem)")
    return found


def disk_obstacles(disk: definition.Disk) -> list[str]:
    """Disks that are not a local file of the server alone."""
    found = []
    if disk.device != "disk" and not (disk.device == "cdrom" and disk.read_only):
        found.append(f"disk {disk.target}: a {disk.device} with a medium that can be written to")
    if disk.kind not in ("file", "block"):
        found.append(f"disk {disk.target}: a {disk.kind} volume; only local disks can be cloned")
    return found + definition.image_obstacles(disk)


def process_obstacles(process: ProcessId) -> list[str]:
    """QEMU as another user than root needs the host's leave to protect its memory."""
    user, _group = process.owner()
    if user == 0 or _UFFD_SYSCTL.read_text().strip() == "1":
        return []
    return [
        "the host does not let QEMU write-protect its memory: set vm.unprivileged_userfaultfd=1 by sysctl"
    ]


def _virtual_size(domain: Any, disk: definition.Disk) -> int:
    capacity, _allocation, _physical = domain.blockInfo(disk.target)
    return int(capacity)
