"""Several clones of one freeze, of which one ends early: the others are none the wiser. And what an operator aborts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from labkit import guests
from labkit.guests import Guest
from labkit.ordering import Cloning

from tests.integration.clonelab import CloneLab, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """Their exporters take their time, and they die, where they are told to."""
    for host in clones.lab.hosts:
        clones.start_evil_agent(host)


@contextlib.contextmanager
def slow(clones: CloneLab) -> Iterator[None]:
    """Pages of the guest's memory come slowly: there is time for something to happen meanwhile."""
    wish = {"fault": "slow", "kind": "ram", "name": "pc.ram", "seconds": 0.3, "after": 8}
    clones.wish(clones.source, exporter=wish)
    try:
        yield
    finally:
        clones.wish(clones.source)


def destination_phases(clones: CloneLab, cloning: Cloning) -> list[str]:
    return [clones.incoming(clone)["phase"] for clone in cloning.clones]


def no_domain(clones: CloneLab) -> bool:
    with guests.connected(clones.destination) as connection:
        return not connection.listAllDomains()


def test_a_sibling_that_is_ended_takes_nobody_along(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        with slow(clones):
            cloning = clones.order(web, count=2, memory_mode="eager")
            until(
                "both clones fetching",
                lambda: destination_phases(clones, cloning) == ["fetching"] * 2,
            )
            admin = clones.operator.agent(clones.destination).admin
            admin.call("end", clone_id=cloning.clones[0].clone_id, reason="no longer wanted")
            first, second = cloning.wait(120)
        assert (first.phase, second.phase) == ("failed", "complete")
        assert "no longer wanted" in first.reason
        assert clones.console(cloning.clones[1]).check_itself().bad == 0
        clones.destroy(cloning.clones[1])


def test_one_clone_that_an_operator_aborts_at_the_source(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        with slow(clones):
            cloning = clones.order(web, count=2, memory_mode="eager")
            until(
                "both clones fetching",
                lambda: destination_phases(clones, cloning) == ["fetching"] * 2,
            )
            admin = clones.operator.agent(clones.source).admin
            admin.call("abort", group=cloning.group, clone_id=cloning.clones[1].clone_id)
            first, second = cloning.wait(120)
        assert (first.phase, second.phase) == ("complete", "failed")
        assert "aborted by the operator" in second.reason
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])


def test_a_whole_freeze_that_an_operator_aborts(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web), slow(clones):
        cloning = clones.order(web, count=2, memory_mode="eager")
        until(
            "both clones fetching",
            lambda: destination_phases(clones, cloning) == ["fetching"] * 2,
        )
        clones.operator.agent(clones.source).admin.call("abort", group=cloning.group)
        assert [clone.phase for clone in cloning.wait(60)] == ["failed"] * 2
        assert all("aborted by the operator" in clone.reason for clone in cloning.poll())
        until("the removal of the clones", lambda: no_domain(clones), 20)


def test_a_destination_killed_while_an_eager_clone_is_fetched_takes_it_over_again(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web):
        with slow(clones):
            cloning = clones.order(web, memory_mode="eager")
            until("fetching", lambda: clones.phases(cloning)[1] == "fetching")
            store = clones.store(cloning)
            clones.kill_agent(clones.destination)
            clones.start_evil_agent(clones.destination)
            assert clones.store(cloning) == store
            assert [clone.phase for clone in cloning.wait(120)] == ["complete"]
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])


@pytest.mark.parametrize("vtpm", ["new", "derive"])
def test_a_destination_killed_between_the_vtpm_and_the_restore_takes_all_of_it_back(
    clones: CloneLab, web: Guest, vtpm: str
) -> None:
    clones.operator.allow(allow_vtpm_derive=True)
    with clones.nothing_left(web):
        clones.wish(clones.destination, die="before-the-restore")
        cloning = clones.order(web, vtpm_mode=vtpm)
        agent = clones.agent_process(clones.destination)
        until("the agent's end", lambda: not agent.alive, 60)
        clones.start_evil_agent(clones.destination)
        there, here = clones.ended(cloning)
        assert "the service ended while the clone was restoring" in here
        assert here in there
        until("the removal of the clone", lambda: no_domain(clones), 20)
        # Neither the vTPM that proved the host nor the derived one is left.
        directory = clones.destination.state_path / "clones" / cloning.clones[0].clone_id
        assert not list(directory.glob("vtpm*"))
