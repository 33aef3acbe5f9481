"""Waiting, with time and a cloud that are told what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

import pytest

from nova_trusted_clone.client import errors, waiting
from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.client.waiting import GONE_AFTER_ROUNDS, PATIENCE_S, POLL_S, Patience, Wait

SOURCE = "source"
ONE = Clone(id="1", server_id="s1", name="one", source_id=SOURCE)
TWO = Clone(id="2", server_id="s2", name="two", source_id=SOURCE)
NOT_FOUND = errors.NotFound(404, "could not be found")
DOWN = errors.Unreachable("Unable to establish connection")


def at(clone: Clone, phase: str) -> Clone:
    return dataclasses.replace(clone, phase=phase)


class Time:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
        self.slept.append(seconds)


class Told:
    """Notes what people see."""

    def __init__(self) -> None:
        self.phases: list[list[str]] = []
        self.troubles: list[str] = []

    def clones(self, clones: Iterable[Clone]) -> None:
        self.phases.append([clone.phase for clone in clones])

    def trouble(self, text: str) -> None:
        self.troubles.append(text)


class Rounds:
    """What the cloud lists, one look after the other; the last one stays. An error is raised."""

    def __init__(self, *rounds: list[Clone] | errors.ClientError) -> None:
        self._rounds = list(rounds)
        self.shown: list[tuple[str, str]] = []
        self.by_server: dict[str, Clone] = {}
        self.statuses: dict[str, list[str | errors.ClientError]] = {}

    def list(self, server_id: str, wanted: Collection[str] = ()) -> tuple[Clone, ...]:
        assert server_id == SOURCE
        now = self._rounds.pop(0) if len(self._rounds) > 1 else self._rounds[0]
        if isinstance(now, errors.ClientError):
            raise now
        return tuple(now)

    def show(self, server_id: str, clone_id: str) -> Clone:
        self.shown.append((server_id, clone_id))
        if server_id not in self.by_server:
            raise NOT_FOUND
        return self.by_server[server_id]

    def server_status(self, server_id: str) -> str:
        now = self.statuses.get(server_id) or ["ACTIVE"]
        said = now.pop(0)
        if isinstance(said, errors.ClientError):
            raise said
        return said


def wait(rounds: Rounds, *clones: Clone, timeout_s: float | None = None) -> tuple[list[str], Told]:
    told = Told()
    waited = Wait(rounds, SOURCE, clones, told, Time()).run(timeout_s)
    assert waited.timed_out == (not all(clone.ended for clone in waited.clones))
    return [clone.phase for clone in waited.clones], told


def test_until_each_has_ended() -> None:
    rounds = Rounds(
        [at(ONE, "fetching"), at(TWO, "claimed")],
        [at(ONE, "complete"), at(TWO, "fetching")],
        [at(ONE, "complete"), at(TWO, "failed")],
    )
    phases, told = wait(rounds, ONE, TWO)
    assert phases == ["complete", "failed"]
    assert told.phases == [
        ["fetching", "claimed"],
        ["complete", "fetching"],
        ["complete", "failed"],
    ]


def test_a_phase_of_a_later_api_is_not_an_end() -> None:
    assert wait(Rounds([at(ONE, "warming")], [at(ONE, "complete")]), ONE)[0] == ["complete"]


def test_not_longer_than_asked_for() -> None:
    time = Time()
    waited = Wait(Rounds([at(ONE, "fetching")]), SOURCE, [ONE], Told(), time).run(10)
    assert waited.timed_out
    assert time.now <= 1010


def test_clones_of_other_requests_are_not_waited_for() -> None:
    assert wait(Rounds([at(ONE, "complete"), at(TWO, "fetching")]), ONE)[0] == ["complete"]


class TestItsServer:
    """A clone may be complete before Nova is done with its server."""

    def test_it_is_waited_for(self) -> None:
        rounds = Rounds([at(ONE, "complete")])
        rounds.statuses["s1"] = ["BUILD", "BUILD", "ACTIVE"]
        time = Time()
        waited = Wait(rounds, SOURCE, [ONE], Told(), time).run()
        assert [clone.server_status for clone in waited.clones] == ["ACTIVE"]
        assert time.slept == [POLL_S, POLL_S]

    def test_not_longer_than_asked_for(self) -> None:
        rounds = Rounds([at(ONE, "complete")])
        rounds.statuses["s1"] = ["BUILD"] * 100
        waited = Wait(rounds, SOURCE, [ONE], Told(), Time()).run(10)
        assert waited.timed_out
        assert not waited.clones[0].ready

    @pytest.mark.parametrize("status", ["SHUTOFF", "PAUSED", "REBOOT", "a later one"])
    def test_what_somebody_does_with_it_then_is_not_waited_for(self, status: str) -> None:
        rounds = Rounds([at(ONE, "complete")])
        rounds.statuses["s1"] = [status]
        assert wait(rounds, ONE)[0] == ["complete"]

    def test_one_that_nova_gives_up_is_told(self) -> None:
        rounds = Rounds([at(ONE, "complete")])
        rounds.statuses["s1"] = ["BUILD", "ERROR"]
        (clone,) = Wait(rounds, SOURCE, [ONE], Told(), Time()).run().clones
        assert clone.broken
        assert "its server is in ERROR" in clone.reason

    def test_one_that_is_deleted_is_gone(self) -> None:
        rounds = Rounds([at(ONE, "complete")])
        rounds.statuses["s1"] = [NOT_FOUND] * GONE_AFTER_ROUNDS
        assert wait(rounds, ONE)[0] == ["gone"]

    def test_one_look_that_does_not_find_it_says_nothing(self) -> None:
        rounds = Rounds([at(ONE, "complete")])
        rounds.statuses["s1"] = [NOT_FOUND, DOWN, "ACTIVE"]
        assert wait(rounds, ONE)[0] == ["complete"]


class TestDeletedMeanwhile:
    def test_the_source_its_clones_tell_for_themselves(self) -> None:
        rounds = Rounds([at(ONE, "fetching")], NOT_FOUND)
        rounds.by_server["s1"] = at(ONE, "complete")
        assert wait(rounds, ONE)[0] == ["complete"]

    def test_a_clone_that_is_gone_is_gone(self) -> None:
        rounds = Rounds([at(ONE, "fetching"), at(TWO, "fetching")], [at(TWO, "complete")])
        assert wait(rounds, ONE, TWO)[0] == ["gone", "complete"]
        assert rounds.shown == [("s1", "1")] * GONE_AFTER_ROUNDS

    def test_one_look_in_which_it_is_missing_says_nothing(self) -> None:
        there = [at(ONE, "fetching")]
        rounds = Rounds(there, [], there, [], there, [], there, [at(ONE, "complete")])
        assert wait(rounds, ONE)[0] == ["complete"]

    def test_a_record_that_says_so_itself(self) -> None:
        assert wait(Rounds([at(ONE, "aborted")]), ONE)[0] == ["aborted"]


class TestTrouble:
    def test_an_api_that_restarts(self) -> None:
        busy = errors.Busy(503, "maintenance")
        rounds = Rounds([at(ONE, "fetching")], DOWN, busy, [at(ONE, "complete")])
        phases, told = wait(rounds, ONE)
        assert phases == ["complete"]
        assert [bool(text) for text in told.troubles] == [True, True, False]
        assert "Unable to establish connection; trying again in 1 s" in told.troubles[0]

    def test_it_asks_less_and_less_often_and_gives_up_at_last(self) -> None:
        time = Time()
        with pytest.raises(errors.Unreachable):
            Wait(Rounds(DOWN), SOURCE, [ONE], Told(), time).run()
        assert time.slept[:6] == [1, 2, 4, 8, 16, 30]
        assert PATIENCE_S - waiting.LONGEST_PAUSE_S <= time.now - 1000 <= PATIENCE_S

    def test_it_waits_as_long_as_it_was_asked_to(self) -> None:
        time = Time()
        rounds = Rounds(errors.Busy(429, "slow down", retry_after_s=77), [at(ONE, "complete")])
        Wait(rounds, SOURCE, [ONE], Told(), time).run()
        assert time.slept == [77]

    def test_it_does_not_outlive_the_time_that_was_given(self) -> None:
        time = Time()
        with pytest.raises(errors.Unreachable):
            Wait(Rounds(DOWN), SOURCE, [ONE], Told(), time).run(20)
        assert time.now <= 1020

    @pytest.mark.parametrize(
        "final",
        [
            errors.Unauthorized(401, "token"),
            errors.Forbidden(403, "policy"),
            errors.BadReply("reply"),
            errors.Unreachable("certificate", transient=False),
        ],
    )
    def test_what_is_refused_for_good_ends_it(self, final: errors.ClientError) -> None:
        time = Time()
        with pytest.raises(type(final)):
            Wait(Rounds(final), SOURCE, [ONE], Told(), time).run()
        assert time.slept == []

    def test_trouble_with_one_record_is_trouble_too(self) -> None:
        rounds = Rounds([], [at(ONE, "complete")])
        answers = [DOWN, NOT_FOUND]

        def show(server_id: str, clone_id: str) -> Clone:
            raise answers.pop(0)

        rounds.show = show  # type: ignore[method-assign]
        assert wait(rounds, ONE)[0] == ["complete"]
        assert answers == []


def test_patience_returns_what_came_at_last() -> None:
    answers: list[int | errors.ClientError] = [DOWN, 7]

    def request() -> int:
        now = answers.pop(0)
        if isinstance(now, errors.ClientError):
            raise now
        return now

    time = Time()
    assert Patience(Told(), time).insist(request) == 7
    assert time.slept == [POLL_S]
