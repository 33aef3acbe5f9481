"""The lab's Xen hosts, before any of them is started."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ET

import pytest
from labkit.errors import LabError
from labkit.paths import LabPaths
from labkit.xen import guests, image
from labkit.xen.guests import Wish
from labkit.xen.hosts import XenHosts


@pytest.fixture
def hosts(tmp_path: pathlib.Path) -> XenHosts:
    return XenHosts.at(LabPaths(tmp_path, tmp_path / "cache"))


def test_hosts_have_their_names(hosts: XenHosts) -> None:
    assert hosts.machine("xen-b") is hosts.destination
    with pytest.raises(LabError, match="no Xen host 'xen-c'"):
        hosts.machine("xen-c")


def test_nothing_is_up_before_it_is_started(hosts: XenHosts) -> None:
    assert not hosts.is_up
    hosts.down()


def test_a_command_reaches_a_host_in_one_piece(hosts: XenHosts) -> None:
    hosts.source.base.mkdir(parents=True)
    (hosts.source.base / "port").write_text("2222")
    words = hosts.source.shell(["echo", "two words", "; reboot"])
    assert words[-1] == "echo 'two words' '; reboot'"
    assert (words[-2], words[words.index("-p") + 1]) == ("root@127.0.0.1", "2222")


@pytest.mark.parametrize(("kind", "os_type"), [("pvh", "xenpvh"), ("pv", "linux")])
def test_a_guests_definition(hosts: XenHosts, kind: str, os_type: str) -> None:
    wish = Wish(kind=kind)
    definition = guests.Definition(
        96, (guests.Disk("xvda", pathlib.Path("/disk"), 1 << 26),), ("52:54:00:00:00:01",)
    )
    guest = guests.XenGuest(hosts.source, "web-1", "1-2-3", definition)
    root = ET.fromstring(guests.to_xml(guest, wish))
    assert root.findtext("os/type") == os_type
    assert root.find("devices/disk/source[@file='/disk']") is not None
    assert root.find("devices/interface/mac[@address='52:54:00:00:00:01']") is not None


def test_packages_come_from_where_apt_takes_debian_from(monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        "Debian|deb http://a bookworm main\n"
        "Debian|deb http://a bookworm main\n"
        "Debian-Security|deb http://b bookworm-security main\n"
        "Elsewhere|deb http://c stable main\n"
    )
    monkeypatch.setattr(image.process, "run", lambda *_a, **_k: told)
    assert image._apt_sources() == (
        "deb http://a bookworm main\ndeb http://b bookworm-security main\n"
    )
    monkeypatch.setattr(image.process, "run", lambda *_a, **_k: "")
    with pytest.raises(LabError, match="knows no Debian"):
        image._apt_sources()
