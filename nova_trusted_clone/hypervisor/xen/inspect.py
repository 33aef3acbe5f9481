"""What a Xen server is, and what stands in the way of cloning it. Nothing is changed here."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import definition
from nova_trusted_clone.hypervisor.xen import processors, proof
from nova_trusted_clone.ports import DiskShape, NicShape, ServerShape


def shape(domain: Any, *, has_vtpm: bool) -> ServerShape:
    """Describe a domain.

    :param has_vtpm: whether this host keeps a vTPM for it
    """
    root = definition.parse(domain.XMLDesc(0))
    state, _reason = domain.state()
    # libxl's driver says of a domain that waits for an interrupt that it is blocked; both are running.
    running = state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)
    disks = definition.disks(root)
    found = [] if running else ["the server is not running"]
    found += driver_obstacles(domain) if running else []
    found += device_obstacles(root)
    found += [reason for disk in disks for reason in disk_obstacles(disk)]
    return ServerShape(
        uuid=domain.UUIDString(),
        name=domain.name(),
        memory_bytes=domain.maxMemory() << 10,
        running=running,
        disks=tuple(
            DiskShape(disk.target, virtual_size(disk), disk.image_format, disk.path)
            for disk in disks
            if not disk_obstacles(disk)
        ),
        nics=tuple(NicShape(alias, mac) for alias, mac in definition.nics(root)),
        has_vtpm=has_vtpm,
        has_generation_id=False,
        obstacles=tuple(found),
    )


def driver_obstacles(domain: Any) -> list[str]:
    """Devices that the guest does not use by Xen's own protocol, as an HVM guest may with emulated ones.

    An emulated card has its MAC in its state, so a clone of it would speak as its source.
    """
    left = proof.unconnected(domain)
    if not left:
        return []
    return [
        f"{left} of the server's disks and network cards are not connected by its Xen drivers: "
        "is it still booting, or does it use emulated ones?"
    ]


def device_obstacles(root: ET.Element) -> list[str]:
    """Devices whose state cannot be taken along."""
    found = []
    if root.find("devices/hostdev") is not None:
        found.append("a host device is passed through to the server")
    if any(i.get("type") == "hostdev" for i in root.iterfind("devices/interface")):
        found.append("a network interface is a host device passed through (SR-IOV)")
    if root.find("devices/filesystem") is not None:
        found.append("a file system of the host is shared with the server")
    if processors.are_pinned_singly(root):
        found.append("the server's processors are pinned to processors of the host")
    if root.find("vcpu[@current]") is not None:
        found.append("the server has processors that are not plugged in")
    return found


def disk_obstacles(disk: definition.Disk) -> list[str]:
    """Disks that are not a local file of the server alone, served by QEMU (qdisk)."""
    found = []
    if disk.device != "disk":
        found.append(f"disk {disk.target}: a {disk.device}; only disks can be cloned on Xen")
    if disk.kind != "file":
        found.append(
            f"disk {disk.target}: a {disk.kind} volume; only files, which QEMU serves, can be cloned on Xen"
        )
    return found + definition.image_obstacles(disk)


def virtual_size(disk: definition.Disk) -> int:
    """What the guest sees, bytes; libxl's driver does not tell it.

    :raises HypervisorError: the image cannot be read
    """
    command = [
        "qemu-img",
        "info",
        "--force-share",
        "--output=json",
        "-f",
        disk.image_format,
        disk.path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HypervisorError(f"{disk.path}: {done.stderr.strip()}")
    return int(json.loads(done.stdout)["virtual-size"])
