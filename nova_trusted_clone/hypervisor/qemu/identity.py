"""A clone's definition, made of the source's: everything that says who it is, or that lies on a host, is its own."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import definition
from nova_trusted_clone.ports import Identity, NicIdentity


@dataclasses.dataclass(frozen=True)
class CloneDefinition:
    """What libvirt shall restore, and what comes after it.

    :ivar text: the definition; its network interfaces are connected to nothing
    :ivar interfaces: the clone's own network interfaces, to be attached when those are gone
    """

    text: str
    machine: str
    interfaces: tuple[str, ...]


def overlay(directory: pathlib.Path, target: str) -> pathlib.Path:
    """The file that takes a clone's own writes to a disk."""
    return directory / f"{target}.qcow2"


def of_clone(
    source: str, identity: Identity, directory: pathlib.Path, backings: Mapping[str, pathlib.Path]
) -> CloneDefinition:
    """The clone's definition.

    :param source: the source's, as its host gave it
    :raises MalformedState: it is none, or its disks are not those of the freeze
    """
    root = definition.parse(source)
    _set(root, "name", identity.name)
    _set(root, "uuid", identity.uuid)
    if root.find("genid") is not None:
        _set(root, "genid", str(uuid.uuid4()))
    # Its title, metadata and resource partition are the source's.
    _drop(root, "title", "description", "metadata", "resource", "seclabel", "memoryBacking")
    memory = ET.Element("memoryBacking")
    ET.SubElement(memory, "source", type="file")
    ET.SubElement(memory, "access", mode="private")
    root.insert(_after(root, "currentMemory"), memory)
    devices = root.find("devices")
    if devices is None:
        raise MalformedState("domain definition: no devices")
    _own_disks(devices, directory, backings)
    _own_files(devices, directory)
    _own_graphics(devices)
    for label in [*devices.iterfind(".//source[seclabel]")]:
        _drop(label, "seclabel")
    interfaces = _own_interfaces(devices, identity.nics)
    return CloneDefinition(
        ET.tostring(root, encoding="unicode"), definition.machine(root), interfaces
    )


def files_below(text: str, directory: pathlib.Path) -> list[str]:
    """Every file below ``directory`` that a definition names: disks, serial lines, logs."""
    values = {v for e in definition.parse(text).iter() for v in e.attrib.values()}
    return sorted(value for value in values if value.startswith(f"{directory}/"))


def _own_disks(
    devices: ET.Element, directory: pathlib.Path, backings: Mapping[str, pathlib.Path]
) -> None:
    found = set()
    for disk in devices.findall("disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is None or target is None:
            continue
        name = target.get("dev", "")
        if name not in backings:
            raise MalformedState(f"disk {name} is not among the frozen ones")
        found.add(name)
        place = list(disk).index(source)
        _drop(disk, "backingStore", "source", "mirror", "alias", "encryption", "iotune")
        disk.set("type", "file")
        disk.insert(place, ET.Element("source", file=str(overlay(directory, name))))
        disk.insert(place + 1, _backing(backings[name]))
        driver = disk.find("driver")
        if driver is None:
            driver = ET.SubElement(disk, "driver", name="qemu")
        driver.set("type", "qcow2")
        driver.set("copy_on_read", "on")
    if found != set(backings):
        raise MalformedState(
            f"the definition has disks {sorted(found)}, frozen were {sorted(backings)}"
        )


def _backing(path: pathlib.Path) -> ET.Element:
    element = ET.Element("backingStore", type="file")
    ET.SubElement(element, "format", type="raw")
    ET.SubElement(element, "source", file=str(path))
    ET.SubElement(element, "backingStore")
    return element


def _own_files(devices: ET.Element, directory: pathlib.Path) -> None:
    """Serial lines, consoles and channels write below the clone's directory."""
    for kind in ("serial", "console", "parallel", "channel"):
        for number, device in enumerate(devices.findall(kind)):
            # A serial line and the console that stands for it are one device and share a file.
            stem = "console" if kind in ("serial", "console") else kind
            source, log = device.find("source"), device.find("log")
            if device.get("type") == "file" and source is not None:
                source.set("path", str(directory / f"{stem}{number}.log"))
            elif source is not None and source.get("path"):
                # A pty or an automatic socket: libvirt chooses it anew.
                del source.attrib["path"]
            if log is not None:
                log.set("file", str(directory / f"{stem}{number}.log"))


def _own_graphics(devices: ET.Element) -> None:
    for graphics in devices.findall("graphics"):
        if graphics.get("port"):
            graphics.set("port", "-1")
            graphics.set("autoport", "yes")


def _own_interfaces(devices: ET.Element, nics: tuple[NicIdentity, ...]) -> tuple[str, ...]:
    """Connect the source's interfaces to nothing, and describe the clone's.

    The guest's network card still has the source's MAC, which is in the device state. So it gets a tap of its own that is
    on no bridge; it is unplugged before the clone's card is plugged in. The type stays a tap: another kind of
    network would have other offloads, and the device state would not fit.
    """
    own = []
    there = devices.findall("interface")
    for number, nic in enumerate(nics):
        if number < len(there):
            mine = copy.deepcopy(there[number])
        else:
            mine = ET.Element("interface", type="bridge")
            ET.SubElement(mine, "model", type="virtio")
        if nic.bridge is not None:
            mine.set("type", "bridge")
            _drop(mine, "source")
            ET.SubElement(mine, "source", bridge=nic.bridge)
        _drop(
            mine,
            "mac",
            "target",
            "alias",
            "virtualport",
            "filterref",
            "link",
            "portForward",
            "bandwidth",
        )
        ET.SubElement(mine, "mac", address=nic.mac)
        own.append(ET.tostring(mine, encoding="unicode"))
    for number, interface in enumerate(there):
        interface.set("type", "ethernet")
        _drop(
            interface, "source", "target", "alias", "virtualport", "filterref", "link", "bandwidth"
        )
        ET.SubElement(interface, "link", state="down")
        # QEMU itself announces the configured address when it has loaded: this one must not be the source's.
        mac = interface.find("mac")
        if mac is not None and number < len(nics):
            mac.set("address", nics[number].mac)
        elif mac is not None:
            interface.remove(mac)
    return tuple(own)


def _set(root: ET.Element, tag: str, text: str) -> None:
    element = root.find(tag)
    if element is None:
        raise MalformedState(f"domain definition: no <{tag}>")
    element.text = text


def _drop(parent: ET.Element, *tags: str) -> None:
    for tag in tags:
        for element in parent.findall(tag):
            parent.remove(element)


def _after(root: ET.Element, tag: str) -> int:
    tags = [element.tag for element in root]
    return tags.index(tag) + 1 if tag in tags else len(tags)
