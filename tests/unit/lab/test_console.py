"""What a guest prints is read line by line, and what was cut is left out."""

from __future__ import annotations

import pathlib

import pytest
from labkit.console import Console, Line, SelfCheck, parse_line
from labkit.errors import ConsoleTimeout, GuestFailed

TICK = b"TICK n=%d up=1.00 pages=100 pass=%d checked=50 bad=%d writes=7 maxgap_ms=1.5 ;\n"
CHECK = b"DISKCHECK disk=%s n=%d blocks=20 bad=0 untouched=5 writes=9 ;\n"


def test_a_whole_line_is_read() -> None:
    line = parse_line(b"TICK n=3 bad=0 ;\r", 17)
    assert line == Line("TICK", {"n": "3", "bad": "0"}, 17)
    assert line is not None and line.number("n") == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"TICK n=3 bad=",
        b"TICK n=3 bad=0",
        b"ICK n=3 bad=0 ;",
        b"",
        b" ;",
        b"TICK what ;",
        b"[  0.1] Linux ;",
        b"\xff ;",
    ],
)
def test_what_was_cut_or_is_not_the_guests_is_left_out(raw: bytes) -> None:
    assert parse_line(raw) is None


def test_the_first_line_that_fits_is_found_from_where_we_looked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "serial"
    path.write_bytes(
        TICK % (0, 0, 0) + b"garbage\n" + TICK % (1, 1, 0) + TICK % (2, 2, 0) + b"TICK n=3"
    )
    console = Console(path)
    assert [line["n"] for line in console.lines()] == ["0", "1", "2"]
    second = console.wait_for("TICK", lambda line: line.number("pass") >= 1)
    assert second["n"] == "1"
    assert console.wait_for("TICK", since=second.offset + 1, timeout_s=0)["n"] == "2"
    last = console.last("TICK")
    assert last is not None and last["n"] == "2"


def test_damage_ends_the_wait_at_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "serial"
    path.write_bytes(b"BADPAGE index=7 version=1 first=00 ;\n")
    with pytest.raises(GuestFailed, match="BADPAGE index=7"):
        Console(path).wait_for("TICK", timeout_s=60)
    assert Console(path).wait_for("BADPAGE", timeout_s=0)["index"] == "7"


def test_silence_ends_with_the_last_output(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "serial"
    with pytest.raises(ConsoleTimeout, match="does not exist"):
        Console(path).wait_for("READY", timeout_s=0)
    path.write_bytes(b"Kernel panic\n")
    with pytest.raises(ConsoleTimeout, match="Kernel panic"):
        Console(path).wait_for("READY", timeout_s=0)


def test_a_self_check_wants_whole_passes_and_each_disk_twice(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "serial"
    path.write_bytes(
        TICK % (0, 4, 0)
        + CHECK % (b"vda", 0)
        + CHECK % (b"vdb", 0)
        + TICK % (1, 5, 0)
        + CHECK % (b"vda", 1)
    )
    console = Console(path)
    with pytest.raises(ConsoleTimeout):
        console.check_itself(since=0, timeout_s=0)
    with path.open("ab") as file:
        file.write(TICK % (2, 6, 0) + CHECK % (b"vdb", 1))
    assert console.check_itself(since=0, timeout_s=0) == SelfCheck(
        pages=100, passes=6, blocks=40, bad=0
    )


def test_a_self_check_that_found_damage_is_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "serial"
    path.write_bytes(TICK % (0, 4, 1) + TICK % (1, 6, 1))
    with pytest.raises(GuestFailed, match="1 of its pages"):
        Console(path).check_itself(since=0, timeout_s=0)
