"""Agents, exporters and stores killed with SIGKILL, in each phase: taken over or taken back, and nothing left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from labkit import guests
from labkit.guests import Guest
from labkit.ordering import Cloning

from nova_trusted_clone.clone import records
from tests.integration import clonelab
from tests.integration.clonelab import CloneLab, kill, until
from tests.integration.middleman import Middleman, between

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The source's agent dies where it is told to."""
    clones.start_evil_agent(clones.source)
    clones.start_agent(clones.destination)


def restart(clones: CloneLab, of_source: bool) -> None:
    if of_source:
        clones.start_evil_agent(clones.source)
    else:
        clones.start_agent(clones.destination)


def no_domain(clones: CloneLab) -> bool:
    with guests.connected(clones.destination) as connection:
        return not connection.listAllDomains()


# -- while the hosts prove themselves: nothing of the server has moved --


@pytest.mark.parametrize("of_source", [True, False], ids=["source", "destination"])
def test_an_agent_killed_while_attesting(clones: CloneLab, web: Guest, of_source: bool) -> None:
    with clones.nothing_left(web), between(clones) as relay:
        relay.hold_after(1)
        cloning = clones.order(web, via=relay.address)
        until("the second message", relay.holding)
        clones.kill_agent(clones.source if of_source else clones.destination)
        relay.let_go()
        restart(clones, of_source)
        there, here = clones.ended(cloning)
        assert "the service ended while" in (there if of_source else here)
        assert cloning_was_never_frozen(clones, cloning)
        until("the removal of the clone", lambda: no_domain(clones), 20)


def cloning_was_never_frozen(clones: CloneLab, cloning: Cloning) -> bool:
    freeze = clones.source.state_path / "freezes" / cloning.group / "freeze.json"
    return bool(records.read(freeze)["pause_s"] == 0)


@pytest.mark.parametrize("which", ["exporter", "store"])
def test_a_helper_killed_while_attesting(clones: CloneLab, web: Guest, which: str) -> None:
    with clones.nothing_left(web), between(clones) as relay:
        relay.hold_after(1)
        cloning = clones.order(web, via=relay.address)
        until("the second message", relay.holding)
        kill(getattr(clones, which)(cloning))
        relay.let_go()
        there, here = clones.ended(cloning)
        assert which in there
        assert which in here
        until("the removal of the clone", lambda: no_domain(clones), 20)


# -- around the pause --


@pytest.mark.parametrize(
    "point",
    ["before-the-pause", "handed-over", "in-the-pause", "before-the-protection", "after-the-pause"],
)
def test_an_agent_killed_in_the_freeze_leaves_a_server_that_runs_on(
    clones: CloneLab, web: Guest, point: str
) -> None:
    with clones.nothing_left(web):
        marks = clonelab.freeze_marks(web)
        clones.wish(clones.source, die=point)
        since = web.console.size()
        cloning = clones.order(web)
        agent = clones.agent_process(clones.source)
        until("the agent's end", lambda: not agent.alive, 30)
        # Nobody restarts the agent: the guard alone lets the server run on, and takes the freeze off.
        web.console.wait_for("TICK", timeout_s=10, since=web.console.size())
        clonelab.same_again(web.name, marks, lambda: clonelab.freeze_marks(web))
        assert web.console.check_itself(since=since).bad == 0
        restart(clones, of_source=True)
        there, here = clones.ended(cloning)
        assert "the service ended while the freeze was freezing" in there
        assert "the service ended" in here
        until("the removal of the clone", lambda: no_domain(clones), 20)


# -- while pages move --


FINAL_MESSAGE = 3


@contextlib.contextmanager
def provisional(clones: CloneLab, web: Guest) -> Iterator[tuple[Cloning, Middleman]]:
    """A clone that runs, and whose last message is held."""
    with between(clones) as relay:
        relay.hold_after(FINAL_MESSAGE)
        cloning = clones.order(web, via=relay.address)
        until("a provisional clone", lambda: clones.phases(cloning)[1] == "provisional", 90)
        until("the last message", relay.holding, 60)
        yield cloning, relay


@pytest.mark.parametrize("of_source", [True, False], ids=["source", "destination"])
def test_an_agent_killed_while_the_clone_is_provisional_takes_it_over_again(
    clones: CloneLab, web: Guest, of_source: bool
) -> None:
    with clones.nothing_left(web), provisional(clones, web) as (cloning, relay):
        exporter, store = clones.exporter(cloning), clones.store(cloning)
        clones.kill_agent(clones.source if of_source else clones.destination)
        restart(clones, of_source)
        assert (clones.exporter(cloning), clones.store(cloning)) == (exporter, store)
        assert "failed" not in clones.phases(cloning)
        relay.let_go()
        assert [clone.phase for clone in cloning.wait(60)] == ["complete"]
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])


@pytest.mark.parametrize("of_source", [True, False], ids=["source", "destination"])
def test_an_agent_killed_while_the_server_is_restored(
    clones: CloneLab, web: Guest, of_source: bool
) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web)
        until("the restore", lambda: not no_domain(clones), 30)
        assert clones.phases(cloning)[1] == "restoring"
        clones.kill_agent(clones.source if of_source else clones.destination)
        restart(clones, of_source)
        if of_source:
            # Its exporter went on: the freeze is taken over, and the clone is none the wiser.
            assert [clone.phase for clone in cloning.wait(90)] == ["complete"]
            assert clones.console(cloning.clones[0]).check_itself().bad == 0
            clones.destroy(cloning.clones[0])
        else:
            there, here = clones.ended(cloning)
            assert "the service ended while the clone was restoring" in here
            assert here in there
            until("the removal of the clone", lambda: no_domain(clones), 20)


@pytest.mark.parametrize("which", ["exporter", "store"])
def test_a_helper_killed_while_the_server_is_restored_ends_the_clone(
    clones: CloneLab, web: Guest, which: str
) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web)
        until("the restore", lambda: not no_domain(clones), 30)
        assert clones.phases(cloning)[1] == "restoring"
        kill(getattr(clones, which)(cloning))
        there, here = clones.ended(cloning, 60)
        assert f"{which} process ended" in there
        assert f"{which} process ended" in here
        until("the removal of the clone", lambda: no_domain(clones), 20)


def test_a_store_killed_while_the_clone_is_provisional_ends_it(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web), provisional(clones, web) as (cloning, relay):
        kill(clones.store(cloning))
        until("the end at the destination", lambda: clones.phases(cloning)[1] == "failed", 30)
        relay.let_go()
        there, here = clones.ended(cloning)
        assert "the store process ended" in here
        assert "the clone has ended: the store process ended" in there
        until("the removal of the clone", lambda: no_domain(clones), 20)


def test_an_exporter_killed_when_all_pages_are_there_costs_nothing(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web), provisional(clones, web) as (cloning, relay):
        kill(clones.exporter(cloning))
        relay.let_go()
        assert [clone.phase for clone in cloning.wait(60)] == ["complete"]
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])


def test_both_agents_killed_and_back_lose_nothing(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web), provisional(clones, web) as (cloning, relay):
        for host in clones.lab.hosts:
            clones.kill_agent(host)
        # The clone runs on meanwhile, on what the helpers have.
        console = clones.console(cloning.clones[0])
        console.wait_for("TICK", timeout_s=20, since=console.size())
        restart(clones, of_source=True)
        restart(clones, of_source=False)
        relay.let_go()
        assert [clone.phase for clone in cloning.wait(60)] == ["complete"]
        assert console.check_itself().bad == 0
        clones.destroy(cloning.clones[0])


def test_an_agent_killed_in_the_release_releases_when_it_is_back(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web):
        clones.wish(clones.source, die="in-the-release")
        cloning = clones.order(web)
        agent = clones.agent_process(clones.source)
        until("the agent's end", lambda: not agent.alive, 120)
        restart(clones, of_source=True)
        assert clones.ended(cloning) == ("", "")
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])
