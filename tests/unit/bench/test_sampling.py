"""What is said of repeated measurements."""

import pytest

from bench.sampling import Samples, by_turns, seconds


def test_ways_are_measured_by_turns_and_each_round_begins_with_another():
    order = []

    def way(name, value):
        return lambda: order.append(name) or value

    found = by_turns({"a": way("a", 1.0), "b": way("b", 2.0)}, rounds=3)

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": Samples((1.0, 1.0, 1.0)), "b": Samples((2.0, 2.0, 2.0))}


def test_a_ratio_is_taken_within_each_round():
    # The machine became twice as slow in the second round: the ratio does not see it.
    ratio = Samples((3.0, 6.0)).per(Samples((1.0, 2.0)))

    assert ratio == Samples((3.0, 3.0))
    assert (ratio.median, ratio.spread) == (3.0, 0.0)


def test_ratios_of_other_rounds_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        Samples((1.0, 2.0)).per(Samples((1.0,)))


def test_one_outlier_moves_neither_the_median_nor_goes_unseen():
    samples = Samples((1.0, 1.0, 9.0))

    assert samples.to_json() == {"median": 1.0, "spread": 8.0, "values": [1.0, 1.0, 9.0]}


def test_seconds_runs_the_work_once():
    calls = []

    assert seconds(lambda: calls.append(1)) >= 0
    assert calls == [1]
