"""Where a saved domain's stream goes: pages into one sparse file, by number; what is none of pages into a ``DomainState``.

While the domain runs its pages come again whenever they were written to; the file has the last bytes of each. What is hashed
and signed later is read from this file, and it is what is sent.
"""

from __future__ import annotations

import itertools
import os
import pathlib

import numpy as np
import numpy.typing as npt

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen.records import PAGE, Guest, Libxc, Libxl
from nova_trusted_clone.hypervisor.xen.state import MAX_RANGES, DomainState, Range, Run
from nova_trusted_clone.hypervisor.xen.stream import Kinds, Numbers, Pages, brings_bytes

# A gap that is larger parts two ranges; smaller ones are zeros, which cost nothing.
MAX_GAP_PAGES = SEGMENT_BYTES // PAGE
# Types are kept by 4 GiB of addresses, since a domain has few pages near zero and some near the end.
_CHUNK = 1 << 20
_UNSEEN = 0xFF


class Capture:
    """A ``stream.Sink``. ``state`` is there when the stream was read to its end."""

    def __init__(self, memory: pathlib.Path) -> None:
        """:param memory: the file for the pages' bytes, made anew and private"""
        self._file = os.open(memory, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._kinds: dict[int, npt.NDArray[np.uint8]] = {}
        self._guest: Guest | None = None
        self._version = (0, 0)
        self._head: list[tuple[Libxc, bytes]] = []
        self._tail: list[tuple[Libxc, bytes]] = []
        self._emulator: list[tuple[Libxl, bytes]] = []
        self.pages_taken = 0

    def close(self) -> None:
        """Let the file go; its name stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # -- the sink -----------------------------------------------------------------------------------------------------

    def image(self, guest: Guest, version: tuple[int, int]) -> None:
        """Remember what it is."""
        self._guest, self._version = guest, version

    def head(self, kind: Libxc, body: bytes) -> None:
        """Keep a record."""
        self._head.append((kind, body))

    def tail(self, kind: Libxc, body: bytes) -> None:
        """Keep a record."""
        self._tail.append((kind, body))

    def emulator(self, kind: Libxl, body: bytes) -> None:
        """Keep a record."""
        self._emulator.append((kind, body))

    def pages(self, numbers: Numbers, kinds: Kinds, data: Pages) -> None:
        """Keep pages; what is there no longer is wiped."""
        brings = brings_bytes(kinds)
        present = numbers[brings]
        for run in _consecutive(present):
            self._write(int(present[run.start]), data[run])
        chunks = numbers // np.uint64(_CHUNK)
        for chunk in np.unique(chunks).tolist():
            there = chunks == chunk
            self._note(int(chunk), numbers[there], kinds[there])
        self.pages_taken += len(data)

    def _note(self, chunk: int, numbers: Numbers, kinds: Kinds) -> None:
        """Remember the types of pages of one chunk, and wipe those that had bytes and have none now.

        A domain has a hole of nearly 4 GiB that is told page by page: no work of ours may be by page here.
        """
        known = self._kinds.get(chunk)
        if known is None:
            known = self._kinds[chunk] = np.full(_CHUNK, _UNSEEN, np.uint8)
        places = (numbers % np.uint64(_CHUNK)).astype(np.int64)
        gone = numbers[brings_bytes(known[places]) & ~brings_bytes(kinds)]
        for run in _consecutive(gone):
            self._write(int(gone[run.start]), np.zeros((run.stop - run.start, PAGE), np.uint8))
        known[places] = kinds

    def _write(self, first: int, pages: Pages) -> None:
        data, at = np.ascontiguousarray(pages).data.cast("B"), first * PAGE
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written

    # -- what came of it ----------------------------------------------------------------------------------------------

    def state(self, least_bytes: int) -> DomainState:
        """What was read; the file is as long as its ranges say afterwards.

        :param least_bytes: the ranges from page 0 on are at least so large together: the domain's memory, of which some pages
            may not be there
        :raises MalformedState: nothing was read, or its pages lie strangely
        """
        if self._guest is None:
            raise MalformedState("saved domain: there is nothing of it")
        runs = self._runs()
        ranges = _ranges(
            [run for run in runs if brings_bytes(np.array([run.kind], np.uint8))[0]],
            least_bytes // PAGE,
        )
        if len(ranges) > MAX_RANGES:
            raise MalformedState(f"saved domain: its memory lies in {len(ranges)} parts")
        os.ftruncate(self._file, (ranges[-1].first + ranges[-1].count) * PAGE)
        found = DomainState(
            guest=self._guest,
            version=self._version,
            ranges=ranges,
            runs=runs,
            head=tuple(self._head),
            tail=tuple(self._tail),
            emulator=tuple(self._emulator),
        )
        found.require_sound()
        return found

    def _runs(self) -> tuple[Run, ...]:
        found = []
        for chunk in sorted(self._kinds):
            kinds = self._kinds[chunk]
            breaks = (np.flatnonzero(np.diff(kinds)) + 1).tolist()
            for low, high in itertools.pairwise((0, *breaks, _CHUNK)):
                if kinds[low] != _UNSEEN:
                    found.append(Run(chunk * _CHUNK + low, high - low, int(kinds[low])))
        return tuple(found)


def _consecutive(numbers: Numbers) -> list[slice]:
    """The parts of ``numbers`` that count up by one."""
    if not len(numbers):
        return []
    breaks = (np.flatnonzero(np.diff(numbers.astype(np.int64)) != 1) + 1).tolist()
    return [slice(low, high) for low, high in itertools.pairwise((0, *breaks, len(numbers)))]


def _ranges(runs: list[Run], least_pages: int) -> tuple[Range, ...]:
    """What lies close together, together; the first ones grown until there is enough."""
    spans: list[list[int]] = [[0, 0]]
    for run in runs:
        if run.first - spans[-1][1] > MAX_GAP_PAGES:
            spans.append([run.first, run.first])
        spans[-1][1] = run.first + run.count
    missing = least_pages - sum(end - first for first, end in spans)
    for number, span in enumerate(spans):
        if missing <= 0:
            break
        room = spans[number + 1][0] - span[1] if number + 1 < len(spans) else missing
        grown = min(missing, room)
        span[1] += grown
        missing -= grown
    return tuple(Range(first, end - first) for first, end in spans if end > first)
