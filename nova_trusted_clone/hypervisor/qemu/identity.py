"""A clone's definition, made of the source's: everything that says who it is, or that lies on a host, is its own."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import definition, hostside
from nova_trusted_clone.hypervisor.qemu.hostside import drop
from nova_trusted_clone.ports import HostSide, Identity, NicIdentity


@dataclasses.dataclass(frozen=True)
class CloneDefinition:
    """What libvirt shall restore, and what comes after it.

    :ivar text: the definition; its network interfaces are connected to nothing
    :ivar interfaces: the clone's own network interfaces, to be attached when those are gone
    :ivar read_only: targets of its media that nobody writes to
    """

    text: str
    machine: str
    interfaces: tuple[str, ...]
    read_only: frozenset[str] = frozenset()


def overlay(directory: pathlib.Path, target: str) -> pathlib.Path:
    """The file that takes a clone's own writes to a disk."""
    return directory / f"{target}.qcow2"


def images(identity: Identity, directory: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The clone's own disk images that are there."""
    if identity.host_side is not None:
        paths = [pathlib.Path(path) for path in identity.host_side.disks.values()]
        return tuple(path for path in paths if path.exists())
    return tuple(sorted(directory.glob("*.qcow2")))


def image_of(identity: Identity, directory: pathlib.Path, target: str) -> pathlib.Path:
    """The file that takes a clone's own writes to a disk.

    :raises MalformedState: when the control plane named none for it
    """
    if identity.host_side is None:
        return overlay(directory, target)
    if target not in identity.host_side.disks:
        raise MalformedState(
            f"disk {target} of the source is none of the clone's:"
            f" {', '.join(sorted(identity.host_side.disks)) or 'it has none'}"
        )
    return pathlib.Path(identity.host_side.disks[target])


def of_clone(
    source: str, identity: Identity, directory: pathlib.Path, backings: Mapping[str, pathlib.Path]
) -> CloneDefinition:
    """The clone's definition.

    :param source: the source's, as its host gave it
    :raises MalformedState: it is none, or its disks are not those of the freeze
    """
    root = definition.parse(source)
    side = identity.host_side
    _own_firmware_tables(root, identity.uuid)
    _set(root, "name", identity.name)
    _set(root, "uuid", identity.uuid)
    if root.find("genid") is not None:
        _set(root, "genid", str(uuid.uuid4()))
    # Its title, metadata and resource partition are the source's.
    drop(root, "title", "description", "metadata", "resource", "seclabel", "memoryBacking")
    if side is not None and side.metadata:
        root.insert(_after(root, "uuid"), hostside.element(side.metadata, "metadata"))
    memory = ET.Element("memoryBacking")
    ET.SubElement(memory, "source", type="file")
    ET.SubElement(memory, "access", mode="private")
    root.insert(_after(root, "currentMemory"), memory)
    _own_processors(root, side)
    devices = root.find("devices")
    if devices is None:
        raise MalformedState("domain definition: no devices")
    # Which program runs it is this host's to say.
    drop(devices, "emulator")
    own = {target: image_of(identity, directory, target) for target in backings}
    _own_disks(devices, own, backings)
    _own_files(devices, directory, side.console_log if side is not None else None)
    hostside.give_vtpm_secret(devices, side.vtpm_secret if side is not None else None)
    if side is None:
        _own_graphics(devices)
    else:
        hostside.give_graphics(devices, side.graphics)
        hostside.give_characters(devices, side.characters)
    for label in [*devices.iterfind(".//source[seclabel]")]:
        drop(label, "seclabel")
    interfaces = _own_interfaces(devices, identity.nics)
    if side is not None and side.interfaces:
        interfaces = tuple(
            hostside.interface(text, devices, n) for n, text in enumerate(side.interfaces)
        )
    return CloneDefinition(
        ET.tostring(root, encoding="unicode"),
        definition.machine(root),
        interfaces,
        frozenset(disk.target for disk in definition.disks(root) if disk.read_only),
    )


def files_below(text: str, directory: pathlib.Path) -> list[str]:
    """Every file below ``directory`` that a definition names: disks, serial lines, logs."""
    values = {v for e in definition.parse(text).iter() for v in e.attrib.values()}
    return sorted(value for value in values if value.startswith(f"{directory}/"))


def _own_disks(
    devices: ET.Element, own: Mapping[str, pathlib.Path], backings: Mapping[str, pathlib.Path]
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
        drop(disk, "backingStore", "source", "mirror", "alias", "encryption")
        disk.set("type", "file")
        disk.insert(place, ET.Element("source", file=str(own[name])))
        driver = disk.find("driver")
        if driver is None:
            driver = ET.SubElement(disk, "driver", name="qemu")
        driver.set("type", "qcow2")
        if disk.find("readonly") is None:
            disk.insert(place + 1, _backing(backings[name]))
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


def _own_files(devices: ET.Element, directory: pathlib.Path, console_log: str | None) -> None:
    """Serial lines, consoles and channels write below the clone's directory, the first console where it was said."""
    for kind in ("serial", "console", "parallel", "channel"):
        for number, device in enumerate(devices.findall(kind)):
            # A serial line and the console that stands for it are one device and share a file.
            stem = "console" if kind in ("serial", "console") else kind
            path = str(directory / f"{stem}{number}.log")
            if console_log is not None and stem == "console" and number == 0:
                path = console_log
            source, log = device.find("source"), device.find("log")
            if device.get("type") == "file" and source is not None:
                source.set("path", path)
            elif source is not None and source.get("path"):
                # A pty or an automatic socket: libvirt chooses it anew.
                del source.attrib["path"]
            if log is not None:
                log.set("file", path)


def _own_firmware_tables(root: ET.Element, server_uuid: str) -> None:
    """SMBIOS names the server: libvirt insists on the UUID, and a serial number that was the source's UUID is no one else's.

    A running guest has read its tables long ago; it sees these when it boots anew.
    """
    source_uuid = root.findtext("uuid")
    for entry in root.iterfind("sysinfo/system/entry"):
        if entry.get("name") == "uuid" or entry.text == source_uuid:
            entry.text = server_uuid


def _own_processors(root: ET.Element, side: HostSide | None) -> None:
    """Which of the host's processors may run it: those of this host's control plane, or any."""
    processors = root.find("vcpu")
    if processors is None:
        return
    processors.attrib.pop("cpuset", None)
    if side is not None and side.cpuset is not None:
        processors.set("cpuset", side.cpuset)


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
            drop(mine, "source")
            ET.SubElement(mine, "source", bridge=nic.bridge)
        drop(
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
        drop(
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


def _after(root: ET.Element, tag: str) -> int:
    tags = [element.tag for element in root]
    return tags.index(tag) + 1 if tag in tags else len(tags)
