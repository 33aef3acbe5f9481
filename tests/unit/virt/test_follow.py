"""What the conductor hears of this host's clones, and what becomes of their servers."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator

import pytest

from nova_trusted_clone.ports import Identity
from nova_trusted_clone.rpc.errors import Refused
from nova_trusted_clone.virt import follow, outbox, servers
from nova_trusted_clone.virt.follow import Follower
from nova_trusted_clone.virt.reception import Ending, Reception, Receptions
from tests.unit.virt.fakes import CLONE, GROUP, SERVER, Conductor, Engine, keep_evidence

WHY = Ending("refused: pcr 4", "trusted-clone.host.refused")


@pytest.fixture
def nova_s_servers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Nova's records: what was set to ERROR."""
    failed: list[tuple[str, str, str]] = []
    monkeypatch.setattr(servers, "clone_failed", lambda *what: failed.append(what))
    monkeypatch.setattr(servers, "group_of", lambda server: GROUP)
    return failed


class World:
    """A follower between an engine and a conductor."""

    def __init__(self, state: pathlib.Path) -> None:
        self.conductor, self.engine, self.receptions = Conductor(), Engine(), Receptions()
        self.state = state
        self.follower = Follower(self.conductor, self.receptions, state)  # type: ignore[arg-type]

    def start(self) -> None:
        self.follower.start(self.engine)  # type: ignore[arg-type]

    def says(self, phase: str, **further: object) -> None:
        self.follower.listen(self.engine.destination.put(phase, **further))


@pytest.fixture
def world(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    nova_s_servers: list[tuple[str, str, str]],
) -> Iterator[World]:
    monkeypatch.setattr(follow, "PROGRESS_S", 0.01)
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    made = World(tmp_path)
    yield made
    made.follower.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_phases_and_progress_are_reported(world: World) -> None:
    world.start()
    world.says("fetching", transfer={"pages_verified": 256, "pages_total": 1024}, pause_us=41000)
    wait_until(lambda: len(world.conductor.reports) >= 3)
    clone_id, status = world.conductor.reports[0]
    assert clone_id == CLONE
    assert (status["phase"], status["pause_us"]) == ("fetching", 41000)
    assert status["progress"]["bytes_verified"] == 256 * 4096
    assert status["progress"]["bytes_total"] == 1024 * 4096


def test_the_rate_is_that_since_the_last_report(world: World) -> None:
    world.start()
    pages = iter(range(0, 10**9, 1000))
    for _ in range(3):
        world.says("fetching", transfer={"pages_verified": next(pages), "pages_total": 10**9})
        time.sleep(0.02)
    wait_until(lambda: any(s["progress"]["rate_bytes_s"] > 0 for _, s in world.conductor.reports))


def test_what_the_conductor_has_no_name_for_is_not_reported(world: World) -> None:
    world.start()
    world.says("prepared")
    time.sleep(0.05)
    assert world.conductor.reports == []


def test_a_complete_clone_s_evidence_is_handed_in(world: World) -> None:
    evidence = keep_evidence(world.state)
    world.start()
    world.says("complete")
    wait_until(lambda: world.conductor.completed == {CLONE: evidence})
    wait_until(lambda: (world.state / "clones" / CLONE / "told").exists())


def test_evidence_waits_for_a_conductor_that_is_away(world: World) -> None:
    evidence = keep_evidence(world.state)
    world.conductor.away = True
    world.start()
    world.says("complete")
    time.sleep(0.05)
    assert not (world.state / "clones" / CLONE / "told").exists()
    world.conductor.away = False
    wait_until(lambda: world.conductor.completed == {CLONE: evidence})


def test_evidence_that_is_refused_is_not_handed_in_for_ever(world: World) -> None:
    keep_evidence(world.state)
    world.conductor.refuses = Refused("trusted-clone.evidence.nonce")
    world.start()
    world.says("complete")
    wait_until(lambda: not any((world.state / "outbox").iterdir()))


def test_a_restarted_service_tells_what_was_not_told(world: World) -> None:
    evidence = keep_evidence(world.state)
    world.conductor.away = True
    world.says("complete")  # told to a service that ended before it could tell
    again = World(world.state)
    again.start()
    wait_until(lambda: again.conductor.completed == {CLONE: evidence})
    again.follower.close()


def test_and_nothing_twice(world: World) -> None:
    keep_evidence(world.state)
    (world.state / "clones" / CLONE / "told").touch()
    world.start()
    world.says("complete")
    time.sleep(0.05)
    assert world.conductor.completed == {}


def test_a_clone_that_fails_while_its_server_runs_takes_the_server_with_it(
    world: World, nova_s_servers: list[tuple[str, str, str]]
) -> None:
    world.start()
    world.says("failed", reason="the source is gone", code="trusted-clone.network")
    wait_until(lambda: len(world.conductor.failed) == 1)
    assert nova_s_servers == [(SERVER, CLONE, "the source is gone")]
    assert world.conductor.failed[0] == {
        "group": GROUP,
        "server": SERVER,
        "clone_id": CLONE,
        "reason": "the source is gone",
        "code": "trusted-clone.network",
        "retry": False,
    }


def test_a_clone_that_was_deleted_is_no_error_of_its_server(
    world: World, nova_s_servers: list[tuple[str, str, str]]
) -> None:
    world.start()
    world.follower.expect_end(CLONE)
    world.says("failed", reason="the server was deleted")
    wait_until(lambda: len(world.conductor.failed) == 1)
    assert nova_s_servers == []


def test_while_spawn_waits_it_is_spawn_that_tells(
    world: World, nova_s_servers: list[tuple[str, str, str]]
) -> None:
    reception = Reception(Identity("instance-1", SERVER, ()), lambda order, identity: CLONE)
    reception.claim(CLONE)
    world.receptions.add(reception)
    world.start()
    world.says("failed", reason="refused: pcr 4")
    time.sleep(0.05)
    assert (world.conductor.failed, nova_s_servers) == ([], [])
    world.follower.unborn(GROUP, SERVER, CLONE, WHY, retry=True)
    assert [(f["reason"], f["retry"]) for f in world.conductor.failed] == [("refused: pcr 4", True)]


def test_an_end_before_the_server_ran_is_told_later_when_it_cannot_be_told_now(
    world: World,
) -> None:
    world.conductor.away = True
    world.start()
    world.follower.unborn(GROUP, SERVER, CLONE, WHY, retry=False)
    world.conductor.away = False
    wait_until(lambda: len(world.conductor.failed) == 1)
    assert world.conductor.failed[0]["code"] == "trusted-clone.host.refused"
