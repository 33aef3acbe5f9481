"""The lab's Xen hosts, before any of them is started."""

from __future__ import annotations

import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import cast

import pytest
from labkit.errors import ConsoleTimeout, GuestFailed, LabError
from labkit.paths import LabPaths
from labkit.xen import guests, image
from labkit.xen.guests import Wish, XenGuest
from labkit.xen.hosts import XenHosts
from labkit.xen.machine import Machine


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


class Terminal:
    """A host with one guest, whose console has one line more at each look."""

    name = "xen-a"

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)
        self._looks = 0

    def run(self, words: Sequence[object]) -> str:
        if words[0] == "stat":
            return "0"
        if words[0] == "virsh":
            return "web-1"
        self._looks += 1
        return "".join(f"{line} ;\n" for line in self._lines[: self._looks])


def printing(monkeypatch: pytest.MonkeyPatch, *lines: str) -> XenGuest:
    monkeypatch.setattr(guests, "POLL_S", 0.001)
    unordered = guests.Definition(96, (), ())
    return XenGuest(cast(Machine, Terminal(*lines)), "web-1", "1-2-3", unordered)


def test_memory_is_undamaged_when_all_of_it_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that rests long says for minutes that nothing is wrong, having looked at nothing."""
    ticks = [f"TICK n={n} pass={n // 2} checked=0 bad=0" for n in range(6, 14)]
    guest = printing(monkeypatch, *ticks)
    assert guest.wait_for_pass(60.0).number("pass") == 5


def test_damage_in_that_pass_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = printing(
        monkeypatch, "TICK n=1 pass=3 bad=0", "BADPAGE index=7", "TICK n=2 pass=5 bad=1"
    )
    with pytest.raises(GuestFailed, match="BADPAGE"):
        guest.wait_for_pass(60.0)


def test_a_guest_that_checks_nothing_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest = printing(monkeypatch, "TICK n=1 pass=3 bad=0", "TICK n=2 pass=3 bad=0")
    with pytest.raises(ConsoleTimeout, match="all of its memory"):
        guest.wait_for_pass(0.05)


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
