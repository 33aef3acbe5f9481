"""A clone's definition, made of the source's: everything that says who it is, or that lies on a host, is its own."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import definition, hostside
from nova_trusted_clone.hypervisor.qemu.hostside import drop
from nova_trusted_clone.hypervisor.qemu.identity import image_of
from nova_trusted_clone.hypervisor.xen import processors
from nova_trusted_clone.ports import Identity, NicIdentity

# Of a domain that a device model emulates a whole machine for.
FULL = "hvm"


def of_clone(
    source: str, identity: Identity, directory: pathlib.Path, backings: Mapping[str, pathlib.Path]
) -> str:
    """The clone's definition.

    What it would boot from stays named: a restore loads none of it, and libvirt gives a PV guest that names nothing a boot
    loader.
    A Xen guest reads its card's MAC from the host each time that it connects, which it does after a restore: so the clone's
    card has its own from the beginning.

    :param source: the source's, as its host gave it
    :raises MalformedState: it is none, or its disks or cards are not those that were ordered
    """
    root = definition.parse(source)
    side = identity.host_side
    if root.get("type") != "xen":
        raise MalformedState(f"domain definition: of type {root.get('type')!r}, expected xen")
    root.attrib.pop("id", None)
    for tag, text in (("name", identity.name), ("uuid", identity.uuid)):
        element = root.find(tag)
        if element is None:
            raise MalformedState(f"domain definition: no <{tag}>")
        element.text = text
    drop(root, "title", "description", "metadata", "resource", "seclabel")
    if side is not None and side.metadata:
        root.append(hostside.element(side.metadata, "metadata"))
    _own_processors(root, side.cpuset if side is not None else None)
    devices = root.find("devices")
    if devices is None:
        raise MalformedState("domain definition: no devices")
    # Which program emulates its devices is this host's to say.
    drop(devices, "emulator")
    _own_disks(devices, {t: image_of(identity, directory, t) for t in backings})
    _own_characters(devices)
    if side is not None:
        _own_boot_files(root, side.boot)
        hostside.give_graphics(devices, side.graphics)
        hostside.give_characters(devices, side.characters)
    if side is not None and side.interfaces:
        drop(devices, "interface")
        for text in side.interfaces:
            devices.append(hostside.element(text, "interface"))
    else:
        _own_interfaces(devices, identity.nics)
    if root.findtext("os/type") == FULL:
        _no_emulated_cards(devices)
    return ET.tostring(root, encoding="unicode")


def _no_emulated_cards(devices: ET.Element) -> None:
    """A fully virtualized guest's card is emulated beside Xen's own, until its driver unplugs that one: its state has the
    source's MAC. Without it, a guest that did use it is not restored at all."""
    for interface in devices.findall("interface"):
        drop(interface, "model")
        ET.SubElement(interface, "model", type="netfront")


def _own_processors(root: ET.Element, cpuset: str | None) -> None:
    try:
        processors.place(root, cpuset)
    except ValueError as error:
        raise MalformedState(f"domain definition: <vcpu>: {error}") from error


def _own_boot_files(root: ET.Element, boot: Mapping[str, str]) -> None:
    """The files that a next start takes; a control plane that names none leaves those of the source's host.

    :raises MalformedState: the source has none such
    """
    for tag, path in boot.items():
        element = root.find(f"os/{tag}")
        if element is None:
            raise MalformedState(f"domain definition: no <{tag}>, and the clone is to have its own")
        element.text = path


def _own_disks(devices: ET.Element, own: Mapping[str, pathlib.Path]) -> None:
    found = set()
    for disk in devices.findall("disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is None or target is None:
            # A drive without a medium.
            continue
        name = target.get("dev", "")
        if name not in own:
            raise MalformedState(f"disk {name} is not among the frozen ones")
        found.add(name)
        drop(disk, "backingStore", "source", "driver", "alias")
        disk.set("type", "file")
        disk.insert(0, ET.Element("driver", name="qemu", type="qcow2"))
        disk.insert(1, ET.Element("source", file=str(own[name])))
    if found != set(own):
        raise MalformedState(f"the definition has disks {sorted(found)}, frozen were {sorted(own)}")


def _own_characters(devices: ET.Element) -> None:
    """Consoles and serial lines end at pseudo terminals that libxl makes anew."""
    for kind in ("serial", "console", "parallel"):
        for device in devices.findall(kind):
            device.attrib.pop("tty", None)
            drop(device, "source", "alias", "log")
            device.set("type", "pty")


def _own_interfaces(devices: ET.Element, nics: tuple[NicIdentity, ...]) -> None:
    there = devices.findall("interface")
    if len(there) != len(nics):
        raise MalformedState(
            f"the source has {len(there)} network cards, the clone is to have {len(nics)}"
        )
    for interface, nic in zip(there, nics, strict=True):
        drop(interface, "mac", "target", "alias", "virtualport", "filterref", "bandwidth")
        interface.insert(0, ET.Element("mac", address=nic.mac))
        if nic.bridge is not None:
            interface.set("type", "bridge")
            drop(interface, "source")
            interface.insert(1, ET.Element("source", bridge=nic.bridge))
