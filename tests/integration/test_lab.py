"""The lab itself: if it lies, every other integration test lies with it."""

from __future__ import annotations

import os
import pathlib
import signal
import xml.etree.ElementTree as ET

import pytest
from labkit.guests import Guest
from labkit.host import Host
from labkit.lab import Lab
from labkit.sandbox import inhabitants

pytestmark = pytest.mark.integration


def test_the_guest_checks_itself_and_knows_who_it_is(source_guest: Guest) -> None:
    """Memory, disk, generation id and MAC as the guest sees them are those that libvirt gave it."""
    found = source_guest.console.check_itself()
    assert found.bad == 0
    assert found.pages > 10_000
    definition = ET.fromstring(source_guest.domain_xml())
    genid = source_guest.console.wait_for("GENID")
    assert genid["value"] == definition.findtext("genid")
    nic = source_guest.console.wait_for("NIC", lambda line: line["carrier"] == "1")
    assert nic["mac"] == source_guest.definition.macs[0]


def test_the_guest_uses_its_vtpm(source_guest: Guest) -> None:
    """Random numbers differ, PCR 16 is what the guest's extends make of it, and there are EK certificates."""
    first = source_guest.console.wait_for("TPM")
    second = source_guest.console.wait_for("TPM", lambda line: line.number("n") > first.number("n"))
    assert (first["rc"], second["rc"]) == ("0", "0")
    assert first["random"] != second["random"]
    assert first["pcr16"] != second["pcr16"]
    assert second["pcr16_kept"] == "1"
    assert len(second["ek_rsa"]) == 64


def test_two_disks_two_processors_and_a_video_device(start_guest: object) -> None:
    """The variants that a freeze must cope with."""
    guest: Guest = start_guest(name="wide", disks=(32, 16), vcpus=2, video=True)  # type: ignore[operator]
    assert guest.console.check_itself().bad == 0


def test_hosts_reach_each_other_and_nothing_else(lab: Lab) -> None:
    """The cable works both ways; there is no route to anywhere."""
    for host, peer in ((lab.source, lab.destination), (lab.destination, lab.source)):
        routes = host.run(["ip", "route", "get", peer.address])
        assert "dev lab0" in routes
        assert "default" not in host.run(["ip", "route"])


def test_a_mount_made_outside_below_shared_is_seen_inside(lab: Lab) -> None:
    """A store's FUSE mount must reach the host's QEMU."""
    place = lab.source.shared / "probe"
    place.mkdir()
    os.system(f"mount -t tmpfs probe {place}")
    try:
        (place / "file").write_text("here")
        assert lab.source.run(["cat", str(place / "file")]) == "here"
    finally:
        os.system(f"umount {place}")


def _kill(host: Host, name: str) -> None:
    for found in inhabitants(host.marker):
        if pathlib.Path(f"/proc/{found.pid}/comm").read_text().strip() == name:
            os.kill(found.pid, signal.SIGKILL)


def test_down_works_after_everything_was_killed(lab: Lab, tmp_path: pathlib.Path) -> None:
    """Another lab whose holder and libvirtd are killed goes down without a rest."""
    from labkit.paths import LabPaths

    other = Lab.at(LabPaths(tmp_path / "other", lab.paths.cache))
    other.up(print)
    for name in ("sleep", "libvirtd"):
        _kill(other.source, name)
    other.down(print)
    assert other.leftovers() == []
    other.down(print)
