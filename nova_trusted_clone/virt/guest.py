"""What Nova decided about a clone, read from the guest XML that Nova itself makes for it.

Nova's XML (``nova.virt.libvirt.driver.LibvirtDriver._get_guest_xml``) says which ports, which image files and which vTPM
secret the new server has. The clone's definition is the source's, verified; only these host-side parts come from here.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping

from nova_trusted_clone.ports import HostSide, Identity, NicIdentity

# Nova's own prefix, so that the clone's metadata reads as any other server's.
ET.register_namespace("nova", "http://openstack.org/xmlns/libvirt/nova/1.1")

# Devices that Nova may give a server and that no frozen state goes with; each with the words for the one who asks.
BOOT_FILES = ("kernel", "initrd")
CHARACTERS = ("serial", "console", "channel")
REFUSED = {
    "hostdev": "a device of the host is passed through to it",
    "filesystem": "a share is mounted in it",
    "shmem": "it shares memory with the host",
}


class UnfitGuest(Exception):
    """Nova made a guest that no clone can be: the message says of what kind."""


def immovable(running_xml: str) -> str | None:
    """Why a server cannot be migrated while it runs; None when it can.

    A clone runs on memory that its store holds as files, until it is stopped. Nova leaves a memory's backing out of what it
    gives to the other host's libvirt, which then refuses, with both hosts prepared already.

    :param running_xml: as libvirt has it now
    """
    source = ET.fromstring(running_xml).find("memoryBacking/source")
    if source is None or source.get("type") != "file":
        return None
    return (
        "the server is a clone that still runs on the memory it was restored into; "
        "a live migration is possible after it was stopped and started, or rebooted hard"
    )


def identity(name: str, uuid: str, guest_xml: str) -> Identity:
    """Who the clone is and where its parts lie on this host.

    :param guest_xml: as Nova made it for the clone, not for the source
    :raises UnfitGuest: when it has a part that cannot be cloned
    """
    root = ET.fromstring(guest_xml)
    devices = root.find("devices")
    if devices is None:
        raise UnfitGuest("Nova made a guest without devices")
    boot = {one.tag: one.text or "" for one in root.iterfind("os/*") if one.tag in BOOT_FILES}
    # QEMU has them in the memory that it serves to the firmware; Xen's tools load them before a guest's first instruction.
    if boot and root.get("type") != "xen":
        raise UnfitGuest("its image has a kernel of its own (kernel_id), which lies on its host")
    for tag, words in REFUSED.items():
        if devices.find(tag) is not None:
            raise UnfitGuest(words)
    interfaces = devices.findall("interface")
    return Identity(
        name=name,
        uuid=uuid,
        nics=tuple(NicIdentity(_mac(interface)) for interface in interfaces),
        host_side=HostSide(
            interfaces=_texts(interfaces),
            disks=_disks(devices),
            metadata=_metadata(root),
            console_log=_console_log(devices),
            graphics=_texts(devices.findall("graphics")),
            characters=_texts([one for one in devices if one.tag in CHARACTERS]),
            cpuset=_cpuset(root),
            vtpm_secret=_vtpm_secret(devices),
            boot=boot,
            persistent=True,
        ),
    )


def with_generation_id(guest_xml: str) -> str:
    """Add an empty ``<genid/>``, which libvirt fills at each start: a running guest sees it change only in a clone.

    Only x86 guests with ACPI have the device; any other definition stays as it is. Nova always names the machine.
    """
    root = ET.fromstring(guest_xml)
    machine = root.find("os/type[@machine]")
    if (
        root.get("type") not in ("kvm", "qemu")
        or machine is None
        or not machine.get("machine", "").startswith(("pc", "q35"))
        or root.find("features/acpi") is None
        or root.find("genid") is not None
    ):
        return guest_xml
    # The first <uuid> is the domain's own; everything else stays as Nova wrote it.
    return guest_xml.replace("</uuid>", "</uuid>\n  <genid/>", 1)


def _mac(interface: ET.Element) -> str:
    mac = interface.find("mac")
    address = mac.get("address") if mac is not None else None
    if address is None:
        raise UnfitGuest("a network interface has no MAC address")
    if interface.get("type") in ("hostdev", "vdpa", "vhostuser"):
        raise UnfitGuest(f"its port {address} is of type {interface.get('type')}")
    return address.lower()


def _disks(devices: ET.Element) -> Mapping[str, str]:
    found = {}
    for disk in devices.findall("disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is None or target is None:
            continue  # a drive without a medium
        name = target.get("dev", "")
        path = source.get("file")
        if disk.get("type") != "file" or path is None:
            raise UnfitGuest(f"its disk {name} is a {disk.get('type')}, not an image file")
        found[name] = path
    return found


def _texts(elements: list[ET.Element]) -> tuple[str, ...]:
    return tuple(ET.tostring(element, encoding="unicode") for element in elements)


def _cpuset(root: ET.Element) -> str | None:
    vcpu = root.find("vcpu")
    return vcpu.get("cpuset") if vcpu is not None else None


def _metadata(root: ET.Element) -> str:
    element = root.find("metadata")
    return ET.tostring(element, encoding="unicode") if element is not None else ""


def _console_log(devices: ET.Element) -> str | None:
    for kind in ("serial", "console"):
        for device in devices.findall(kind):
            log, source = device.find("log"), device.find("source")
            if log is not None and log.get("file"):
                return log.get("file")
            if device.get("type") == "file" and source is not None:
                return source.get("path")
    return None


def _vtpm_secret(devices: ET.Element) -> str | None:
    encryption = devices.find("tpm/backend/encryption")
    return encryption.get("secret") if encryption is not None else None
