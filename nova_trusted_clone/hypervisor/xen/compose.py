"""A stream for libxl, put together of a frozen domain's state and its memory: what the destination restores from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nova_trusted_clone.hypervisor.xen.records import (
    DOMAIN_HEADER,
    IMAGE_HEADER,
    LIBXC_ID,
    LIBXC_MARKER,
    LIBXC_VERSION,
    LIBXL_HEADER,
    LIBXL_IDENT,
    LIBXL_VERSION,
    MAX_BATCH,
    PAGE,
    PAGE_COUNT,
    PAGE_SHIFT,
    RECORD,
    TYPE_SHIFT,
    Libxc,
    Libxl,
    padding,
)
from nova_trusted_clone.hypervisor.xen.state import DomainState, Run
from nova_trusted_clone.hypervisor.xen.stream import brings_bytes

# ``ReadPages(first, count)``: the bytes of consecutive pages of one range.
ReadPages = Callable[[int, int], bytes]


def stream(state: DomainState, read_pages: ReadPages) -> Iterator[bytes]:
    """The stream in parts, its pages read as they are needed."""
    yield LIBXL_HEADER.pack(LIBXL_IDENT, LIBXL_VERSION, 0)
    yield RECORD.pack(Libxl.LIBXC_CONTEXT, 0)
    yield IMAGE_HEADER.pack(LIBXC_MARKER, LIBXC_ID, LIBXC_VERSION, 0, bytes(6))
    yield DOMAIN_HEADER.pack(state.guest, PAGE_SHIFT, 0, *state.version)
    for kind, body in state.head:
        yield _record(kind, body)
    for run in state.runs:
        yield from _pages(run, read_pages)
    for kind, body in state.tail:
        yield _record(kind, body)
    yield RECORD.pack(Libxc.END, 0)
    for emulators, body in state.emulator:
        yield _record(emulators, body)
    yield RECORD.pack(Libxl.END, 0)


def _record(kind: int, body: bytes) -> bytes:
    return RECORD.pack(kind, len(body)) + body + bytes(padding(len(body)))


def _pages(run: Run, read_pages: ReadPages) -> Iterator[bytes]:
    has_bytes = bool(brings_bytes(np.array([run.kind], np.uint8))[0])
    for first in range(run.first, run.first + run.count, MAX_BATCH):
        count = min(MAX_BATCH, run.first + run.count - first)
        numbers = np.arange(first, first + count, dtype="<u8") | np.uint64(run.kind << TYPE_SHIFT)
        body = PAGE_COUNT.pack(count, 0) + numbers.tobytes()
        data = read_pages(first, count) if has_bytes else b""
        assert len(data) == (count * PAGE if has_bytes else 0)
        yield RECORD.pack(Libxc.PAGE_DATA, len(body) + len(data)) + body
        yield data
