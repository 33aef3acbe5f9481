"""What a measurement gives, and its file."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from bench.figure import Figure

Say = Callable[[str], None]


class BenchError(Exception):
    """A measurement could not be made; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure.

    :ivar quick: fewer rounds, smaller parts: for a look, not for numbers that count
    :ivar scratch: an empty directory in memory for what a transfer moves
    :ivar disk_scratch: an empty directory on a disk, for what is too large for memory
    """

    quick: bool
    scratch: pathlib.Path
    disk_scratch: pathlib.Path
    say: Say

    @property
    def rounds(self) -> int:
        """How often each way is measured."""
        return 3 if self.quick else 7


@dataclasses.dataclass(frozen=True)
class Report:
    """A measurement's result: plain values only.

    :ivar data: what the plot is drawn from
    :ivar notes: what a reader of the numbers must know
    """

    name: str
    title: str
    quick: bool
    machine: Mapping[str, Any]
    data: Mapping[str, Any]
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    def write(self, directory: pathlib.Path) -> pathlib.Path:
        """Write ``NAME.json``."""
        path = directory / f"{self.name}.json"
        raw = {
            "name": self.name,
            "title": self.title,
            "quick": self.quick,
            "machine": self.machine,
            "notes": self.notes,
            "figures": [figure.to_json() for figure in self.figures],
            "data": self.data,
        }
        path.write_text(json.dumps(raw, indent=1) + "\n")
        return path

    @classmethod
    def read(cls, path: pathlib.Path) -> Report:
        """Read what ``write`` wrote.

        :raises BenchError: naming the file, when it is something else
        """
        try:
            raw = json.loads(path.read_text())
            figures = tuple(Figure.from_json(one) for one in raw["figures"])
            plain = {name: raw[name] for name in ("name", "title", "quick", "machine", "data")}
            return cls(**plain, figures=figures, notes=tuple(raw["notes"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{path} is no result of the bench: {error!r}") from error
