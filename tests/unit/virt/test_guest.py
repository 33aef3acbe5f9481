"""What is taken of the guest that Nova makes for a clone."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from nova.virt.libvirt import config

from nova_trusted_clone.ports import HostSide
from nova_trusted_clone.virt.guest import UnfitGuest, identity, immovable, with_generation_id
from nova_trusted_clone.virt.xen.definition import Kind, of_guest
from tests.unit.virt import xenguest
from tests.unit.virt.novaguest import DIRECTORY, MACS, NAME, SECRET, SERVER, disk, guest


def host_side(xml: str) -> HostSide:
    side = identity(NAME, SERVER, xml).host_side
    assert side is not None
    return side


def test_the_ports_are_nova_s_in_nova_s_order() -> None:
    made = identity(NAME, SERVER, guest().to_xml())
    assert (made.name, made.uuid) == (NAME, SERVER)
    assert tuple(nic.mac for nic in made.nics) == MACS
    assert made.host_side is not None
    first, second = (ET.fromstring(text) for text in made.host_side.interfaces)
    assert [one.find("target").get("dev") for one in (first, second)] == ["tap0", "tap1"]
    assert first.find("virtualport/parameters").get("interfaceid")
    assert first.find("source").get("bridge") == "br-int"


def test_every_image_file_has_its_place() -> None:
    assert host_side(guest().to_xml()).disks == {
        "vda": f"{DIRECTORY}/disk",
        "vdb": f"{DIRECTORY}/disk.eph0",
        "hda": f"{DIRECTORY}/disk.config",
    }


def test_the_console_log_the_secret_and_the_metadata_are_the_clone_s() -> None:
    side = host_side(guest().to_xml())
    assert side.console_log == f"{DIRECTORY}/console.log"
    assert side.vtpm_secret == SECRET
    assert "<nova:name>web-1</nova:name>" in side.metadata
    assert side.persistent


def test_consoles_and_displays_are_this_host_s() -> None:
    made = guest()
    display = config.LibvirtConfigGuestGraphics()
    display.type, display.listen = "vnc", "192.0.2.7"
    made.add_device(display)
    made.cpuset = {0, 1}
    side = host_side(made.to_xml())
    assert [ET.fromstring(text).get("listen") for text in side.graphics] == ["192.0.2.7"]
    assert [ET.fromstring(text).tag for text in side.characters] == ["serial"]
    assert side.cpuset == "0-1"


def test_a_kernel_outside_the_image_is_named() -> None:
    made = guest()
    made.os_kernel = "/var/lib/nova/instances/kernel"
    with pytest.raises(UnfitGuest, match="a kernel of its own"):
        identity(NAME, SERVER, made.to_xml())


def test_a_kernel_on_xen_is_this_host_s() -> None:
    xml = of_guest(xenguest.guest(kernel=True).to_xml(), Kind.PVH, "unused")
    assert host_side(xml).boot == {
        "kernel": f"{DIRECTORY}/kernel",
        "initrd": f"{DIRECTORY}/ramdisk",
    }
    assert host_side(xml).disks["xvda"] == f"{DIRECTORY}/disk"


def test_a_guest_without_vtpm_and_console_has_neither() -> None:
    made = guest()
    made.devices = [disk("vda", "disk")]
    side = host_side(made.to_xml())
    assert (side.console_log, side.vtpm_secret, side.interfaces) == (None, None, ())


def test_a_drive_without_a_medium_is_no_disk() -> None:
    xml = guest().to_xml().replace(f'<source file="{DIRECTORY}/disk.config"/>', "")
    assert set(host_side(xml).disks) == {"vda", "vdb"}


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "a device of the host is passed through"),
        ("<filesystem type='mount'/>", "a share is mounted"),
        ("<shmem name='a'/>", "shares memory with the host"),
        (
            "<disk type='network' device='disk'><source protocol='rbd' name='a/b'/><target dev='vdz'/></disk>",
            "its disk vdz is a network, not an image file",
        ),
        (
            "<interface type='vhostuser'><mac address='fa:16:3e:00:00:09'/></interface>",
            "its port fa:16:3e:00:00:09 is of type vhostuser",
        ),
        ("<interface type='bridge'/>", "no MAC address"),
    ],
)
def test_what_cannot_be_a_clone_is_named(device: str, words: str) -> None:
    xml = guest().to_xml().replace("</devices>", f"{device}</devices>")
    with pytest.raises(UnfitGuest, match=words):
        identity(NAME, SERVER, xml)


@pytest.mark.parametrize("machine", ["pc", "q35", "pc-i440fx-7.2", "pc-q35-7.2"])
def test_servers_get_a_generation_id_from_their_first_boot(machine: str) -> None:
    xml = guest(machine).to_xml()
    root = ET.fromstring(with_generation_id(xml))
    assert [element.tag for element in root][:2] == ["uuid", "genid"]
    assert root.find("genid").text is None  # libvirt makes a new one at each start
    assert with_generation_id(xml).replace("\n  <genid/>", "") == xml


def test_one_generation_id_is_enough() -> None:
    once = with_generation_id(guest().to_xml())
    assert with_generation_id(once) == once


def test_other_machines_stay_as_they_are() -> None:
    virt = guest("virt").to_xml()
    assert with_generation_id(virt) == virt
    without_acpi = guest()
    without_acpi.features = []
    assert with_generation_id(without_acpi.to_xml()) == without_acpi.to_xml()
    lxc = config.LibvirtConfigGuest()
    lxc.virt_type, lxc.uuid = "lxc", SERVER
    assert with_generation_id(lxc.to_xml()) == lxc.to_xml()


@pytest.mark.parametrize(
    ("backing", "stays"),
    [
        ("", False),
        ("<memoryBacking/>", False),
        ("<memoryBacking><source type='memfd'/></memoryBacking>", False),
        ("<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>", True),
    ],
)
def test_a_server_on_its_stores_memory_cannot_be_moved_yet(backing: str, stays: bool) -> None:
    reason = immovable(f"<domain>{backing}<devices/></domain>")
    assert (reason is not None) == stays
    assert reason is None or "stopped and started" in reason
