"""A guest defined as Nova defines its servers, on the lab's host, for what the lab's own guests do not have."""

from __future__ import annotations

import dataclasses
import pathlib
import uuid
import xml.etree.ElementTree as ET

from labkit import guests, process
from labkit.domain import Disk, GuestDefinition, to_xml
from labkit.guest import image
from labkit.guests import Guest
from labkit.host import Host

# What Nova's definition has besides (nova.virt.libvirt.driver, 34.0.0), with the values of a small q35 server.
_FURTHER = """<x>
<graphics type='vnc' autoport='yes' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics>
<video><model type='virtio'/></video>
<input type='tablet' bus='usb'/>
<controller type='usb' index='0' model='piix3-uhci'/>
<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='10'/></memballoon>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</x>"""
MTU = 1450


def start(host: Host, name: str) -> Guest:
    """Start one: two processors, a disk with cache=none, a config drive, two network cards, VNC, balloon, console log."""
    directory = host.base / "guests" / name
    directory.mkdir(parents=True)
    disk, drive = directory / "disk", directory / "disk.config"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, str(64 << 20)])
    drive.write_bytes(_config_drive())
    definition = GuestDefinition(
        name=name,
        uuid=str(uuid.uuid4()),
        memory_mib=192,
        boot=image.build(host.paths.cache),
        serial=directory / "console.log",
        vcpus=2,
        disks=(Disk("vda", disk, 64 << 20),),
        macs=(guests.new_mac(), guests.new_mac()),
    )
    with guests.connected(host) as connection:
        connection.defineXML(_as_nova(definition, drive)).create()
    return Guest(host, dataclasses.replace(definition))


def _config_drive() -> bytes:
    """Sectors that nobody reads as a file system; not a whole number of 4 KiB, as an ISO image is not."""
    return b"".join(index.to_bytes(4, "big") * 512 for index in range(247))


def _as_nova(definition: GuestDefinition, drive: pathlib.Path) -> str:
    root = ET.fromstring(to_xml(definition))
    devices = root.find("devices")
    assert devices is not None
    for tag in ("memballoon", "serial"):
        for element in devices.findall(tag):
            devices.remove(element)
    for element in ET.fromstring(_FURTHER):
        devices.append(element)
    devices.append(
        ET.fromstring(
            f"<serial type='pty'><log file='{definition.serial}' append='off'/><target type='isa-serial' port='0'/></serial>"
        )
    )
    devices.append(
        ET.fromstring(
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw' cache='none'/>"
            f"<source file='{drive}'/><target dev='sda' bus='sata'/><readonly/></disk>"
        )
    )
    for driver in devices.findall("disk/driver"):
        driver.set("cache", "none")
    for interface in devices.findall("interface"):
        ET.SubElement(interface, "mtu", size=str(MTU))
    _firmware(root, definition.uuid)
    root.append(ET.fromstring("<iothreads>1</iothreads>"))
    return ET.tostring(root, encoding="unicode")


def _firmware(root: ET.Element, server_uuid: str) -> None:
    entries = "".join(
        f"<entry name='{name}'>{value}</entry>"
        for name, value in (
            ("manufacturer", "OpenStack Foundation"),
            ("serial", server_uuid),
            ("uuid", server_uuid),
        )
    )
    root.append(ET.fromstring(f"<sysinfo type='smbios'><system>{entries}</system></sysinfo>"))
    system, features = root.find("os"), root.find("features")
    assert system is not None
    assert features is not None
    ET.SubElement(system, "smbios", mode="sysinfo")
    ET.SubElement(features, "vmcoreinfo", state="on")


def host_side_interface(mac: str, tap: str) -> str:
    """A port's interface as Nova makes it on the clone's host."""
    return (
        f"<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/><target dev='{tap}'/>"
        "<model type='virtio'/><mtu size='1400'/></interface>"
    )
