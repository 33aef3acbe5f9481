"""The demo's face, with made-up values."""

from __future__ import annotations

import dataclasses
import io

from labkit.display import (
    CloneProgress,
    CloneReport,
    DemoReport,
    ServerReport,
    follow,
    rate_text,
    report_rows,
    show_report,
)
from rich.console import Console

HALF = CloneProgress("web-1-clone-1", "provisional", 50, 100, 200_000)
DONE = dataclasses.replace(HALF, phase="complete", pages_verified=100, ended=True)
FAILED = CloneProgress("web-1-clone-2", "failed", ended=True, reason="PCR 7 is not in the policy")
SOURCE = ServerReport(
    "web-1", "host-a", "u-1", "52:54:00:00:00:01", "g-1", "aa" * 32, "10 pages, 2 blocks, 0 bad"
)
CLONE = CloneReport(
    dataclasses.replace(
        SOURCE, name="web-1-clone-1", host="host-b", uuid="u-2", ek_sha256="bb" * 32
    ),
    first_output_s=0.754,
    complete_s=None,
    pages_verified=100,
    bytes_verified=3 << 20,
    evidence="accepted",
)


def _console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=160), out


def test_a_pipe_gets_a_line_for_each_change_of_phase() -> None:
    console, out = _console(terminal=False)
    steps = iter([[HALF], [HALF], [DONE, FAILED]])
    assert follow(lambda: next(steps), console, 0) == (DONE, FAILED)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "web-1-clone-1: provisional, 50/100 pages verified" in lines[0]
    assert "web-1-clone-1: complete, 100/100 pages verified" in lines[1]
    assert lines[2].endswith("web-1-clone-2: failed: PCR 7 is not in the policy")
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_bars_and_the_reason_of_a_failure() -> None:
    console, out = _console(terminal=True)
    steps = iter([[HALF], [DONE, FAILED]])
    assert follow(lambda: next(steps), console, 0) == (DONE, FAILED)
    assert "100/100 pages verified" in out.getvalue()
    assert "web-1-clone-2: PCR 7 is not in the policy" in out.getvalue()


def test_a_rate_is_a_dash_before_there_is_any() -> None:
    assert rate_text(0, 1.0) == "- MB/s"
    assert rate_text(5_000_000, 0.0) == "- MB/s"
    assert rate_text(250_000_000, 2.0) == "125 MB/s"


def test_the_table_names_every_server_and_figure() -> None:
    rows = {row[0]: row[1:] for row in report_rows(DemoReport(SOURCE, 31.25, (CLONE,)))}
    assert rows["host"] == ("host-a", "host-b")
    assert rows["EK certificate (SHA-256)"] == ("aa" * 8, "bb" * 8)
    assert rows["pause"] == ("31.2 ms", "")
    assert rows["first output after"] == ("", "0.75 s")
    assert rows["complete after"] == ("", "never")
    assert rows["bytes verified"] == ("", "3.0 MiB")
    assert rows["evidence"] == ("", "accepted")


def test_a_complete_clone_whose_output_nobody_timed_is_not_said_to_be_silent() -> None:
    clone = dataclasses.replace(CLONE, first_output_s=None, complete_s=221.34)
    rows = {row[0]: row[1:] for row in report_rows(DemoReport(SOURCE, 31.25, (clone,)))}
    assert rows["first output after"] == ("", "not measured")
    assert rows["complete after"] == ("", "221.34 s")


def test_the_table_is_drawn() -> None:
    console, out = _console(terminal=False)
    show_report(DemoReport(SOURCE, 31.25, (CLONE,)), console)
    assert "web-1 (source)" in out.getvalue()
    assert "0 bad" in out.getvalue()
