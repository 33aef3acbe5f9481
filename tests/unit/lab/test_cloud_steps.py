"""Steps are done as soon as what they need is done; a failure ends the rest in good order."""

from __future__ import annotations

import threading

import pytest
from labkit.cloud import steps
from labkit.cloud.steps import Step
from labkit.errors import LabError


def _said(text: str) -> None:
    assert text


def test_a_step_comes_after_what_it_needs() -> None:
    done: list[str] = []
    plan = [
        Step("roof", lambda: done.append("roof"), ("walls",)),
        Step("walls", lambda: done.append("walls"), ("ground",)),
        Step("ground", lambda: done.append("ground")),
    ]
    steps.run(plan, _said, workers=3)
    assert done == ["ground", "walls", "roof"]


def test_steps_that_do_not_need_each_other_are_done_at_one_time() -> None:
    """Each waits for the other: one after the other they would never end."""
    meeting = threading.Barrier(2, timeout=10)
    steps.run([Step("left", meeting.wait), Step("right", meeting.wait)], _said, workers=2)  # type: ignore[arg-type]
    assert not meeting.broken


def test_only_steps_with_a_title_are_told() -> None:
    told: list[str] = []
    steps.run([Step("quiet", int), Step("loud", int, title="the loud one")], told.append, 1)  # type: ignore[arg-type]
    assert [line.split("s  ")[1] for line in told] == ["the loud one"]


def test_a_failure_lets_those_under_way_end_and_begins_no_other() -> None:
    begun, failed, ended = threading.Event(), threading.Event(), threading.Event()
    never: list[str] = []

    def slow() -> None:
        begun.set()
        assert failed.wait(10)
        ended.set()

    def fail() -> None:
        assert begun.wait(10)
        failed.set()
        raise LabError("no room")

    plan = [
        Step("slow", slow),
        Step("fails", fail),
        Step("after", lambda: never.append("after"), ("slow", "fails")),
    ]
    with pytest.raises(LabError, match="no room"):
        steps.run(plan, _said, workers=2)
    assert ended.is_set()
    assert never == []


def test_a_circle_and_an_unknown_need_are_told_before_anything_hangs() -> None:
    with pytest.raises(LabError, match="need each other: a, b"):
        steps.run([Step("a", int, ("b",)), Step("b", int, ("a",))], _said, 1)  # type: ignore[arg-type]
    with pytest.raises(LabError, match="a needs c, which is no step"):
        steps.run([Step("a", int, ("c",))], _said, 1)  # type: ignore[arg-type]
