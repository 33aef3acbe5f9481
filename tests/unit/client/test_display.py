"""What people see while they wait."""

from __future__ import annotations

import dataclasses
import io

import pytest

from nova_trusted_clone.client import display
from nova_trusted_clone.client.values import Clone, Progress

MIB = 1 << 20
ONE = Clone(id="1", server_id="s1", name="web-1")


def fetching(percent: int, name: str = "web-1") -> Clone:
    progress = Progress(
        bytes_verified=percent * MIB, bytes_total=100 * MIB, rate_bytes_s=12.5 * MIB
    )
    return Clone(id=name, server_id=name, name=name, phase="fetching", progress=progress)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestLines:
    def shown(self, *clones: Clone) -> list[str]:
        out = io.StringIO()
        with display.on(out) as watcher:
            for clone in clones:
                watcher.clones([clone])
        return out.getvalue().splitlines()

    def test_each_change_is_a_line(self):
        assert self.shown(ONE, ONE, dataclasses.replace(ONE, phase="claimed")) == [
            "web-1: scheduling",
            "web-1: claimed",
        ]

    def test_a_tenth_is_worth_a_line(self):
        parts = [fetching(percent) for percent in (5, 9, 14, 19, 20)]
        assert self.shown(*parts) == [
            "web-1: fetching 5 % 12.5 MiB/s",
            "web-1: fetching 14 % 12.5 MiB/s",
            "web-1: fetching 20 % 12.5 MiB/s",
        ]

    def test_a_clone_that_stands_still_is_told_now_and_then(self, monkeypatch):
        monkeypatch.setattr(display, "STILL_S", -1.0)
        assert self.shown(fetching(50), fetching(50)) == ["web-1: fetching 50 % 12.5 MiB/s"] * 2

    def test_a_failure_says_why(self):
        failed = dataclasses.replace(fetching(50), phase="failed", reason="no room")
        assert self.shown(failed) == ["web-1: failed 50 % no room"]

    def test_trouble_is_told_once_and_that_it_is_over(self):
        out = io.StringIO()
        with display.on(out) as watcher:
            for text in ("away", "away", ""):
                watcher.trouble(text)
        assert out.getvalue() == "away\nthe cloud answers again\n"


class TestTable:
    def shown(self, *clones: Clone, monkeypatch: pytest.MonkeyPatch) -> str:
        # A terminal as rich knows them, whatever the tests run in.
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "120")
        out = Terminal()
        with display.on(out) as watcher:
            watcher.clones(clones)
            watcher.trouble("away [red]")
        return out.getvalue()

    def test_a_row_for_each_with_phase_percent_and_rate(self, monkeypatch):
        shown = self.shown(fetching(25, "a"), fetching(50, "b"), monkeypatch=monkeypatch)
        for text in ("a fetching", "25 %", "50 %", "12.5 MiB/s", "away [red]"):
            assert text in shown

    def test_a_name_is_no_markup(self, monkeypatch):
        assert "[bold]x[/oops]" in self.shown(
            fetching(50, "[bold]x[/oops]"), monkeypatch=monkeypatch
        )

    def test_the_cursor_comes_back_when_somebody_stops_it(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm-256color")
        out = Terminal()
        with pytest.raises(KeyboardInterrupt), display.on(out) as watcher:
            watcher.clones([ONE])
            raise KeyboardInterrupt
        assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (13107200, "12.5 MiB"),
        (2**62, "4194304.0 TiB"),
    ],
)
def test_sizes(count, text):
    assert display.size(count) == text


def test_percent_is_not_known_before_the_freeze():
    assert display.percent(ONE) is None
    assert display.percent(dataclasses.replace(ONE, phase="complete")) == 100
    over = Progress(bytes_verified=2, bytes_total=1)
    assert display.percent(dataclasses.replace(ONE, progress=over)) == 100
