"""Progress while people wait: a table that changes on a terminal, lines anywhere else.

It goes to standard error, so that what a command prints stays readable for programs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.client.waiting import Watcher

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A log gets a line for each tenth, and one now and then from a clone that stands still.
STEP_PERCENT = 10
STILL_S = 30.0
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def percent(clone: Clone) -> int | None:
    """Return how much has arrived; None while the total is not known."""
    if clone.complete:
        return 100
    fraction = clone.progress.fraction
    return None if fraction is None else int(100 * fraction)


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def rate(clone: Clone) -> str:
    """Return how fast it arrives, or nothing once it does not any more."""
    if clone.ended or not clone.progress.rate_bytes_s:
        return ""
    return f"{size(clone.progress.rate_bytes_s)}/s"


class Lines:
    """One line for each change that is worth one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._told: dict[str, tuple[str, int, float]] = {}
        self._trouble = ""

    def clones(self, clones: Iterable[Clone]) -> None:
        """Tell what has changed."""
        now = time.monotonic()
        for clone in clones:
            step = (percent(clone) or 0) // STEP_PERCENT
            phase, told_step, told_at = self._told.get(clone.id, ("", -1, now))
            still = not clone.ended and now - told_at > STILL_S
            if (phase, told_step) != (clone.phase, step) or still:
                self._told[clone.id] = (clone.phase, step, now)
                self._tell(_line(clone))

    def trouble(self, text: str) -> None:
        """Tell it once, and when it is over."""
        if text != self._trouble:
            self._trouble = text
            self._tell(text or "the cloud answers again")

    def _tell(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def _line(clone: Clone) -> str:
    part = percent(clone)
    words = [f"{clone.name or clone.id}: {clone.phase}"]
    if part is not None and not clone.complete:
        words.append(f"{part} %")
    words += [word for word in (rate(clone), clone.reason) if word]
    return " ".join(words)


class Table:
    """A row for each clone with phase, bar, percent and rate."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rows: dict[str, TaskID] = {}

    def clones(self, clones: Iterable[Clone]) -> None:
        """Show them as they are now."""
        for clone in clones:
            if clone.id not in self._rows:
                self._rows[clone.id] = self._progress.add_task(
                    clone.name or clone.id, total=None, phase="", rate=""
                )
            part = percent(clone)
            self._progress.update(
                self._rows[clone.id],
                total=100 if part is not None or clone.ended else None,
                completed=part or 0,
                phase=clone.phase,
                rate=clone.reason if clone.ended else rate(clone),
            )

    def trouble(self, text: str) -> None:
        """Show it above the rows while it lasts."""
        self._progress.console.print(
            text or "the cloud answers again", markup=False, highlight=False
        )


@contextlib.contextmanager
def on(out: TextIO) -> Iterator[Watcher]:
    """Yield what fits ``out``; it is finished on return, also by an error or Ctrl-C."""
    if not out.isatty():
        yield Lines(out)
        return
    # Only here: rich takes a tenth of a second to load.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    # No markup: a clone's name and reason are of the cloud's making.
    text = [
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[phase]}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
    ]
    with Progress(*text, console=Console(file=out), refresh_per_second=4) as progress:
        yield Table(progress)
