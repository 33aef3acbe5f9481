"""A frozen domain without its pages' bytes: the region ``device`` of a freeze.

It says which pages there are, of which type, in which RAM region, and has every record of the stream that is none of pages.
CBOR, so that it is the same bytes on both hosts; what a destination reads of it is checked like anything from a peer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import cbor2

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen.records import (
    EMULATOR,
    HEAD,
    MAX_PAGE_NUMBER,
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    MAX_STATE_BYTES,
    TABLES,
    TAIL,
    TYPES,
    Guest,
    Libxc,
    Libxl,
)

FORMAT = "nova-trusted-clone xen 1"
MAX_RANGES = 256
# Of a PV domain nearly each page table is a run of its own.
MAX_RUNS = 1 << 20
_FIELDS = {"format", "guest", "version", "ranges", "runs", "head", "tail", "emulator"}


@dataclasses.dataclass(frozen=True)
class Range:
    """Pages whose bytes stand in one RAM region.

    :ivar first: the number of its first page
    :ivar count: of pages, some of which may not be there
    """

    first: int
    count: int

    @property
    def name(self) -> str:
        """The region's name."""
        return f"{self.first:#x}"


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive pages that are there, of one type."""

    first: int
    count: int
    kind: int


@dataclasses.dataclass(frozen=True)
class DomainState:
    """Everything of a saved domain but its pages' bytes.

    :ivar version: of the Xen that saved it
    :ivar ranges: ascending, none overlaps another
    :ivar runs: the same; those that bring bytes lie within the ranges
    """

    guest: Guest
    version: tuple[int, int]
    ranges: tuple[Range, ...]
    runs: tuple[Run, ...]
    head: tuple[tuple[Libxc, bytes], ...]
    tail: tuple[tuple[Libxc, bytes], ...]
    emulator: tuple[tuple[Libxl, bytes], ...]

    def encode(self) -> bytes:
        """As the region's bytes."""
        rows: dict[str, Any] = {
            "format": FORMAT,
            "guest": int(self.guest),
            "version": list(self.version),
            "ranges": [[one.first, one.count] for one in self.ranges],
            "runs": [[one.first, one.count, one.kind] for one in self.runs],
            "head": [[int(kind), body] for kind, body in self.head],
            "tail": [[int(kind), body] for kind, body in self.tail],
            "emulator": [[int(kind), body] for kind, body in self.emulator],
        }
        return cbor2.dumps(rows)

    @classmethod
    def decode(cls, raw: bytes) -> DomainState:
        """The reverse of ``encode``.

        :raises MalformedState: naming what is wrong
        """
        if len(raw) > MAX_STATE_BYTES + 32 * MAX_RUNS:
            raise MalformedState(f"domain state: {len(raw)} bytes")
        try:
            rows = cbor2.loads(raw, max_depth=3, allow_indefinite=False)
        except (cbor2.CBORDecodeError, ValueError, OverflowError, MemoryError) as error:
            raise MalformedState(f"domain state: {error}") from error
        if not isinstance(rows, dict) or set(rows) != _FIELDS or rows["format"] != FORMAT:
            raise MalformedState(f"domain state: not of the format {FORMAT!r}")
        guest = _guest(rows["guest"])
        major, minor = _numbers("version", rows["version"], 2, 1 << 16)
        found = cls(
            guest=guest,
            version=(major, minor),
            ranges=tuple(Range(*row) for row in _rows("ranges", rows["ranges"], 2, MAX_RANGES)),
            runs=tuple(Run(*row) for row in _rows("runs", rows["runs"], 3, MAX_RUNS)),
            head=tuple((Libxc(k), b) for k, b in _records("head", rows["head"], HEAD[guest])),
            tail=tuple((Libxc(k), b) for k, b in _records("tail", rows["tail"], TAIL[guest])),
            emulator=tuple(
                (Libxl(k), b) for k, b in _records("emulator", rows["emulator"], EMULATOR)
            ),
        )
        found.require_sound()
        return found

    def require_sound(self) -> None:
        """Pages in their order, of types that such a domain has, within the ranges.

        :raises MalformedState: naming what is not so
        """
        _require_ascending("ranges", [(one.first, one.count) for one in self.ranges])
        _require_ascending("runs", [(one.first, one.count) for one in self.runs])
        ranges = iter(self.ranges)
        within = next(ranges, None)
        for run in self.runs:
            if run.kind not in TYPES or (self.guest is Guest.HVM and run.kind in TABLES):
                raise MalformedState(
                    f"domain state: runs: type {run.kind} of a {self.guest.name} domain"
                )
            if run.kind not in (0, *TABLES):
                continue
            while within is not None and run.first >= within.first + within.count:
                within = next(ranges, None)
            if (
                within is None
                or run.first < within.first
                or run.first + run.count > within.first + within.count
            ):
                raise MalformedState(f"domain state: runs: page {run.first:#x} is in no range")


def _guest(value: Any) -> Guest:
    if type(value) is not int or value not in (Guest.PV, Guest.HVM):
        raise MalformedState("domain state: guest: expected 1 (PV) or 2 (HVM)")
    return Guest(value)


def _numbers(name: str, value: Any, count: int, limit: int) -> list[int]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or any(type(number) is not int or not 0 <= number <= limit for number in value)
    ):
        raise MalformedState(f"domain state: {name}: expected {count} numbers up to {limit:#x}")
    return value


def _rows(name: str, value: Any, width: int, limit: int) -> list[list[int]]:
    if not isinstance(value, list) or len(value) > limit:
        raise MalformedState(f"domain state: {name}: expected at most {limit} rows")
    return [_numbers(name, row, width, MAX_PAGE_NUMBER) for row in value]


def _records(name: str, value: Any, allowed: frozenset[Any]) -> list[tuple[int, bytes]]:
    if not isinstance(value, list) or len(value) > MAX_RECORDS:
        raise MalformedState(f"domain state: {name}: expected at most {MAX_RECORDS} records")
    for row in value:
        if (
            not isinstance(row, list)
            or len(row) != 2
            or type(row[0]) is not int
            or row[0] not in allowed
            or not isinstance(row[1], bytes)
            or len(row[1]) > MAX_RECORD_BYTES
        ):
            raise MalformedState(f"domain state: {name}: a record that does not belong there")
    return [(row[0], row[1]) for row in value]


def _require_ascending(name: str, spans: Sequence[tuple[int, int]]) -> None:
    if any(count == 0 for _, count in spans):
        raise MalformedState(f"domain state: {name}: one is empty")
    for (first, count), (following, _) in itertools.pairwise(spans):
        if first + count > following:
            raise MalformedState(f"domain state: {name}: {following:#x} is out of order")
    if spans and sum(spans[-1]) > MAX_PAGE_NUMBER + 1:
        raise MalformedState(f"domain state: {name}: beyond the last page")
