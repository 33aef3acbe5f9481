"""The network goes away in mid transfer, for a while and for good."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from labkit import guests
from labkit.guests import Guest
from labkit.ordering import Cloning

from tests.integration import clonelab
from tests.integration.clonelab import CloneLab, until

pytestmark = pytest.mark.integration
AWAY_S = 5.0


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The source's exporters can be told to hold pages back, so that a transfer is in its middle when the cable is pulled."""
    clones.start_evil_agent(clones.source)
    clones.start_agent(clones.destination)


@pytest.fixture(autouse=True)
def slow(clones: CloneLab) -> Iterator[None]:
    """Each reply takes a while, so that a transfer has a middle; the cable is plugged in again in any case."""
    clones.wish(clones.source, exporter={"fault": "slow", "seconds": 0.3})
    yield
    clones.source.set_link(True)


def in_mid_transfer(clones: CloneLab, cloning: Cloning) -> None:
    """Wait until the clone is being restored while most of its pages are still missing."""
    (clone,) = cloning.clones
    admin = clones.operator.agent(clones.destination).admin

    def some_pages() -> bool:
        told = admin.call("clone_status", clone_id=clone.clone_id)
        assert told["phase"] != "failed", told
        transfer = told.get("transfer", {})
        found = transfer.get("pages_verified", 0)
        return bool(0.1 < found / (transfer.get("pages_total") or 1) < 0.9)

    until("some of the pages", some_pages, 30)


def test_a_network_that_comes_back_costs_nothing_but_time(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web)
        in_mid_transfer(clones, cloning)
        clones.source.set_link(False)
        time.sleep(AWAY_S)
        assert "failed" not in clones.phases(cloning)
        clones.source.set_link(True)
        assert [clone.phase for clone in cloning.wait(120)] == ["complete"]
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])


def test_a_network_that_stays_away_ends_the_clone_at_the_limit(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web)
        in_mid_transfer(clones, cloning)
        clones.source.set_link(False)
        cut_at = time.monotonic()
        there, here = clones.ended(cloning, 60)
        assert 8 <= time.monotonic() - cut_at < 30
        assert "has not answered for" in there
        assert "away for more than 8 s" in here
        with guests.connected(clones.destination) as connection:
            assert not connection.listAllDomains()
        clones.source.set_link(True)


def test_a_destination_that_cannot_be_reached_at_all_is_told_at_the_limit(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web):
        clones.source.set_link(False)
        cloning = clones.order(web)
        # The destination was told by the control plane, and waits for a source that does not come.
        reason = until(
            "the end at the source",
            lambda: clones.outgoing(cloning, cloning.clones[0])["reason"],
            40,
        )
        assert "no answer" in reason
        assert cloning.pause_s() == 0
        clones.source.set_link(True)
        clones.operator.agent(clones.destination).admin.call(
            "end", clone_id=cloning.clones[0].clone_id, reason="the source gave up"
        )
        clones.ended(cloning)


def test_a_server_that_ends_in_mid_transfer_ends_its_clone(clones: CloneLab) -> None:
    with clones.nothing_left():
        with clonelab.running(clones.source, name="short-lived") as guest:
            cloning = clones.order(guest)
            in_mid_transfer(clones, cloning)
            with guests.connected(clones.source) as connection:
                connection.lookupByUUIDString(guest.uuid).destroy()
                there, here = clones.ended(cloning, 60)
        assert "the frozen server cannot be read" in there
        assert "the frozen server cannot be read" in here
