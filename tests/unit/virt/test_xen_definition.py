"""What becomes of the guest that Nova makes when it is to run on Xen."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from nova.virt.libvirt import config

from nova_trusted_clone.virt.xen.definition import Kind, Unfit, kind, kind_of, of_device, of_guest
from tests.unit.virt import xenguest
from tests.unit.virt.novaguest import DIRECTORY, MACS, NAME, SERVER

LOG = f"{DIRECTORY}/console.log"


def made(chosen: Kind, *, tsc_mode: str = "default", **wished: bool) -> ET.Element:
    """The definition, parsed."""
    nova_xml = xenguest.guest(kernel=chosen is not Kind.HVM, **wished).to_xml()
    return ET.fromstring(of_guest(nova_xml, chosen, LOG, tsc_mode))


def pins(root: ET.Element) -> list[tuple[str | None, str | None]]:
    return [(one.get("vcpu"), one.get("cpuset")) for one in root.iterfind("cputune/vcpupin")]


class TestWhichKind:
    def test_an_image_with_a_kernel_is_started_without_firmware(self) -> None:
        assert kind(None, None, has_kernel=True) is Kind.PVH

    def test_any_other_boots_from_its_disk(self) -> None:
        assert kind(None, None, has_kernel=False) is Kind.HVM
        assert kind(None, "hvm", has_kernel=False) is Kind.HVM

    def test_an_image_may_say_it(self) -> None:
        assert kind("xenfv", None, has_kernel=True) is Kind.HVM
        assert kind("xenpv", None, has_kernel=True) is Kind.PV
        assert kind(None, "xen", has_kernel=True) is Kind.PV

    @pytest.mark.parametrize("machine", ["xenpv", "xenpvh"])
    def test_without_firmware_a_kernel_is_needed(self, machine: str) -> None:
        with pytest.raises(Unfit, match="kernel_id"):
            kind(machine, None, has_kernel=False)

    def test_another_hypervisor_s_machine_is_named(self) -> None:
        with pytest.raises(Unfit, match="'q35' is none of Xen's"):
            kind("q35", None, has_kernel=False)


class TestTheWholeGuest:
    @pytest.mark.parametrize("chosen", Kind)
    def test_it_is_the_same_server(self, chosen: Kind) -> None:
        root = made(chosen)
        assert root.get("type") == "xen"
        assert (root.findtext("name"), root.findtext("uuid")) == (NAME, SERVER)
        assert (root.findtext("memory"), root.findtext("vcpu")) == ("131072", "2")
        assert root.find("metadata/{*}instance/{*}name").text == "web-1"
        assert kind_of(ET.tostring(root, encoding="unicode")) is chosen

    def test_shared_processors_are_told_in_the_way_that_libxl_hears(self) -> None:
        guest = xenguest.guest(kernel=True)
        guest.cpuset = {1, 2}
        root = ET.fromstring(of_guest(guest.to_xml(), Kind.PVH, LOG))
        assert root.find("vcpu").get("cpuset") == "1-2"
        assert pins(root) == [("0", "1-2"), ("1", "1-2")]

    def test_dedicated_processors_stay_where_nova_put_each(self) -> None:
        guest = xenguest.guest(kernel=True)
        guest.cputune = config.LibvirtConfigGuestCPUTune()
        for number in (0, 1):
            pin = config.LibvirtConfigGuestCPUTuneVCPUPin()
            pin.id, pin.cpuset = number, {number + 4}
            guest.cputune.vcpupin.append(pin)
        assert pins(ET.fromstring(of_guest(guest.to_xml(), Kind.PVH, LOG))) == [
            ("0", "4"),
            ("1", "5"),
        ]

    def test_a_kernel_is_started_as_nova_laid_it(self) -> None:
        root = made(Kind.PVH)
        assert root.find("os/type").attrib == {"arch": "x86_64", "machine": "xenpvh"}
        assert root.findtext("os/type") == "xenpvh"
        assert root.findtext("os/kernel") == f"{DIRECTORY}/kernel"
        assert root.findtext("os/initrd") == f"{DIRECTORY}/ramdisk"
        assert root.findtext("os/cmdline") == "console=hvc0"
        assert root.find("os/boot") is None
        assert root.find("features") is None

    def test_a_paravirtualized_guest_is_libvirt_s_linux(self) -> None:
        assert made(Kind.PV).findtext("os/type") == "linux"

    def test_firmware_boots_the_disk_and_finds_its_devices(self) -> None:
        root = made(Kind.HVM)
        assert root.find("os/boot").get("dev") == "hd"
        assert {one.tag for one in root.find("features")} == {"acpi", "apic", "pae"}

    def test_disks_are_qemu_s_to_serve_on_xen_s_bus(self) -> None:
        disks = made(Kind.PVH).findall("devices/disk")
        assert [one.find("target").attrib for one in disks] == [
            {"dev": f"xvd{letter}", "bus": "xen"} for letter in "abc"
        ]
        assert [one.find("driver").attrib for one in disks] == [
            {"name": "qemu", "type": image_format} for image_format in ("qcow2", "qcow2", "raw")
        ]
        assert disks[0].find("source").get("file") == f"{DIRECTORY}/disk"

    def test_the_config_drive_is_a_disk_that_cannot_be_written(self) -> None:
        *others, drive = made(Kind.HVM).findall("devices/disk")
        assert drive.get("device") == "disk" and drive.find("readonly") is not None
        assert all(one.find("readonly") is None for one in others)

    def test_ports_are_xen_s_own_cards(self) -> None:
        cards = made(Kind.HVM).findall("devices/interface")
        assert tuple(card.find("mac").get("address").lower() for card in cards) == MACS
        assert {card.find("model").get("type") for card in cards} == {"netfront"}
        assert cards[0].find("virtualport").get("type") == "openvswitch"
        assert [card.find("target").get("dev") for card in cards] == ["tap0", "tap1"]

    def test_what_only_qemu_has_is_left_out(self) -> None:
        devices = made(Kind.PVH, graphics=True).find("devices")
        assert {one.tag for one in devices} == {"disk", "interface", "console"}

    def test_a_display_is_there_where_it_is_emulated(self) -> None:
        root = made(Kind.HVM, graphics=True)
        assert root.find("devices/graphics").get("listen") == "192.0.2.7"

    def test_the_console_is_xen_s_or_the_first_serial_line(self) -> None:
        console = made(Kind.PVH).find("devices/console")
        assert console.get("type") == "pty" and console.find("target").get("type") == "xen"
        serial = made(Kind.HVM).find("devices/serial")
        assert serial.get("type") == "file" and serial.find("source").get("path") == LOG

    def test_the_time_stamp_counter_is_as_the_operator_said(self) -> None:
        assert made(Kind.PVH).find("clock/timer") is None
        timer = made(Kind.PVH, tsc_mode="native").find("clock/timer")
        assert timer.attrib == {"name": "tsc", "mode": "native"}


class TestWhatXenHasNot:
    def test_a_kind_without_its_kernel(self) -> None:
        with pytest.raises(Unfit, match="kernel"):
            of_guest(xenguest.guest().to_xml(), Kind.PVH, LOG)

    def test_a_device_that_was_asked_for_is_named(self) -> None:
        guest = xenguest.guest()
        guest.add_device(config.LibvirtConfigGuestWatchdog())
        with pytest.raises(Unfit, match="no watchdog"):
            of_guest(guest.to_xml(), Kind.HVM, LOG)

    @pytest.mark.parametrize("tag", ["hostdev", "filesystem", "tpm", "shmem", "redirdev", "sound"])
    def test_so_is_any_other(self, tag: str) -> None:
        with pytest.raises(Unfit, match=f"no {tag}"):
            of_device(f"<{tag}/>", Kind.HVM)

    def test_firmware_of_another_kind(self) -> None:
        guest = xenguest.guest()
        guest.os_firmware = "efi"
        with pytest.raises(Unfit, match="UEFI"):
            of_guest(guest.to_xml(), Kind.HVM, LOG)

    def test_a_disk_of_another_bus(self) -> None:
        with pytest.raises(Unfit, match="'vda' is not on Xen's bus"):
            of_device(xenguest.disk("vda", "disk").to_xml(), Kind.PVH)

    def test_another_domain_is_none_of_nova_s(self) -> None:
        with pytest.raises(Unfit, match="'exe'"):
            kind_of("<domain><os><type>exe</type></os></domain>")


class TestOneDevice:
    def test_a_volume_is_attached_by_xen_s_own_protocol(self) -> None:
        volume = config.LibvirtConfigGuestDisk()
        volume.source_type, volume.source_path = "block", "/dev/sdb"
        volume.driver_name, volume.driver_format = "qemu", "raw"
        volume.target_dev, volume.target_bus, volume.serial = "xvdd", "xen", "a-volume"
        root = ET.fromstring(of_device(volume.to_xml(), Kind.PVH))
        assert root.get("type") == "block" and root.find("source").get("dev") == "/dev/sdb"
        assert root.find("target").attrib == {"dev": "xvdd", "bus": "xen"}
        assert root.findtext("serial") == "a-volume"

    def test_what_xen_has_not_is_refused(self) -> None:
        with pytest.raises(Unfit, match="no rng"):
            of_device(config.LibvirtConfigGuestRng().to_xml(), Kind.PVH)
