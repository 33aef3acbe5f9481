"""How records look in tables, and what programs get of them with ``-f json``."""

from __future__ import annotations

import dataclasses
from typing import Any

from cliff import columns
from osc_lib.cli import format_columns

from nova_trusted_clone.client import display
from nova_trusted_clone.client.values import Clone


class PauseColumn(columns.FormattableColumn[int | None]):
    """Milliseconds for people, microseconds for programs."""

    def human_readable(self) -> str:
        """Return it with its unit."""
        return "" if self._value is None else f"{self._value / 1000:.1f} ms"


class ProgressColumn(columns.FormattableColumn[Any]):
    """Percent and rate for people, all numbers for programs."""

    def human_readable(self) -> str:
        """Return percent and rate."""
        part = display.percent(self._value)
        words = [] if part is None else [f"{part} %"]
        return " ".join([*words, *filter(None, [display.rate(self._value)])])

    def machine_readable(self) -> dict[str, Any]:
        """Return every number."""
        return dataclasses.asdict(self._value.progress)


class AttemptsColumn(columns.FormattableColumn[Any]):
    """Hosts on which it did not come to be."""

    def human_readable(self) -> str:
        """Return a line for each."""
        return "\n".join(
            " ".join(filter(None, [row.ended_at, row.host, row.code, row.reason]))
            for row in self._value
        )

    def machine_readable(self) -> list[dict[str, str]]:
        """Return a dictionary for each."""
        return [dataclasses.asdict(row) for row in self._value]


def shown(clone: Clone) -> dict[str, Any]:
    """Return every field of a record, as ``show`` prints it."""
    special = {
        "progress": ProgressColumn(clone),
        "pause_us": PauseColumn(clone.pause_us),
        "attempts": AttemptsColumn(clone.attempts),
        "lineage": format_columns.ListColumn(list(clone.lineage)),
    }
    return {
        field.name.removesuffix("_us"): special.get(field.name, getattr(clone, field.name))
        for field in dataclasses.fields(clone)
    }


LISTED = ("ID", "Name", "Server ID", "Source ID", "Phase", "Progress", "Pause", "Reason")
LONG = ("Host", "vTPM", "Memory", "Group", "Created At", "Completed At")


def listed(clone: Clone, long: bool) -> tuple[Any, ...]:
    """Return a row of ``list``."""
    row = (
        clone.id,
        clone.name,
        clone.server_id,
        clone.source_id,
        clone.phase,
        ProgressColumn(clone),
        PauseColumn(clone.pause_us),
        clone.reason,
    )
    if not long:
        return row
    times = (clone.created_at, clone.completed_at)
    return (*row, clone.host, clone.vtpm, clone.memory, clone.group, *times)
