"""What goes wrong on the way of a Xen guest's clone: the clone ends with the reason, nothing of it stays, the server goes on.

One guest lives through all of it, and is cloned well in the end.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator

import pytest
from labkit import ordering, process
from labkit.display import CloneProgress
from labkit.xen.fleet import CONFIG, Fleet
from labkit.xen.guests import Wish, XenGuest
from labkit.xen.machine import Machine

from tests.xen.conftest import DISK_MIB, StartGuest, starting

Cloning = ordering.Cloning[XenGuest, Machine]
EVIL_AGENT = "tests.integration.evil_agent"
HELPERS = r"xen\.saver|cmd\.store|[a-z_.]*exporter"
FREEZES = "/var/lib/nova-trusted-clone/freezes"
END_LIMIT_S = 900.0
CLEAN_LIMIT_S = 120.0
# A host's answer takes its seconds here.
NETWORK_LIMIT_S = 60
AWAY_S = 5.0


@pytest.fixture(scope="module")
def hosts(fleet: Fleet) -> Iterator[Fleet]:
    """With an agent at the source whose exporters do what a story wishes."""
    wish(fleet)
    fleet.start_agent(fleet.hosts.source, EVIL_AGENT, network_limit_s=NETWORK_LIMIT_S)
    fleet.start_agent(fleet.hosts.destination, network_limit_s=NETWORK_LIMIT_S)
    yield fleet
    for machine in fleet.hosts.machines:
        fleet.start_agent(machine)


@pytest.fixture(scope="module")
def survivor(hosts: Fleet) -> Iterator[XenGuest]:
    """The guest of all these stories; without a vTPM, which is quicker."""
    with starting(hosts) as start:
        yield start(Wish(name="survivor", vtpm=False, disk_mib=DISK_MIB))


def wish(fleet: Fleet, **exporter: object) -> None:
    """What the source's exporters shall do from now on; nothing: be honest."""
    wishes = json.dumps({"exporter": exporter or None})
    path = CONFIG.rpartition("/")[0] + "/wishes.json"
    fleet.hosts.source.run(["tee", path], script=wishes)


def order(fleet: Fleet, source: XenGuest) -> Cloning:
    return ordering.order(fleet, source, fleet.hosts.destination, vtpm_mode="none")


def failed(cloning: Cloning) -> CloneProgress:
    """The only clone, which has failed."""
    (progress,) = cloning.wait(END_LIMIT_S, poll_s=1.0)
    assert progress.phase == "failed", progress
    return progress


def in_mid_transfer(cloning: Cloning) -> None:
    """Wait until some of its pages are there, and most are not."""

    def begun() -> bool:
        (progress,) = cloning.poll()
        assert not progress.ended, progress
        return progress.pages_verified > 0

    assert process.wait_until(begun, END_LIMIT_S, 0.5)


def wait_for_copy(machine: Machine) -> None:
    """Wait until the source's memory is being copied: the first of its pages are there."""
    copy = f"find {FREEZES} -name memory -size +0 2>/dev/null | grep -q ."
    machine.run(["bash", "-c", f"until {copy}; do sleep 0.2; done"], limit_s=600)


@contextlib.contextmanager
def nothing_left(fleet: Fleet, *guests: XenGuest) -> Iterator[None]:
    """Both hosts are afterwards as before, and the guests go on unharmed."""
    before = [_there(machine) for machine in fleet.hosts.machines]
    since = [guest.size() for guest in guests]
    try:
        yield
    except Exception as error:
        for guest in guests:
            error.add_note(guest.describe())
        raise
    wish(fleet)

    def as_before() -> bool:
        return [_there(machine) for machine in fleet.hosts.machines] == before

    assert process.wait_until(as_before, CLEAN_LIMIT_S, 2.0), [
        _there(machine) for machine in fleet.hosts.machines
    ]
    for guest, begun in zip(guests, since, strict=True):
        # Since the story began, and once more at its end: a damaged page or block fails either.
        guest.wait_for("TICK", begun)
        guest.wait_for("DISKCHECK", guest.size())


def _there(machine: Machine) -> list[str]:
    """Domains, helpers and mounts that a clone may add to."""
    script = f"""
    virsh -c xen:///system list --name
    pgrep -fa -- '-m ({HELPERS})' | cut -d' ' -f2-4
    awk '$3 ~ /^fuse/ {{print $2}}' /proc/mounts
    """
    return sorted(machine.run(["bash", "-s"], script=script).split("\n"))


def test_a_page_that_was_changed_on_its_way_is_never_used(hosts: Fleet, survivor: XenGuest) -> None:
    with nothing_left(hosts, survivor):
        wish(hosts, fault="flip", kind="ram", after=2)
        assert "is not what the source signed" in failed(order(hosts, survivor)).reason


def test_the_process_that_saves_is_killed(hosts: Fleet, survivor: XenGuest) -> None:
    with nothing_left(hosts, survivor):
        cloning = order(hosts, survivor)
        wait_for_copy(survivor.host)
        survivor.host.run(["pkill", "-KILL", "-f", "[x]en.saver save"])
        assert "the process that saves the domain" in failed(cloning).reason


def test_the_store_is_killed(hosts: Fleet, survivor: XenGuest) -> None:
    with nothing_left(hosts, survivor):
        wish(hosts, fault="slow", seconds=0.5)
        cloning = order(hosts, survivor)
        in_mid_transfer(cloning)
        hosts.hosts.destination.run(["pkill", "-KILL", "-f", "[c]md.store"])
        assert "store" in failed(cloning).reason


def test_a_source_that_ends_while_it_is_copied_ends_its_clone(
    hosts: Fleet, start_guest: StartGuest
) -> None:
    with nothing_left(hosts):
        mortal = start_guest(Wish(name="mortal", vtpm=False, disk_mib=DISK_MIB, cpuset="2"))
        cloning = order(hosts, mortal)
        wait_for_copy(mortal.host)
        mortal.destroy()
        assert "ended while it was saved" in failed(cloning).reason


def test_a_network_that_stays_away_ends_the_clone_at_the_limit(
    hosts: Fleet, survivor: XenGuest
) -> None:
    with nothing_left(hosts, survivor):
        wish(hosts, fault="slow", seconds=0.5)
        cloning = order(hosts, survivor)
        in_mid_transfer(cloning)
        hosts.hosts.source.set_link(False)
        try:
            assert re.search("has not answered for|away for more than", failed(cloning).reason)
        finally:
            hosts.hosts.source.set_link(True)


def test_after_all_of_it_a_network_that_comes_back_costs_nothing_but_time(
    hosts: Fleet, survivor: XenGuest
) -> None:
    wish(hosts, fault="slow", seconds=0.2)
    cloning = order(hosts, survivor)
    in_mid_transfer(cloning)
    hosts.hosts.source.set_link(False)
    time.sleep(AWAY_S)
    hosts.hosts.source.set_link(True)
    (progress,) = cloning.wait(END_LIMIT_S, poll_s=2.0)
    assert progress.phase == "complete", progress.reason
    ordered = cloning.clones[0]
    clone = XenGuest(hosts.hosts.destination, ordered.name, ordered.uuid, survivor.definition)
    for guest in (survivor, clone):
        since = guest.size()
        assert guest.wait_for("TICK", since).number("bad") == 0
        assert guest.wait_for("DISKCHECK", since).number("bad") == 0
    clone.destroy()


def test_a_source_that_ends_by_itself_afterwards_is_not_taken_for_running(
    hosts: Fleet, survivor: XenGuest
) -> None:
    """libvirt hears of a domain's end once, and a freeze's suspend was that once."""
    survivor.host.run(["xl", "sysrq", survivor.name, "b"])
    assert process.wait_until(lambda: not survivor.runs, CLEAN_LIMIT_S, 2.0), survivor.describe()
