"""A server of a control plane's: what of its clone is the control plane's word, and what stays as the guest knows it."""

from __future__ import annotations

import dataclasses
import pathlib
import xml.etree.ElementTree as ET

import pytest

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import hostside, identity
from nova_trusted_clone.ports import HostSide, Identity, NicIdentity

SOURCE_UUID = "11111111-1111-1111-1111-111111111111"
# The parts of a definition that Nova 34 makes which are not the same on every host, or say who the server is.
SOURCE = f"""<domain type='kvm'><name>instance-00000001</name><uuid>{SOURCE_UUID}</uuid>
<genid>22222222-2222-2222-2222-222222222222</genid>
<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:name>web</nova:name></nova:instance></metadata>
<memory unit='KiB'>131072</memory><vcpu placement='static' cpuset='0-3'>2</vcpu>
<sysinfo type='smbios'><system><entry name='manufacturer'>OpenStack Foundation</entry>
<entry name='serial'>{SOURCE_UUID}</entry><entry name='uuid'>{SOURCE_UUID}</entry></system></sysinfo>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><smbios mode='sysinfo'/></os>
<devices><emulator>/source/bin/qemu</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/source/disk' index='1'/>
 <target dev='vda' bus='virtio'/><iotune><read_iops_sec>500</read_iops_sec></iotune><address type='pci' bus='0x04'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw' cache='none'/><source file='/source/disk.config'/>
 <target dev='sda' bus='sata'/><readonly/></disk>
<interface type='ethernet'><mac address='fa:16:3e:00:00:01'/><target dev='tap-source'/><model type='virtio'/>
 <mtu size='1450'/><address type='pci' bus='0x02'/></interface>
<serial type='pty'><source path='/dev/pts/0'/><log file='/source/console.log' append='off'/>
 <target type='isa-serial' port='0'/></serial>
<console type='pty'><source path='/dev/pts/0'/><log file='/source/console.log' append='off'/>
 <target type='serial' port='0'/></console>
<channel type='unix'><source mode='bind' path='/source/agent.sock'/><target type='virtio' name='org.qemu.guest_agent.0'/>
 <address type='virtio-serial' port='1'/></channel>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='source-secret'/></backend></tpm>
<graphics type='vnc' port='5900' autoport='yes' listen='10.0.0.1'><listen type='address' address='10.0.0.1'/></graphics>
<graphics type='spice' port='5901' autoport='yes' listen='10.0.0.1'/>
<video><model type='virtio' heads='1' primary='yes'/></video>
<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='10'/></memballoon>
</devices></domain>"""
SIDE = HostSide(
    interfaces=(
        "<interface type='bridge'><mac address='fa:16:3e:00:00:02'/><source bridge='br-int'/><target dev='tap-clone'/>"
        "<model type='e1000'/><virtualport type='openvswitch'/><mtu size='1400'/></interface>",
    ),
    disks={"vda": "/clone/disk", "sda": "/clone/disk.config"},
    metadata="<metadata><x:instance xmlns:x='urn:x'>clone</x:instance></metadata>",
    console_log="/clone/console.log",
    graphics=(
        "<graphics type='vnc' autoport='yes' listen='10.0.0.2'><listen type='address' address='10.0.0.2'/></graphics>",
    ),
    characters=(
        "<serial type='tcp'><source mode='bind' host='10.0.0.2' service='10007'/><protocol type='raw'/>"
        "<log file='/clone/console.log' append='off'/><target port='9'/></serial>",
        "<channel type='unix'><source mode='bind' path='/clone/agent.sock'/>"
        "<target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
    ),
    cpuset="8-11",
    vtpm_secret="clone-secret",
    persistent=True,
)
CLONE = Identity(
    "instance-00000002",
    "33333333-3333-3333-3333-333333333333",
    (NicIdentity("fa:16:3e:00:00:02"),),
    SIDE,
)
BACKINGS = {name: pathlib.Path(f"/store/disks/{name}") for name in ("vda", "sda")}


def made(side: HostSide = SIDE) -> identity.CloneDefinition:
    clone = dataclasses.replace(CLONE, host_side=side)
    return identity.of_clone(SOURCE, clone, pathlib.Path("/engine"), BACKINGS)


def tree(side: HostSide = SIDE) -> ET.Element:
    return ET.fromstring(made(side).text)


def attributes(element: ET.Element | None) -> dict[str, str]:
    assert element is not None
    return dict(element.attrib)


def test_nothing_of_the_sources_host_or_identity_is_left() -> None:
    text = made().text
    for trace in ("/source", "tap-source", "source-secret", "10.0.0.1", "web<"):
        assert trace not in text
    # Whole: parts of them are in a generation id that is made by chance.
    for whole in ("11111111-1111-", "22222222-2222-", '"0-3"'):
        assert whole not in text


def test_what_the_guest_knows_stays() -> None:
    """Or the device state would not fit."""
    root = tree()
    assert attributes(root.find("os/type"))["machine"] == "pc-q35-7.2"
    assert attributes(root.find("devices/interface/mtu")) == {"size": "1450"}
    assert attributes(root.find("devices/interface/address")) == {"type": "pci", "bus": "0x02"}
    assert attributes(root.find("devices/memballoon"))["freePageReporting"] == "on"
    assert attributes(root.find("devices/video/model"))["type"] == "virtio"
    assert attributes(root.find("devices/serial/target")) == {"type": "isa-serial", "port": "0"}
    assert attributes(root.find("devices/channel/address"))["port"] == "1"
    assert root.findtext("devices/disk/iotune/read_iops_sec") == "500"


def test_the_firmwares_tables_name_the_clone() -> None:
    entries = {e.get("name"): e.text for e in tree().iterfind("sysinfo/system/entry")}
    assert entries == {
        "manufacturer": "OpenStack Foundation",
        "serial": CLONE.uuid,
        "uuid": CLONE.uuid,
    }


def test_the_control_plane_says_where_everything_ends_on_its_host() -> None:
    root = tree()
    serial, channel = root.find("devices/serial"), root.find("devices/channel/source")
    assert serial is not None
    assert serial.get("type") == "tcp"
    assert attributes(serial.find("source"))["service"] == "10007"
    assert attributes(serial.find("log"))["file"] == "/clone/console.log"
    assert attributes(channel)["path"] == "/clone/agent.sock"
    # libvirt makes the console of the first serial line by itself.
    assert root.find("devices/console") is None
    (graphics,) = root.findall("devices/graphics")
    assert (graphics.get("type"), graphics.get("listen")) == ("vnc", "10.0.0.2")
    assert attributes(root.find("vcpu"))["cpuset"] == "8-11"
    assert attributes(root.find("devices/tpm/backend/encryption")) == {"secret": "clone-secret"}
    assert root.findtext("metadata/{urn:x}instance") == "clone"


def test_disks_are_where_the_control_plane_keeps_them() -> None:
    disk, drive = tree().findall("devices/disk")
    assert attributes(disk.find("source")) == {"file": "/clone/disk"}
    assert attributes(disk.find("backingStore/source")) == {"file": "/store/disks/vda"}
    # A medium that nobody writes to is copied whole; libvirt refuses to copy on read what is read-only.
    assert attributes(drive.find("source")) == {"file": "/clone/disk.config"}
    assert drive.find("backingStore") is None
    assert "copy_on_read" not in attributes(drive.find("driver"))
    assert made().read_only == {"sda"}


def test_the_clones_card_is_the_control_planes_in_the_slot_that_the_guest_knows() -> None:
    (text,) = made().interfaces
    card = ET.fromstring(text)
    assert attributes(card.find("target")) == {"dev": "tap-clone"}
    assert attributes(card.find("virtualport")) == {"type": "openvswitch"}
    assert attributes(card.find("mtu")) == {"size": "1400"}
    assert attributes(card.find("model")) == {"type": "virtio"}
    assert attributes(card.find("address")) == {"type": "pci", "bus": "0x02"}


def test_without_a_word_of_the_control_plane_displays_are_served_to_nobody() -> None:
    root = tree(dataclasses.replace(SIDE, graphics=(), characters=(), cpuset=None))
    assert root.findall("devices/graphics") == []
    assert attributes(root.find("devices/serial/log"))["file"] == "/clone/console.log"
    assert "path" not in attributes(root.find("devices/channel/source"))
    assert "cpuset" not in attributes(root.find("vcpu"))


def test_a_disk_that_the_control_plane_does_not_know_is_refused() -> None:
    with pytest.raises(MalformedState, match="disk sda of the source is none of the clone's: vda"):
        made(dataclasses.replace(SIDE, disks={"vda": "/clone/disk"}))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"graphics": ("<graphics",)}, "<graphics>: "),
        ({"characters": ("<disk/>",)}, "<serial> expected, found <disk>"),
        ({"interfaces": ("<hostdev/>",)}, "<interface> expected, found <hostdev>"),
        ({"metadata": "<devices/>"}, "<metadata> expected, found <devices>"),
    ],
)
def test_parts_that_are_none_are_named(part: dict[str, object], said: str) -> None:
    with pytest.raises(MalformedState, match=said):
        made(dataclasses.replace(SIDE, **part))  # type: ignore[arg-type]


def test_what_libvirt_keeps_needs_no_store() -> None:
    kept = ET.fromstring(hostside.persistent(made().text))
    assert "/store" not in ET.tostring(kept, encoding="unicode")
    assert kept.find("memoryBacking") is None
    assert all("copy_on_read" not in attributes(d) for d in kept.iterfind("devices/disk/driver"))
