"""Repeated measurements by turns, and what is said of them.

A shared machine's speed drifts by tens of percent within minutes. So what is compared is measured
A, B, C, A, B, C, …, the ratio is taken within each round, and the median of the rounds is told.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Way = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Values of one way in the order of the rounds; what they are is said where they are used."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Largest minus smallest, as a part of the median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def per(self, other: Samples) -> Samples:
        """This one divided by another way's, round by round.

        :raises ValueError: when they are not of the same rounds
        """
        pairs = zip(self.values, other.values, strict=True)
        return Samples(tuple(mine / others for mine, others in pairs))

    def to_json(self) -> dict[str, object]:
        """Median, spread and all values."""
        return {
            "median": _short(self.median),
            "spread": _short(self.spread),
            "values": [_short(value) for value in self.values],
        }


def _short(value: float) -> float:
    """Six digits: more would be noise in the files."""
    return float(f"{value:.6g}")


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def by_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, Samples]:
    """Measure every way once a round; each way gives its own value.

    Each round begins with another way: what one leaves behind (dirty pages, a warm cache) meets all of them alike.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ways[name]())
    return {name: Samples(tuple(values)) for name, values in found.items()}


def named_json(samples: Mapping[str, Samples]) -> dict[str, dict[str, object]]:
    """Several ways as JSON."""
    return {name: one.to_json() for name, one in samples.items()}


def largest_spread(samples: Sequence[Samples]) -> float:
    """The spread of the least steady of them."""
    return max(one.spread for one in samples)
