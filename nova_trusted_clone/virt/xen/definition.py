"""Nova's guest XML as libxl's driver runs it.

Nova makes a definition that is QEMU's in its devices whatever ``virt_type`` says. What a Xen guest has is its processors,
memory, kernel, disks (``xvda``), network cards, console and, fully virtualized, a display: only that is taken over. A device
that changes nothing for a guest that lacks it (balloon, random numbers, pointer) is left out; one that somebody asked for and
that Xen has not is refused by name.

Source: libvirt's "Domain XML format" and its ``libxl_conf.c`` (what of a definition reaches libxl).
"""

from __future__ import annotations

import enum
import xml.etree.ElementTree as ET

from nova_trusted_clone.hypervisor.xen import processors

BUS = "xen"
# Elements of a domain that are the same for Xen.
_KEPT = ("name", "uuid", "title", "metadata", "memory", "currentMemory", "vcpu")
_KEPT_AFTER = ("on_poweroff", "on_reboot", "on_crash")
# What Nova gives to any guest, or libvirt makes without being asked.
_LEFT_OUT = ("rng", "memballoon", "input", "controller", "video", "channel", "emulator")
_REPLACED = ("serial", "console")
_BOOT_FILES = ("kernel", "initrd", "cmdline")
_FULL_FEATURES = ("acpi", "apic", "pae")


class Unfit(Exception):
    """Xen has no such guest: the message says what was asked for."""


class Kind(enum.Enum):
    """What a guest is virtualized by; values are the machine names of libvirt's libxl driver."""

    PVH = "xenpvh"
    PV = "xenpv"
    HVM = "xenfv"

    @property
    def os_type(self) -> str:
        """The text of ``<os><type>``."""
        return {Kind.PVH: "xenpvh", Kind.PV: "linux", Kind.HVM: "hvm"}[self]


def kind(machine: str | None, vm_mode: str | None, *, has_kernel: bool) -> Kind:
    """Which kind a server is.

    An image says it by ``hw_machine_type``, or by ``hw_vm_mode=xen`` for PV as Nova's Xen drivers had it. One that says
    nothing and brings a kernel of its own is PVH, which needs no firmware and no emulated device; any other boots from its
    disk and is fully virtualized.

    :raises Unfit: there is no such kind, or it needs a kernel that the image does not have
    """
    if machine is not None:
        names = [one.value for one in Kind]
        if machine not in names:
            raise Unfit(f"hw_machine_type {machine!r} is none of Xen's: {', '.join(names)}")
        chosen = Kind(machine)
    elif vm_mode == "xen":
        chosen = Kind.PV
    else:
        chosen = Kind.PVH if has_kernel else Kind.HVM
    if chosen is not Kind.HVM and not has_kernel:
        raise Unfit(
            f"a {chosen.name} guest is started with a kernel, and the image names none (kernel_id)"
        )
    return chosen


def of_guest(nova_xml: str, chosen: Kind, console_log: str, tsc_mode: str = "default") -> str:
    """The whole definition.

    :param nova_xml: as ``nova.virt.libvirt.driver.LibvirtDriver._get_guest_xml`` made it
    :param console_log: where a fully virtualized guest's first serial line is written; xenconsoled writes the others' itself
    :param tsc_mode: ``default``, ``native`` or ``emulate`` (xen-tscmode(7))
    :raises Unfit: it has something that no Xen guest has
    """
    theirs = ET.fromstring(nova_xml)
    root = ET.Element("domain", type="xen")
    root.extend(_own(theirs, _KEPT))
    _place_processors(root, theirs)
    root.append(_os(theirs, chosen))
    if chosen is Kind.HVM:
        features = ET.SubElement(root, "features")
        for name in _FULL_FEATURES:
            ET.SubElement(features, name)
    clock = ET.SubElement(root, "clock", offset=_clock_offset(theirs))
    if tsc_mode != "default":
        ET.SubElement(clock, "timer", name="tsc", mode=tsc_mode)
    root.extend(_own(theirs, _KEPT_AFTER))
    devices = ET.SubElement(root, "devices")
    for one in theirs.find("devices") or ():
        devices.extend(_device(one, chosen))
    devices.extend(_console(chosen, console_log))
    return ET.tostring(root, encoding="unicode")


def of_device(nova_xml: str, chosen: Kind) -> str:
    """One device that Nova adds to a guest, or takes from it.

    :raises Unfit: Xen has none such
    """
    found = _device(ET.fromstring(nova_xml), chosen)
    if not found:
        raise Unfit(f"a Xen guest has no {ET.fromstring(nova_xml).tag}")
    return ET.tostring(found[0], encoding="unicode")


def kind_of(xml: str) -> Kind:
    """The kind of a definition that ``of_guest`` made, or that libvirt gives of a domain.

    :raises Unfit: it is no Xen guest's
    """
    os_type = ET.fromstring(xml).findtext("os/type")
    for one in Kind:
        if one.os_type == os_type:
            return one
    raise Unfit(f"a domain of type {os_type!r} is no Xen guest of Nova's")


def _own(theirs: ET.Element, tags: tuple[str, ...]) -> list[ET.Element]:
    return [found for tag in tags if (found := theirs.find(tag)) is not None]


def _place_processors(root: ET.Element, theirs: ET.Element) -> None:
    """Dedicated processors are Nova's to choose, one by one; shared ones (``cpu_shared_set``) are any of a set."""
    pins = theirs.findall("cputune/vcpupin")
    if pins:
        ET.SubElement(root, "cputune").extend(pins)
        return
    vcpu = theirs.find("vcpu")
    processors.place(root, vcpu.get("cpuset") if vcpu is not None else None)


def _clock_offset(theirs: ET.Element) -> str:
    clock = theirs.find("clock")
    return clock.get("offset", "utc") if clock is not None else "utc"


def _os(theirs: ET.Element, chosen: Kind) -> ET.Element:
    made = ET.Element("os")
    kind_element = ET.SubElement(made, "type", arch="x86_64", machine=chosen.value)
    kind_element.text = chosen.os_type
    if theirs.find("os/loader") is not None or theirs.find("os[@firmware]") is not None:
        raise Unfit("UEFI firmware is not given to Xen guests: leave hw_firmware_type out")
    if theirs.find("os/kernel") is not None:
        made.extend(one for one in theirs.iterfind("os/*") if one.tag in _BOOT_FILES)
    elif chosen is Kind.HVM:
        made.extend(theirs.findall("os/boot"))
    else:
        raise Unfit(f"a {chosen.name} guest is started with a kernel, and it has none")
    return made


def _device(one: ET.Element, chosen: Kind) -> list[ET.Element]:
    """What becomes of one of Nova's devices: none or one."""
    if one.tag in _LEFT_OUT or one.tag in _REPLACED:
        return []
    match one.tag:
        case "disk":
            return [_disk(one)]
        case "interface":
            return [_interface(one)]
        case "graphics":
            # A display is emulated by a device model, which the other kinds do not have.
            return [one] if chosen is Kind.HVM else []
        case _:
            raise Unfit(f"a Xen guest has no {one.tag}")


def _disk(theirs: ET.Element) -> ET.Element:
    """A disk on Xen's own bus; a CD drive, which only an emulated controller has, becomes a disk that cannot be written."""
    made = ET.Element("disk", type=theirs.get("type", "file"), device="disk")
    driver = theirs.find("driver")
    image_format = driver.get("type", "raw") if driver is not None else "raw"
    # QEMU serves it (qdisk), whatever it is: blkback knows neither qcow2 nor network volumes.
    ET.SubElement(made, "driver", name="qemu", type=image_format)
    for tag in ("auth", "source", "backingStore"):
        found = theirs.find(tag)
        if found is not None:
            made.append(found)
    target = theirs.find("target")
    name = target.get("dev", "") if target is not None else ""
    if not name.startswith("xvd"):
        raise Unfit(f"disk {name!r} is not on Xen's bus (xvda and so on)")
    ET.SubElement(made, "target", dev=name, bus=BUS)
    if theirs.find("readonly") is not None or theirs.get("device") == "cdrom":
        ET.SubElement(made, "readonly")
    elif theirs.get("device", "disk") != "disk":
        raise Unfit(f"disk {name} is a {theirs.get('device')}")
    if theirs.find("shareable") is not None:
        ET.SubElement(made, "shareable")
    serial = theirs.find("serial")
    if serial is not None:
        made.append(serial)
    return made


def _interface(theirs: ET.Element) -> ET.Element:
    """A card that is Xen's own only: the emulated one beside it would have its MAC in the device model's state."""
    if theirs.get("type") not in ("bridge", "ethernet"):
        raise Unfit(f"a network port of type {theirs.get('type')}")
    made = ET.Element("interface", type=theirs.get("type", ""))
    for tag in ("mac", "source", "virtualport", "target", "script", "mtu", "bandwidth"):
        found = theirs.find(tag)
        if found is not None:
            made.append(found)
    ET.SubElement(made, "model", type="netfront")
    return made


def _console(chosen: Kind, console_log: str) -> list[ET.Element]:
    if chosen is not Kind.HVM:
        console = ET.Element("console", type="pty")
        ET.SubElement(console, "target", type="xen", port="0")
        return [console]
    serial = ET.Element("serial", type="file")
    ET.SubElement(serial, "source", path=console_log)
    ET.SubElement(serial, "target", port="0")
    return [serial]
