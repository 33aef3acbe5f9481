"""What of a definition is an obstacle, and what a clone's definition keeps."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ET

import pytest

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import definition, identity, inspect
from nova_trusted_clone.ports import Identity, NicIdentity

SOURCE = """<domain type='qemu'><name>web-1</name><uuid>11111111-1111-1111-1111-111111111111</uuid>
<genid>22222222-2222-2222-2222-222222222222</genid><metadata><x/></metadata>
<memory unit='KiB'>262144</memory><currentMemory unit='KiB'>262144</currentMemory>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/source/vda'/>
 <backingStore type='file'><source file='/source/base'/></backingStore><target dev='vda' bus='virtio'/></disk>
<interface type='bridge'><mac address='52:54:00:aa:00:01'/><source bridge='br-source'/><target dev='vnet0'/>
 <model type='virtio'/><address type='pci' bus='0x01'/></interface>
<serial type='file'><source path='/source/serial.log'/></serial>
<serial type='pty'><log file='/source/console.log'/></serial>
<console type='file'><source path='/source/serial.log'/></console>
<channel type='unix'><source mode='bind' path='/run/source'/></channel>
<graphics type='vnc' port='5901'/>
</devices><seclabel type='dynamic'/></domain>"""
CLONE = Identity(
    "web-1-clone",
    "33333333-3333-3333-3333-333333333333",
    (NicIdentity("52:54:00:bb:00:01", "br0"), NicIdentity("52:54:00:bb:00:02", "br1")),
)
BACKINGS = {"vda": pathlib.Path("/store/disks/vda")}


def made() -> identity.CloneDefinition:
    return identity.of_clone(SOURCE, CLONE, pathlib.Path("/clone"), BACKINGS)


def test_nothing_of_the_sources_identity_or_host_is_left() -> None:
    text = made().text
    for trace in (
        "web-1<",
        "1111-",
        "2222-",
        "/source",
        "/run/source",
        "aa:00:01",
        "br-source",
        "vnet0",
    ):
        assert trace not in text
    assert "seclabel" not in text
    assert "metadata" not in text
    root = ET.fromstring(text)
    assert (root.findtext("name"), root.findtext("uuid")) == (CLONE.name, CLONE.uuid)


def test_the_restored_card_is_on_no_network_and_does_not_know_the_sources_address() -> None:
    card = ET.fromstring(made().text).find("devices/interface")
    assert card is not None
    assert card.get("type") == "ethernet"
    assert card.find("source") is None
    assert card.find("link").get("state") == "down"  # type: ignore[union-attr]
    assert card.find("mac").get("address") == "52:54:00:bb:00:01"  # type: ignore[union-attr]


def test_the_clones_cards_have_the_same_place_and_a_new_network() -> None:
    first, second = (ET.fromstring(text) for text in made().interfaces)
    assert first.find("mac").get("address") == "52:54:00:bb:00:01"  # type: ignore[union-attr]
    assert first.find("source").get("bridge") == "br0"  # type: ignore[union-attr]
    assert first.find("address").get("bus") == "0x01"  # type: ignore[union-attr]
    assert second.find("mac").get("address") == "52:54:00:bb:00:02"  # type: ignore[union-attr]


def test_memory_is_a_private_file_and_disks_are_overlays_copied_on_read() -> None:
    root = ET.fromstring(made().text)
    assert root.find("memoryBacking/source").get("type") == "file"  # type: ignore[union-attr]
    assert root.find("memoryBacking/access").get("mode") == "private"  # type: ignore[union-attr]
    disk = root.find("devices/disk")
    assert disk is not None
    assert disk.find("source").get("file") == "/clone/vda.qcow2"  # type: ignore[union-attr]
    assert disk.find("backingStore/source").get("file") == "/store/disks/vda"  # type: ignore[union-attr]
    assert disk.find("driver").get("copy_on_read") == "on"  # type: ignore[union-attr]


def test_a_serial_line_and_its_console_share_a_file_of_the_clone() -> None:
    root = ET.fromstring(made().text)
    paths = [e.get("path") for e in root.findall("devices/*/source") if e.get("path")]
    assert paths == ["/clone/console0.log", "/clone/console0.log"]
    assert root.find("devices/serial/log").get("file") == "/clone/console1.log"  # type: ignore[union-attr]


def test_disks_that_were_not_frozen_are_refused() -> None:
    with pytest.raises(MalformedState, match="vda is not among"):
        identity.of_clone(SOURCE, CLONE, pathlib.Path("/clone"), {})
    with pytest.raises(MalformedState, match="frozen were"):
        backings = {**BACKINGS, "vdb": pathlib.Path("/store/disks/vdb")}
        identity.of_clone(SOURCE, CLONE, pathlib.Path("/clone"), backings)


@pytest.mark.parametrize(
    "text",
    [
        "<domain",
        "<network/>",
        "<!DOCTYPE d [<!ENTITY a 'a'>]><domain/>",
        "<domain>" + " " * (1 << 20),
    ],
)
def test_what_is_no_definition_is_refused(text: str) -> None:
    with pytest.raises(MalformedState, match="domain definition"):
        definition.parse(text)


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        ("<devices><hostdev type='pci'/></devices>", "host device"),
        ("<devices><hostdev type='mdev'/></devices>", "vGPU"),
        ("<devices><interface type='hostdev'/></devices>", "SR-IOV"),
        ("<launchSecurity type='sev'/>", "encrypted"),
        ("<os><nvram>x</nvram></os>", "UEFI"),
        ("<devices><tpm><backend type='passthrough'/></tpm></devices>", "passthrough"),
        ("<memoryBacking><hugepages/></memoryBacking>", "huge pages"),
        ("<memoryBacking><source type='file'/></memoryBacking>", "a file's"),
        ("<cpu><numa><cell/></numa></cpu>", "NUMA"),
        ("<numatune><memory mode='strict' nodeset='1'/></numatune>", "NUMA"),
        ("<cputune><vcpupin vcpu='0' cpuset='3'/></cputune>", "pinned"),
        ("<devices><memory model='dimm'/></devices>", "plugged memory"),
    ],
)
def test_obstacles_are_named(piece: str, reason: str) -> None:
    root = definition.parse(f"<domain>{piece}</domain>")
    (found,) = inspect.device_obstacles(root) + inspect.memory_obstacles(root)
    assert reason in found


def test_disks_that_are_not_the_servers_own_local_files_are_obstacles() -> None:
    text = """<domain><devices>
    <disk type='network' device='disk'><source name='pool/x'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><driver type='raw'/><source file='/c'/><target dev='sda'/></disk>
    <disk type='file' device='cdrom'><target dev='sdb'/></disk>
    <disk type='file' device='cdrom'><driver type='raw'/><source file='/c'/><target dev='sdc'/><readonly/></disk>
    <disk type='file' device='disk'><driver type='vmdk'/><source file='/c'/><target dev='vdb'/><shareable/></disk>
    </devices></domain>"""
    disks = definition.disks(definition.parse(text))
    found = [reason for disk in disks for reason in inspect.disk_obstacles(disk)]
    assert [reason.split(":")[0] for reason in found] == [
        "disk vda",
        "disk sda",
        "disk vdb",
        "disk vdb",
    ]
