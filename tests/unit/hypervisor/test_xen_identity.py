"""A Xen clone's definition: nothing in it is the source's identity, and what the guest knows of its devices stays."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ET

import pytest

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen.identity import of_clone
from nova_trusted_clone.ports import HostSide, Identity, NicIdentity

SOURCE = """
<domain type='xen' id='7'>
  <name>web-1</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <metadata><owner>tenant</owner></metadata>
  <memory unit='KiB'>98304</memory>
  <vcpu placement='static' cpuset='1'>2</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='1' cpuset='1'/></cputune>
  <os><type arch='x86_64' machine='xenpvh'>xenpvh</type><kernel>/srv/vmlinuz</kernel><cmdline>quiet</cmdline></os>
  <clock offset='utc'><timer name='tsc' mode='native'/></clock>
  <devices>
    <emulator>/usr/bin/their-qemu</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='/theirs/web-1.img'/><backingStore/><target dev='xvda' bus='xen'/>
    </disk>
    <interface type='bridge'>
      <mac address='52:54:00:aa:aa:aa'/><source bridge='br0'/><target dev='vif7.0'/>
    </interface>
    <console type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/><target type='xen' port='0'/></console>
  </devices>
</domain>
"""
HVM = SOURCE.replace(
    "<type arch='x86_64' machine='xenpvh'>xenpvh</type>",
    "<type arch='x86_64' machine='xenfv'>hvm</type>",
)
UUID = "99999999-2222-3333-4444-555555555555"
BACKINGS = {"xvda": pathlib.Path("/store/disks/xvda")}
DIRECTORY = pathlib.Path("/state/clones/1")
WHO = Identity("web-1-clone-1", UUID, (NicIdentity("52:54:00:bb:bb:bb", "br7"),))


def made(source: str = SOURCE, who: Identity = WHO, backings=BACKINGS) -> ET.Element:
    return ET.fromstring(of_clone(source, who, DIRECTORY, backings))


def test_who_it_is():
    root = made()
    assert (root.findtext("name"), root.findtext("uuid")) == (WHO.name, UUID)
    assert root.get("id") is None
    assert root.find("metadata") is None


@pytest.mark.parametrize("model", ["", "<model type='rtl8139'/>", "<model type='netfront'/>"])
def test_a_fully_virtualized_guest_has_no_emulated_card(model: str):
    source = HVM.replace("<target dev='vif7.0'/>", f"<target dev='vif7.0-emu'/>{model}")
    (card,) = made(source).iterfind("devices/interface")
    assert [one.get("type") for one in card.iterfind("model")] == ["netfront"]


def test_another_guests_card_is_xens_own_in_any_case():
    assert made().find("devices/interface/model") is None


def test_nothing_names_the_source_or_its_host():
    text = of_clone(SOURCE, WHO, DIRECTORY, BACKINGS)
    for theirs in (
        "/theirs",
        "their-qemu",
        "11111111",
        "aa:aa",
        "vif7.0",
        "/dev/pts",
        "cpuset",
        "tenant",
    ):
        assert theirs not in text, theirs


def test_its_disk_is_its_own_layer():
    disk = made().find("devices/disk")
    assert disk is not None
    source, driver, target = (disk.find(tag) for tag in ("source", "driver", "target"))
    assert source is not None and source.get("file") == "/state/clones/1/xvda.qcow2"
    assert driver is not None and driver.attrib == {"name": "qemu", "type": "qcow2"}
    assert target is not None and target.get("dev") == "xvda"


def test_its_card_has_its_own_mac_from_the_beginning():
    card = made().find("devices/interface")
    assert card is not None
    mac, source = card.find("mac"), card.find("source")
    assert mac is not None and mac.get("address") == "52:54:00:bb:bb:bb"
    assert source is not None and source.get("bridge") == "br7"


def test_what_the_guest_was_given_of_time_stays():
    assert made().find("clock/timer[@name='tsc']") is not None


def test_a_control_plane_decides_where_it_lies():
    side = HostSide(
        interfaces=("<interface type='bridge'><source bridge='qbr1'/></interface>",),
        disks={"xvda": "/var/lib/nova/disk"},
        metadata="<metadata><instance/></metadata>",
        cpuset="0",
    )
    root = made(who=Identity("instance-7", UUID, WHO.nics, side))
    assert root.find("devices/disk/source[@file='/var/lib/nova/disk']") is not None
    assert root.find("devices/interface/source[@bridge='qbr1']") is not None
    assert root.find("metadata/instance") is not None
    assert root.find("vcpu[@cpuset='0']") is not None
    # libvirt's libxl driver hands Xen the places of single processors only.
    pins = [(pin.get("vcpu"), pin.get("cpuset")) for pin in root.iterfind("cputune/vcpupin")]
    assert pins == [("0", "0"), ("1", "0")]


@pytest.mark.parametrize(
    ("source", "backings", "told"),
    [
        (SOURCE.replace("type='xen'", "type='kvm'", 1), BACKINGS, "'kvm', expected xen"),
        (SOURCE, {}, "xvda is not among the frozen"),
        (SOURCE, {**BACKINGS, "xvdb": pathlib.Path("/b")}, "frozen were"),
        (SOURCE.replace("<uuid>", "<id>").replace("</uuid>", "</id>"), BACKINGS, "no <uuid>"),
        ("<domain type='xen'><name>a</name><uuid>b</uuid></domain>", {}, "no devices"),
    ],
)
def test_definitions_that_do_not_fit(source, backings, told):
    with pytest.raises(MalformedState, match=told):
        made(source, backings=backings)


def test_a_card_too_many():
    with pytest.raises(MalformedState, match="the clone is to have 0"):
        made(who=Identity("web-1-clone-1", UUID, ()))


def of_a_control_plane(**side) -> Identity:
    disks = {"xvda": "/ours/disk"}
    return Identity(WHO.name, UUID, WHO.nics, HostSide(disks=disks, **side))


def test_it_starts_anew_from_its_own_host_s_files():
    root = made(who=of_a_control_plane(boot={"kernel": "/ours/kernel"}))
    assert root.findtext("os/kernel") == "/ours/kernel"
    assert root.findtext("os/cmdline") == "quiet"


def test_a_file_that_the_source_does_not_start_from_is_refused():
    with pytest.raises(MalformedState, match="no <initrd>"):
        made(who=of_a_control_plane(boot={"initrd": "/ours/initrd"}))


def test_its_serial_line_ends_where_the_control_plane_said():
    serial = "<serial type='file'><source path='/theirs/console.log'/><target port='0'/></serial>"
    theirs = HVM.replace("<console type='pty'", serial + "<console type='pty'")
    mine = serial.replace("/theirs", "/ours")
    root = made(theirs, of_a_control_plane(characters=(mine,)))
    line = root.find("devices/serial")
    assert line.get("type") == "file" and line.find("source").get("path") == "/ours/console.log"
