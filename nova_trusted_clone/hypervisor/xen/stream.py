"""A saved domain's stream, read strictly and once, from a file or a pipe.

Every length is checked before it is used, every record must be one that this kind of domain has at this place, and what is not
known is refused: a stream that is understood in parts cannot be put together again on the other host.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen.records import (
    BROKEN,
    DOMAIN_HEADER,
    EMULATOR,
    HEAD,
    IMAGE_HEADER,
    LIBXC_ID,
    LIBXC_MARKER,
    LIBXC_VERSION,
    LIBXL_HEADER,
    LIBXL_IDENT,
    LIBXL_VERSION,
    MAX_BATCH,
    MAX_PAGE_NUMBER,
    MAX_PAGE_RECORD_BYTES,
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    MAX_STATE_BYTES,
    NUMBER_BITS,
    PAGE,
    PAGE_COUNT,
    PAGE_SHIFT,
    RECORD,
    TAIL,
    TYPE_SHIFT,
    TYPES,
    Guest,
    Libxc,
    Libxl,
    padding,
)

Numbers = npt.NDArray[np.uint64]
Kinds = npt.NDArray[np.uint8]
Pages = npt.NDArray[np.uint8]
_NUMBER_MASK = np.uint64((1 << NUMBER_BITS) - 1)
_KNOWN_TYPES = np.array([kind in TYPES for kind in range(16)])


class Readable(Protocol):
    """A binary file or pipe; reading blocks until there is something."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill some of ``buffer``; 0 at the end."""

    def read(self, size: int, /) -> bytes | None:
        """Some bytes; none at the end."""


class Sink(Protocol):
    """Takes what is read. What it raises ends the reading."""

    def image(self, guest: Guest, version: tuple[int, int]) -> None:
        """How the domain is virtualized, and by which Xen; once, before all else."""

    def head(self, kind: Libxc, body: bytes) -> None:
        """A record that stands before the pages."""

    def pages(self, numbers: Numbers, kinds: Kinds, data: Pages) -> None:
        """Pages by number and type; ``data`` has, in order, those whose type brings bytes, and ends with the call.

        A page may come again: the last time counts.
        """

    def tail(self, kind: Libxc, body: bytes) -> None:
        """A record that stands after the pages."""

    def emulator(self, kind: Libxl, body: bytes) -> None:
        """A record of the device model's."""


class _Reader:
    """Exactly so many bytes of a file, with the place in errors."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.position = 0

    def exactly(self, count: int, what: str) -> bytearray:
        raw = bytearray(count)
        view, filled = memoryview(raw), 0
        while filled < count:
            got = self._file.readinto(view[filled:])
            if not got:
                raise self.malformed(f"the stream ends within {what}")
            filled += got
        self.position += count
        return raw

    def require_end(self) -> None:
        if self._file.read(1):
            raise self.malformed("bytes after the end")

    def malformed(self, what: str) -> MalformedState:
        return MalformedState(f"saved domain, byte {self.position}: {what}")


def read(file: Readable, sink: Sink) -> None:
    """Read libxl's stream to its end, which must be the file's.

    :param file: not buffered is best
    :raises MalformedState: naming the byte
    """
    _Parser(file, sink).run()


class _Parser:
    def __init__(self, file: Readable, sink: Sink) -> None:
        self._reader = _Reader(file)
        self._sink = sink
        self._records = 0
        self._state_bytes = 0

    def run(self) -> None:
        reader = self._reader
        ident, version, options = LIBXL_HEADER.unpack(reader.exactly(LIBXL_HEADER.size, "a header"))
        if (ident, version, options) != (LIBXL_IDENT, LIBXL_VERSION, 0):
            raise reader.malformed(
                f"ident {ident:#x}, version {version}, options {options:#x} of libxl; "
                f"expected {LIBXL_IDENT:#x}, {LIBXL_VERSION}, 0"
            )
        kind, length = self._record_header()
        if (kind, length) != (Libxl.LIBXC_CONTEXT, 0):
            raise reader.malformed(f"libxl record {kind} of {length} bytes, expected LIBXC_CONTEXT")
        self._libxc()
        while True:
            kind, length = self._record_header()
            if kind == Libxl.END:
                self._require_empty(kind, length)
                break
            if kind not in EMULATOR:
                raise reader.malformed(f"libxl record {kind}, expected an emulator's or the end")
            self._sink.emulator(Libxl(kind), self._body(length))
        reader.require_end()

    # -- libxc --------------------------------------------------------------------------------------------------------

    def _libxc(self) -> None:
        guest = self._headers()
        kind, length = self._head(guest)
        while kind == Libxc.PAGE_DATA:
            self._page_data(guest, length)
            kind, length = self._record_header()
        while kind != Libxc.END:
            if kind not in TAIL[guest]:
                raise self._reader.malformed(
                    f"libxc record {kind:#x} of a {guest.name} domain's end"
                )
            self._sink.tail(Libxc(kind), self._body(length))
            kind, length = self._record_header()
        self._require_empty(kind, length)

    def _headers(self) -> Guest:
        reader = self._reader
        marker, ident, version, options, rest = IMAGE_HEADER.unpack(
            reader.exactly(IMAGE_HEADER.size, "libxc's header")
        )
        if (marker, ident, version, options, rest) != (
            LIBXC_MARKER,
            LIBXC_ID,
            LIBXC_VERSION,
            0,
            bytes(6),
        ):
            raise reader.malformed(
                f"libxc's header: id {ident:#x}, version {version}, options {options:#x}"
            )
        kind, shift, zero, major, minor = DOMAIN_HEADER.unpack(
            reader.exactly(DOMAIN_HEADER.size, "the domain's header")
        )
        if kind not in (Guest.PV, Guest.HVM) or shift != PAGE_SHIFT or zero != 0:
            raise reader.malformed(f"the domain's header: type {kind}, page shift {shift}")
        if max(major, minor) > 1 << 16:
            raise reader.malformed(f"the domain's header: Xen {major}.{minor}")
        self._sink.image(Guest(kind), (major, minor))
        return Guest(kind)

    def _head(self, guest: Guest) -> tuple[int, int]:
        """Everything before the pages; the first page record's header."""
        while True:
            kind, length = self._record_header()
            if kind == Libxc.PAGE_DATA:
                return kind, length
            if kind not in HEAD[guest]:
                raise self._reader.malformed(
                    f"libxc record {kind:#x} before the pages of a {guest.name} domain"
                )
            self._sink.head(Libxc(kind), self._body(length))

    def _page_data(self, guest: Guest, length: int) -> None:
        reader = self._reader
        if not PAGE_COUNT.size < length <= MAX_PAGE_RECORD_BYTES:
            raise reader.malformed(f"a page record of {length} bytes")
        body = reader.exactly(length + padding(length), "a page record")
        count, zero = PAGE_COUNT.unpack_from(body)
        at = PAGE_COUNT.size + 8 * count
        if not 0 < count <= MAX_BATCH or zero != 0 or at > length:
            raise reader.malformed(f"a page record of {length} bytes with {count} pages")
        entries = np.frombuffer(body, "<u8", count, PAGE_COUNT.size)
        numbers, kinds = entries & _NUMBER_MASK, (entries >> np.uint64(TYPE_SHIFT)).astype(np.uint8)
        if (
            entries >> np.uint64(NUMBER_BITS) & np.uint64(0xFF)
        ).any() or numbers.max() > MAX_PAGE_NUMBER:
            raise reader.malformed("a page's number is out of range")
        if not _KNOWN_TYPES[kinds].all() or (
            guest is Guest.HVM and ((kinds > 0) & (kinds < BROKEN)).any()
        ):
            raise reader.malformed(
                f"page types {sorted(set(kinds.tolist()))} of a {guest.name} domain"
            )
        present = int(brings_bytes(kinds).sum())
        if at + present * PAGE != length or any(body[length:]):
            raise reader.malformed(f"a page record of {length} bytes with {present} pages' bytes")
        data = np.frombuffer(body, np.uint8, present * PAGE, at).reshape(present, PAGE)
        self._sink.pages(numbers, kinds, data)

    # -- both ---------------------------------------------------------------------------------------------------------

    def _record_header(self) -> tuple[int, int]:
        kind, length = RECORD.unpack(self._reader.exactly(RECORD.size, "a record's header"))
        return kind, length

    def _body(self, length: int) -> bytes:
        """A body that is kept: all of them together are limited."""
        self._records += 1
        self._state_bytes += length
        if (
            length > MAX_RECORD_BYTES
            or self._state_bytes > MAX_STATE_BYTES
            or self._records > MAX_RECORDS
        ):
            raise self._reader.malformed(
                f"a record of {length} bytes, the {self._records}th with {self._state_bytes} bytes together"
            )
        raw = self._reader.exactly(length + padding(length), "a record")
        if any(raw[length:]):
            raise self._reader.malformed("a record's padding is not zero")
        return bytes(raw[:length])

    def _require_empty(self, kind: int, length: int) -> None:
        if length:
            raise self._reader.malformed(f"an end record ({kind}) of {length} bytes")


def brings_bytes(kinds: Kinds) -> npt.NDArray[np.bool_]:
    """Which of these types bring a page's bytes."""
    return kinds < BROKEN
