"""What takes long is asked after less often, and its end is never noticed late by much."""

from __future__ import annotations

import pytest

from nova_trusted_clone.clone.pace import LONGEST_S, Pace


@pytest.mark.parametrize(
    ("after_s", "pause_s"), [(0.0, 0.1), (5.0, 0.1), (20.0, 0.4), (3600.0, LONGEST_S)]
)
def test_pauses_grow_with_the_time_that_it_takes(after_s: float, pause_s: float) -> None:
    now = 1000.0
    pace = Pace(0.1, lambda: now)
    now += after_s
    assert pace.pause_s == pytest.approx(pause_s)


def test_the_end_of_what_takes_long_is_noticed_within_a_fiftieth_of_it_and_by_few_questions() -> (
    None
):
    now, asked = 0.0, 0
    pace = Pace(0.02, lambda: now)
    while now < 50.0:
        pause = pace.pause_s
        assert pause <= max(0.02, now / 49)
        now, asked = now + pause, asked + 1
    assert asked < 300
