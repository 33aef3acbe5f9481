"""What the demo shows: a bar for each clone while it is made, a table when all have ended.

Plain values in, text out; where they come from is none of this file's business. A terminal gets bars that move; a file or a
pipe gets one line whenever a clone has come to another phase.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

MIB = 1 << 20
POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class CloneProgress:
    """How far one clone is.

    :ivar pages_total: pages to be verified, zero pages among them; 0 while unknown
    :ivar bytes_verified: that came over the wire and were verified; zero pages do not
    :ivar reason: why it failed
    """

    name: str
    phase: str
    pages_verified: int = 0
    pages_total: int = 0
    bytes_verified: int = 0
    ended: bool = False
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ServerReport:
    """A server at the end: who it is and what it found when it checked itself.

    :ivar self_check: in words, as ``27913 pages, 379 blocks, 0 bad``
    """

    name: str
    host: str
    uuid: str
    mac: str
    genid: str
    ek_sha256: str
    self_check: str


@dataclasses.dataclass(frozen=True)
class CloneReport:
    """A clone at the end.

    :ivar first_output_s: from the order to the clone's first output
    :ivar evidence: the verdict of the offline verifier, in words
    """

    server: ServerReport
    first_output_s: float | None
    complete_s: float | None
    pages_verified: int
    bytes_verified: int
    evidence: str


@dataclasses.dataclass(frozen=True)
class DemoReport:
    """Everything that the demo shows at its end."""

    source: ServerReport
    source_pause_ms: float
    clones: tuple[CloneReport, ...]


Poll = Callable[[], Sequence[CloneProgress]]


def rate_text(bytes_done: int, elapsed_s: float) -> str:
    """MB/s (10^6 bytes a second), or a dash before anything was done."""
    if not bytes_done or elapsed_s <= 0:
        return "- MB/s"
    return f"{bytes_done / elapsed_s / 1e6:.0f} MB/s"


def size_text(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / MIB:.1f} MiB"


def follow(poll: Poll, console: Console, poll_s: float = POLL_S) -> tuple[CloneProgress, ...]:
    """Show progress until every clone has ended; return how each did."""
    return (
        _follow_bars(poll, console, poll_s)
        if console.is_terminal
        else _follow_lines(poll, console, poll_s)
    )


def _follow_lines(poll: Poll, console: Console, poll_s: float) -> tuple[CloneProgress, ...]:
    began = time.monotonic()
    shown: dict[str, str] = {}
    while True:
        clones = tuple(poll())
        for clone in clones:
            if shown.get(clone.name) != clone.phase:
                shown[clone.name] = clone.phase
                console.print(
                    progress_line(clone, time.monotonic() - began), highlight=False, soft_wrap=True
                )
        if all(clone.ended for clone in clones):
            return clones
        time.sleep(poll_s)


def progress_line(clone: CloneProgress, elapsed_s: float) -> str:
    """One line about one clone."""
    counted = ""
    if clone.pages_total:
        counted = f", {clone.pages_verified}/{clone.pages_total} pages verified, {rate_text(clone.bytes_verified, elapsed_s)}"
    reason = f": {clone.reason}" if clone.reason else ""
    return f"{elapsed_s:6.1f} s  {clone.name}: {clone.phase}{counted}{reason}"


def _follow_bars(poll: Poll, console: Console, poll_s: float) -> tuple[CloneProgress, ...]:
    began = time.monotonic()
    tasks: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description}"),
        TextColumn("{task.fields[phase]}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} pages verified"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        while True:
            clones = tuple(poll())
            for clone in clones:
                if clone.name not in tasks:
                    tasks[clone.name] = progress.add_task(clone.name, total=1, phase="", rate="")
                progress.update(
                    tasks[clone.name],
                    completed=clone.pages_verified,
                    total=max(clone.pages_total, 1),
                    phase=clone.phase,
                    rate=rate_text(clone.bytes_verified, time.monotonic() - began),
                )
            if all(clone.ended for clone in clones):
                break
            time.sleep(poll_s)
    for clone in clones:
        if clone.reason:
            console.print(f"{clone.name}: {clone.reason}", highlight=False, soft_wrap=True)
    return clones


def show_report(report: DemoReport, console: Console) -> None:
    """The table at the end: a column for each server, the source first."""
    names = [clone.server.name for clone in report.clones]
    show_table(report.source.name, names, report_rows(report), console)


def show_table(
    source: str, clones: Sequence[str], rows: Sequence[tuple[str, ...]], console: Console
) -> None:
    """A table with a column for the source and one for each clone; each row begins with its title."""
    table = Table(title="source and clones", show_lines=False)
    table.add_column("")
    table.add_column(f"{source} (source)", overflow="fold")
    for name in clones:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def report_rows(report: DemoReport) -> list[tuple[str, ...]]:
    """The table's rows: a title, the source's cell, a cell for each clone."""
    servers = [report.source, *(clone.server for clone in report.clones)]
    clones = report.clones

    def own(title: str, field: str) -> tuple[str, ...]:
        return (title, *(str(getattr(server, field)) for server in servers))

    return [
        own("host", "host"),
        own("UUID", "uuid"),
        own("MAC", "mac"),
        own("generation id", "genid"),
        (
            "EK certificate (SHA-256)",
            *(server.ek_sha256[:16] or "no vTPM" for server in servers),
        ),
        own("its own check", "self_check"),
        ("pause", f"{report.source_pause_ms:.1f} ms", *("" for _ in clones)),
        ("first output after", "", *(_first_output(clone) for clone in clones)),
        ("complete after", "", *(seconds_text(clone.complete_s) for clone in clones)),
        ("pages verified", "", *(str(clone.pages_verified) for clone in clones)),
        ("bytes verified", "", *(size_text(clone.bytes_verified) for clone in clones)),
        ("evidence", "", *(clone.evidence for clone in clones)),
    ]


def _first_output(clone: CloneReport) -> str:
    """A clone that is complete has said something, whether or not anybody looked when."""
    if clone.first_output_s is None and clone.complete_s is not None:
        return "not measured"
    return seconds_text(clone.first_output_s)


def seconds_text(value: float | None) -> str:
    """Seconds, or that it never came to that."""
    return "never" if value is None else f"{value:.2f} s"
