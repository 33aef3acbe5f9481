"""A domain's definition (XML): what a freeze and a restore must know of it."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

from nova_trusted_clone.hypervisor.base import MalformedState

# libvirt's own definitions are some tens of KiB; what came over the network is bounded before it is parsed.
MAX_DEFINITION_BYTES = 1 << 20
IMAGE_FORMATS = ("qcow2", "raw")


def parse(text: str) -> ET.Element:
    """The definition as a tree.

    :raises MalformedState: it is no domain's definition
    """
    if len(text) > MAX_DEFINITION_BYTES or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise MalformedState("domain definition: too long, or with a document type")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise MalformedState(f"domain definition: {error}") from error
    if root.tag != "domain":
        raise MalformedState(f"domain definition: begins with <{root.tag}>, expected <domain>")
    return root


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk with a medium."""

    target: str
    device: str
    kind: str
    image_format: str
    path: str
    alias: str
    shareable: bool
    transient: bool
    read_only: bool = False


def disks(root: ET.Element) -> list[Disk]:
    """Every disk that has a medium, in the definition's order."""
    found = []
    for element in root.iterfind("devices/disk"):
        source, driver = element.find("source"), element.find("driver")
        if source is None:
            continue
        found.append(
            Disk(
                target=_attribute(element, "target", "dev"),
                device=element.get("device", "disk"),
                kind=element.get("type", ""),
                image_format=driver.get("type", "raw") if driver is not None else "raw",
                path=source.get("file", source.get("dev", source.get("name", ""))),
                alias=_attribute(element, "alias", "name"),
                shareable=element.find("shareable") is not None,
                transient=element.find("transient") is not None,
                read_only=element.find("readonly") is not None,
            )
        )
    return found


def image_obstacles(disk: Disk) -> list[str]:
    """What QEMU, which serves disks on either hypervisor, can neither hold nor share."""
    found = []
    if disk.image_format not in IMAGE_FORMATS:
        found.append(f"disk {disk.target}: format {disk.image_format}, expected qcow2 or raw")
    if disk.shareable:
        found.append(f"disk {disk.target}: shared with other servers")
    if disk.transient:
        found.append(f"disk {disk.target}: its changes are thrown away at the end (transient)")
    return found


def nics(root: ET.Element) -> list[tuple[str, str]]:
    """(alias, MAC) of every network interface."""
    return [
        (_attribute(element, "alias", "name"), _attribute(element, "mac", "address"))
        for element in root.iterfind("devices/interface")
    ]


def vtpm_secret(root: ET.Element) -> str | None:
    """UUID of the libvirt secret that encrypts the vTPM's state, if one does."""
    encryption = root.find("devices/tpm/backend/encryption")
    return encryption.get("secret") if encryption is not None else None


def machine(root: ET.Element) -> str:
    """The machine type, such as ``pc-q35-7.2``.

    :raises MalformedState: there is none
    """
    element = root.find("os/type")
    name = element.get("machine", "") if element is not None else ""
    if not name or len(name) > 128:
        raise MalformedState("domain definition: no machine type")
    return name


def _attribute(element: ET.Element, child: str, name: str) -> str:
    found = element.find(child)
    return found.get(name, "") if found is not None else ""
