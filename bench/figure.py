"""Figures to reach: what was wanted, what was reached, and the table that says so honestly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.sampling import Samples

COLUMNS = ("figure", "wanted", "reached", "within one run")
AT_MOST, AT_LEAST = "at most", "at least"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number to reach.

    :ivar sense: ``at most`` or ``at least``
    :ivar reached: None when it could not be measured; ``remark`` then says why
    :ivar lowest: of the rounds; with ``highest`` the span within the run
    :ivar unit: a ratio has none
    """

    name: str
    sense: str
    wanted: float
    reached: float | None
    lowest: float = 0.0
    highest: float = 0.0
    rounds: int = 1
    unit: str = ""
    remark: str = ""

    @classmethod
    def of(cls, name: str, sense: str, wanted: float, found: Samples, **more: str) -> Figure:
        """The figure whose values in each round were these."""
        low, high = min(found.values), max(found.values)
        return cls(name, sense, wanted, found.median, low, high, len(found.values), **more)

    @property
    def met(self) -> bool:
        """Whether it was measured and reached."""
        if self.reached is None:
            return False
        if self.sense == AT_MOST:
            return self.reached <= self.wanted
        return self.reached >= self.wanted

    def row(self) -> tuple[str, str, str, str]:
        """A row of the table."""
        wanted = f"{self.sense} {self.wanted:g}{self.unit}"
        if self.reached is None:
            return self.name, wanted, "not measured", self.remark
        reached = f"{self.reached:.3g}{self.unit}{'' if self.met else '  MISSED'}"
        span = f"{self.lowest:.3g} to {self.highest:.3g} in {self.rounds}"
        return self.name, wanted, reached, f"{span}{'; ' if self.remark else ''}{self.remark}"

    def to_json(self) -> dict[str, Any]:
        """For a result's file."""
        return {**dataclasses.asdict(self), "met": self.met}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Figure:
        """The reverse of ``to_json``."""
        return cls(**{field.name: raw[field.name] for field in dataclasses.fields(cls)})


def table(figures: Sequence[Figure]) -> str:
    """All figures as text, a line each."""
    rows = [COLUMNS, *(figure.row() for figure in figures)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS) - 1)]
    lines = [
        " | ".join(
            [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]
        )
        for row in rows
    ]
    rule = "-+-".join("-" * width for width in [*widths, len(COLUMNS[-1])])
    return "\n".join([lines[0], rule, *lines[1:]])
