"""What a control plane decided of a clone's place on its host, put into a definition that is otherwise the source's.

The guest sees none of it: its devices, their models, slots and order stay the source's. What changes is what they are
connected to on this host.
"""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import definition

# A character device's end on the host; its other children are what the guest sees.
_HOST_END = ("source", "protocol", "log")


def element(text: str, *tags: str) -> ET.Element:
    """An element of the control plane's.

    :raises MalformedState: it is none of ``tags``
    """
    try:
        found = ET.fromstring(text)
    except ET.ParseError as error:
        raise MalformedState(f"<{tags[0]}>: {error}") from error
    if found.tag not in tags:
        raise MalformedState(f"<{tags[0]}> expected, found <{found.tag}>")
    return found


def drop(parent: ET.Element, *tags: str) -> None:
    """Remove children by their tags."""
    for tag in tags:
        for child in parent.findall(tag):
            parent.remove(child)


def give_vtpm_secret(devices: ET.Element, secret: str | None) -> None:
    """Have the vTPM's state encrypted by this host's secret, or by none; never by the source's."""
    for backend in devices.iterfind("tpm/backend"):
        drop(backend, "encryption")
        if secret is not None:
            ET.SubElement(backend, "encryption", secret=secret)


def give_graphics(devices: ET.Element, wanted: Sequence[str]) -> None:
    """Displays listen where the control plane said. One of a kind that it did not name is served to nobody."""
    own = [element(text, "graphics") for text in wanted]
    for place, theirs in [(n, e) for n, e in enumerate(devices) if e.tag == "graphics"]:
        mine = next((one for one in own if one.get("type") == theirs.get("type")), None)
        if mine is not None:
            devices[place] = copy.deepcopy(mine)
            own.remove(mine)
    kinds = {element(text, "graphics").get("type") for text in wanted}
    for left in devices.findall("graphics"):
        if left.get("type") not in kinds:
            devices.remove(left)


def give_characters(devices: ET.Element, wanted: Sequence[str]) -> None:
    """Serial lines, consoles and channels end on the host where the control plane said.

    :param wanted: its elements, in order; each is for the device of the source's that the guest knows by the same name, or
        by the same place among its kind
    """
    own = [element(text, "serial", "console", "channel", "parallel") for text in wanted]
    if not own:
        return
    for device in devices.findall("console"):
        if _target(device, "type") == "serial":
            devices.remove(
                device
            )  # libvirt makes it anew: it is the first serial line under another name
    for kind in ("serial", "console", "channel", "parallel"):
        mine = [one for one in own if one.tag == kind and not _is_serial_console(one)]
        for number, device in enumerate(devices.findall(kind)):
            counterpart = _counterpart(device, number, mine)
            if counterpart is not None:
                _connect(device, counterpart)


def _is_serial_console(device: ET.Element) -> bool:
    return device.tag == "console" and _target(device, "type") == "serial"


def _counterpart(device: ET.Element, number: int, own: Sequence[ET.Element]) -> ET.Element | None:
    name = _target(device, "name")
    if name:
        return next((one for one in own if _target(one, "name") == name), None)
    return own[number] if number < len(own) else None


def _connect(device: ET.Element, wanted: ET.Element) -> None:
    """Give a device another end on the host."""
    drop(device, *_HOST_END)
    device.set("type", wanted.get("type", "pty"))
    for child in reversed([one for one in wanted if one.tag in _HOST_END]):
        device.insert(0, copy.deepcopy(child))


def _target(device: ET.Element, name: str) -> str:
    target = device.find("target")
    return target.get(name, "") if target is not None else ""


def interface(text: str, devices: ET.Element, number: int) -> str:
    """A network interface of the control plane's, in the slot and of the model that the guest knows."""
    mine = element(text, "interface")
    there = devices.findall("interface")
    if number < len(there):
        drop(mine, "model", "address", "alias")
        for tag in ("model", "address"):
            theirs = there[number].find(tag)
            if theirs is not None:
                mine.append(copy.deepcopy(theirs))
    return ET.tostring(mine, encoding="unicode")


def persistent(running: str) -> str:
    """What libvirt keeps of a clone that runs: without the store, which is there for this run alone.

    :param running: its definition for a next start, as libvirt has it now
    """
    root = definition.parse(running)
    drop(root, "memoryBacking")
    for disk in root.iterfind("devices/disk"):
        drop(disk, "backingStore")
        driver = disk.find("driver")
        if driver is not None:
            driver.attrib.pop("copy_on_read", None)
    return ET.tostring(root, encoding="unicode")
