"""A guest's definition says what was wished, and nothing else."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ET

from labkit.domain import Disk, GuestDefinition, to_xml
from labkit.guest.image import BootImage

BOOT = BootImage(pathlib.Path("/boot/vmlinuz"), pathlib.Path("/boot/initramfs"))
PLAIN = GuestDefinition(
    "web & co", "u-1", 256, BOOT, pathlib.Path("/lab/serial"), vtpm=False, genid=False
)
FULL = GuestDefinition(
    "web-1",
    "u-1",
    512,
    BOOT,
    pathlib.Path("/lab/serial"),
    beat=pathlib.Path("/lab/beat"),
    vcpus=2,
    disks=(
        Disk("vda", pathlib.Path("/lab/a.img"), 1 << 20),
        Disk("vdb", pathlib.Path("/lab/b.img"), 1 << 20, "raw"),
    ),
    macs=("52:54:00:00:00:01",),
    video=True,
    pages=4096,
)


def _parsed(guest: GuestDefinition) -> ET.Element:
    return ET.fromstring(to_xml(guest))


def test_a_plain_guest_has_no_more_than_a_serial_port() -> None:
    domain = _parsed(PLAIN)
    assert domain.findtext("name") == "web & co"
    assert domain.find("genid") is None
    for absent in ("disk", "interface", "tpm", "video"):
        assert domain.findall(f"devices/{absent}") == []
    assert [e.get("path") for e in domain.findall("devices/serial/source")] == ["/lab/serial"]


def test_a_full_guest_has_everything() -> None:
    domain = _parsed(FULL)
    assert domain.find("genid") is not None
    assert domain.findtext("vcpu") == "2"
    targets = [(e.get("dev")) for e in domain.findall("devices/disk/target")]
    formats = [(e.get("type")) for e in domain.findall("devices/disk/driver")]
    assert (targets, formats) == (["vda", "vdb"], ["qcow2", "raw"])
    assert domain.find("devices/tpm/backend[@type='emulator']") is not None
    assert [e.get("port") for e in domain.findall("devices/serial/target")] == ["0", "1"]
    assert "np=4096 rate=2000" in (domain.findtext("os/cmdline") or "")
