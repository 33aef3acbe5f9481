"""A reader of the memory part of QEMU's migration stream, version 3: what a composed one says is read by it.

::

    magic version
    [configuration: machine name, subsections]
    section start "ram": block list; then any number of section parts: pages; each with a footer
    the device state's sections (not read: the freeze has saved the device state itself)

All integers are big-endian. A page record is ``address | flags`` (u64), the block's name unless CONTINUE is set, then 4096
bytes, or one fill byte for a zero page. Runs of records that name no block have equal lengths, so numpy reads a whole run at
once: records cost no Python each. Every length is checked before it is used (QEMU: ``docs/devel/migration.rst``,
``migration/ram.c``).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu.devicestate import MAGIC, VERSION

PAGE = 4096
ZERO, MEM_SIZE, FULL_PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
SECTION_START, SECTION_PART, SECTION_END, SECTION_FULL = 1, 2, 3, 4
SUBSECTION, DESCRIPTION, CONFIGURATION, FOOTER = 5, 6, 7, 0x7E
RAM = "ram"
RAM_VERSION = 4
MAX_BLOCKS = 4096
MAX_BLOCK_BYTES = 1 << 50
MAX_MACHINE_BYTES = 256
MAX_CAPABILITIES = 64
_PAGE_RECORD = 8 + PAGE
_ZERO_RECORD = 8 + 1
# A run is looked at in growing steps, so that alternating records do not each pay for a long look ahead.
_FIRST_LOOK = 16
_LOOK_GROWTH = 8

Addresses = npt.NDArray[np.uint64]
Pages = npt.NDArray[np.uint8]


class Sink(Protocol):
    """Takes what is read. What it raises ends the reading."""

    def blocks(self, found: tuple[tuple[str, int], ...]) -> None:
        """Every block's name and size, once, before any page."""

    def pages(self, block: str, addresses: Addresses, data: Pages) -> None:
        """``data[i]`` is the page at byte ``addresses[i]``; both are views that end with the call."""

    def zeros(self, block: str, addresses: Addresses) -> None:
        """These pages are zero."""

    def tail(self) -> None:
        """The memory part is over."""


class _More(Exception):
    """The bytes at hand end within an item."""


class _State(enum.Enum):
    HEADER = enum.auto()
    SECTION = enum.auto()
    RECORDS = enum.auto()
    FOOTER = enum.auto()
    TAIL = enum.auto()


class StreamParser:
    """Feed it bytes; it tells a sink what they say."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._state = _State.HEADER
        self._data = memoryview(b"")
        self._at = 0
        self._section_id: int | None = None
        self._sizes: dict[str, int] = {}
        self._block = ""
        self._steps: dict[_State, Callable[[], None]] = {
            _State.HEADER: self._header,
            _State.SECTION: self._section,
            _State.RECORDS: self._record,
            _State.FOOTER: self._footer,
        }

    @property
    def in_tail(self) -> bool:
        """Whether the memory part is over."""
        return self._state is _State.TAIL

    def feed(self, data: memoryview) -> int:
        """Read as many whole items of ``data`` as there are and return their bytes; the caller gives the rest again.

        :raises MalformedState: the stream is not what it must be; the place is named
        """
        self._data, self._at = data, 0
        whole = 0
        try:
            while self._state is not _State.TAIL and self._at < len(data):
                self._steps[self._state]()
                whole = self._at
        except _More:
            return whole
        finally:
            self._data = memoryview(b"")
        return len(data) if self._state is _State.TAIL else whole

    # -- items --------------------------------------------------------------------------------------------------------

    def _take(self, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._data):
            raise _More
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _u8(self) -> int:
        return self._take(1)[0]

    def _u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def _u64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def _name(self, size: int, limit: int) -> str:
        if not 0 < size <= limit:
            raise MalformedState(f"stream: a name of {size} bytes")
        try:
            return bytes(self._take(size)).decode("ascii")
        except UnicodeDecodeError as error:
            raise MalformedState("stream: a name that is not text") from error

    # -- states -------------------------------------------------------------------------------------------------------

    def _header(self) -> None:
        magic, version = struct.unpack(">II", self._take(8))
        if (magic, version) != (MAGIC, VERSION):
            raise MalformedState(f"stream: magic {magic:#x} version {version}")
        if self._data[self._at : self._at + 1] == bytes([CONFIGURATION]):
            self._at += 1
            self._name(self._u32(), MAX_MACHINE_BYTES)
            while self._peek() == SUBSECTION:
                self._at += 1
                self._subsection()
        elif self._at == len(self._data):
            raise _More
        self._state = _State.SECTION

    def _peek(self) -> int:
        if self._at >= len(self._data):
            raise _More
        return self._data[self._at]

    def _subsection(self) -> None:
        name = self._name(self._u8(), 255)
        self._u32()
        if name == "configuration/capabilities":
            count = self._u32()
            if count > MAX_CAPABILITIES:
                raise MalformedState(f"stream: {count} capabilities")
            for _ in range(count):
                self._name(self._u8(), 255)
        elif name == "configuration/target-page-bits":
            if (bits := self._u32()) != PAGE.bit_length() - 1:
                raise MalformedState(f"stream: pages of 2^{bits} bytes, expected {PAGE}")
        elif name == "configuration/uuid":
            self._take(16)
        else:
            raise MalformedState(f"stream: subsection {name!r}")

    def _section(self) -> None:
        kind = self._u8()
        if kind == SECTION_START:
            self._start()
        elif kind in (SECTION_PART, SECTION_END):
            if self._u32() != self._section_id:
                raise MalformedState("stream: a part of a section that was not started")
        elif kind == SECTION_FULL and self._section_id is not None:
            self._sink.tail()
            self._state = _State.TAIL
            return
        else:
            raise MalformedState(f"stream: section type {kind:#x}")
        self._state = _State.RECORDS

    def _start(self) -> None:
        section_id = self._u32()
        name = self._name(self._u8(), 255)
        _instance, version = self._u32(), self._u32()
        if name != RAM or version != RAM_VERSION or self._section_id is not None:
            raise MalformedState(f"stream: section {name!r} version {version} begins")
        header = self._u64()
        if header & (PAGE - 1) != MEM_SIZE:
            raise MalformedState("stream: no block list")
        self._blocks(header & ~(PAGE - 1))
        self._section_id = section_id

    def _blocks(self, total: int) -> None:
        sizes: dict[str, int] = {}
        left = total
        while left > 0:
            name, size = self._name(self._u8(), 255), self._u64()
            if size % PAGE or not 0 < size <= min(left, MAX_BLOCK_BYTES) or name in sizes:
                raise MalformedState(f"stream: block {name!r} of {size} bytes, {left} left")
            if len(sizes) >= MAX_BLOCKS:
                raise MalformedState(f"stream: more than {MAX_BLOCKS} blocks")
            sizes[name] = size
            left -= size
        self._sizes = sizes
        self._sink.blocks(tuple(sizes.items()))

    def _footer(self) -> None:
        if self._u8() != FOOTER or self._u32() != self._section_id:
            raise MalformedState("stream: a section does not end where its records do")
        self._state = _State.SECTION

    def _record(self) -> None:
        start = self._at
        header = self._u64()
        flags, address = header & (PAGE - 1), header & ~(PAGE - 1)
        if flags == EOS and not address:
            self._state = _State.FOOTER
            return
        if flags & ~CONTINUE not in (FULL_PAGE, ZERO):
            raise MalformedState(f"stream: record flags {flags:#x}")
        if flags & CONTINUE:
            self._at = start
            self._run(flags)
            return
        name = self._name(self._u8(), 255)
        if name not in self._sizes:
            raise MalformedState(f"stream: a page of an unknown block {name!r}")
        # The record's body must be there too before the name counts: it may be given again.
        body = self._take(PAGE if flags == FULL_PAGE else 1)
        self._block = name
        addresses = np.array([address], np.uint64)
        self._tell(flags, addresses, np.frombuffer(body, np.uint8).reshape(1, -1))

    def _run(self, flags: int) -> None:
        """All records from here that have these flags."""
        size = _PAGE_RECORD if flags & FULL_PAGE else _ZERO_RECORD
        there = (len(self._data) - self._at) // size
        if not there:
            raise _More
        if not self._block:
            raise MalformedState("stream: a page before any block was named")
        headers = np.ndarray((there,), ">u8", self._data, self._at, (size,))
        count, look = 0, _FIRST_LOOK
        while count < there:
            same = (headers[count : count + look] & np.uint64(PAGE - 1)) == flags
            equal = len(same) if same.all() else int(same.argmin())
            count += equal
            if equal < len(same):
                break
            look *= _LOOK_GROWTH
        addresses = headers[:count].astype(np.uint64) & ~np.uint64(PAGE - 1)
        shape = (count, size - 8)
        bodies = np.ndarray(shape, np.uint8, self._data, self._at + 8, (size, 1))
        self._tell(flags & ~CONTINUE, addresses, bodies)
        self._at += count * size

    def _tell(self, flags: int, addresses: Addresses, bodies: Pages) -> None:
        size = self._sizes[self._block]
        if int(addresses.max()) >= size:
            raise MalformedState(f"stream: a page beyond the end of block {self._block!r}")
        if flags == FULL_PAGE:
            self._sink.pages(self._block, addresses, bodies)
        elif bodies.any():
            raise MalformedState("stream: a zero page that is not zero")
        else:
            self._sink.zeros(self._block, addresses)


BLOCKS = {"pc.ram": 64 * PAGE, "vga.vram": 8 * PAGE}


class Collector:
    """Keeps what the parser tells."""

    def __init__(self) -> None:
        self.found: tuple[tuple[str, int], ...] = ()
        self.memory = {block: bytearray(b"?" * size) for block, size in BLOCKS.items()}
        self.calls = 0
        self.over = False

    def blocks(self, found: tuple[tuple[str, int], ...]) -> None:
        self.found = found

    def pages(self, block: str, addresses: Addresses, data: Pages) -> None:
        self.calls += 1
        for address, page in zip(addresses.tolist(), data, strict=True):
            self.memory[block][address : address + PAGE] = page.tobytes()

    def zeros(self, block: str, addresses: Addresses) -> None:
        self.calls += 1
        for address in addresses.tolist():
            self.memory[block][address : address + PAGE] = bytes(PAGE)

    def tail(self) -> None:
        self.over = True
