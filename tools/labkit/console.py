"""What a guest prints: lines of one kind and key=value words, read from the file behind its serial port.

Each line ends with a semicolon. A line that was cut (a clone's file begins in the middle of one) has no known kind or no
semicolon, and is left out.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

from labkit.errors import ConsoleTimeout, GuestFailed

KINDS = frozenset(
    ("READY", "TICK", "DISKCHECK", "TPM", "PCRS", "NIC", "GENID", "BADPAGE", "BADBLOCK", "ERROR")
)
# The guest found its own memory or disk damaged, or cannot work: waiting on would hide it.
FAILURES = frozenset(("BADPAGE", "BADBLOCK", "ERROR"))
POLL_S = 0.05


@dataclasses.dataclass(frozen=True)
class Line:
    """One line.

    :ivar offset: where it begins in the file, bytes
    """

    kind: str
    values: Mapping[str, str]
    offset: int = 0

    def __getitem__(self, key: str) -> str:
        return self.values[key]

    def number(self, key: str) -> int:
        """The value as a whole number."""
        return int(self.values[key])


def parse_line(raw: bytes, offset: int = 0) -> Line | None:
    """The line in ``raw``, or None when it is none of the guest program's or was cut."""
    text = raw.decode("ascii", errors="replace").strip()
    if not text.endswith(" ;"):
        return None
    kind, *words = text[:-2].split()
    if kind not in KINDS or not all("=" in word for word in words):
        return None
    return Line(kind, dict(word.split("=", 1) for word in words), offset)


@dataclasses.dataclass(frozen=True)
class Console:
    """The file behind a guest's first serial port."""

    path: pathlib.Path

    def size(self) -> int:
        """Bytes until now: a position to read on from."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def lines(self, since: int = 0) -> list[Line]:
        """Every whole line from byte ``since`` on."""
        return list(self._read(since))

    def _read(self, since: int) -> Iterator[Line]:
        try:
            with self.path.open("rb") as file:
                file.seek(since)
                raw = file.read()
        except FileNotFoundError:
            return
        position = since
        for part in raw.split(b"\n")[:-1]:
            line = parse_line(part, position)
            position += len(part) + 1
            if line is not None:
                yield line

    def last(self, kind: str, since: int = 0) -> Line | None:
        """The newest line of ``kind``, or None."""
        found = [line for line in self.lines(since) if line.kind == kind]
        return found[-1] if found else None

    def wait_for(
        self,
        kind: str,
        predicate: Callable[[Line], bool] = lambda _line: True,
        timeout_s: float = 60.0,
        since: int = 0,
    ) -> Line:
        """The first line of ``kind`` from byte ``since`` on for which ``predicate`` holds.

        :raises GuestFailed: when the guest says meanwhile that its memory or disk is damaged
        :raises ConsoleTimeout: with the last lines, when none comes in time
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for line in self.lines(since):
                if line.kind == kind and predicate(line):
                    return line
                if line.kind in FAILURES and kind not in FAILURES:
                    raise GuestFailed(f"{self.path.name}: {describe(line)}")
            if time.monotonic() > deadline:
                raise ConsoleTimeout(f"no {kind} line within {timeout_s:g} s; {self._tail()}")
            time.sleep(POLL_S)

    def _tail(self) -> str:
        if not self.path.exists():
            return f"{self.path} does not exist"
        text = self.path.read_bytes()[-600:].decode("ascii", errors="replace")
        return f"the last output in {self.path}: {text!r}"

    def check_itself(
        self, since: int | None = None, rounds: int = 2, timeout_s: float = 120.0
    ) -> SelfCheck:
        """Wait until the guest has checked all its memory and each of its disks whole since byte ``since`` (default: now).

        :param rounds: passes over the memory that must begin and end after ``since``; 2 passes make sure of 1 whole
        :raises GuestFailed: when it found anything damaged
        """
        begin = self.size() if since is None else since
        first = self.wait_for("TICK", timeout_s=timeout_s, since=begin)
        wanted = first.number("pass") + rounds
        tick = self.wait_for("TICK", lambda line: line.number("pass") >= wanted, timeout_s, begin)
        disks = [
            self.wait_for("DISKCHECK", _second_of(name), timeout_s, begin)
            for name in sorted(self._disks())
        ]
        result = SelfCheck.of(tick, disks)
        if result.bad:
            raise GuestFailed(f"{self.path.name}: {result.bad} of its pages and blocks are damaged")
        return result

    def _disks(self) -> set[str]:
        return {line["disk"] for line in self.lines() if line.kind == "DISKCHECK"}


def _second_of(disk: str) -> Callable[[Line], bool]:
    """Holds for the second check of ``disk``: the first may have begun before we looked."""
    seen: set[int] = set()

    def is_second(line: Line) -> bool:
        if line["disk"] != disk:
            return False
        seen.add(line.offset)
        return len(seen) >= 2

    return is_second


def describe(line: Line) -> str:
    """The line as the guest wrote it."""
    return " ".join([line.kind, *(f"{key}={value}" for key, value in line.values.items())])


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """What a guest found when it looked at itself."""

    pages: int
    passes: int
    blocks: int
    bad: int

    @classmethod
    def of(cls, tick: Line, disks: list[Line]) -> SelfCheck:
        """Add up a TICK and the DISKCHECK of each disk."""
        return cls(
            pages=tick.number("pages"),
            passes=tick.number("pass"),
            blocks=sum(line.number("blocks") for line in disks),
            bad=tick.number("bad") + sum(line.number("bad") for line in disks),
        )
