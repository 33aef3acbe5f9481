"""The frozen memory as it comes out of the source's QEMU.

QEMU's stream must be read at full speed whatever happens: while it waits for its reader, the guest waits at its next write to
a page that has not left yet. So one thread reads and does nothing else; when the pages cannot be kept (disk full) or make no
sense it goes on reading, throws away, and the freeze is marked failed.

Pages are kept in sparse files without a name, in the freeze's directory; zero pages only as a mark. A page may come twice:
from the stream, and read in place (``memory``). The second is compared with the first; if they differ the freeze has failed,
because then reading in place was wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pathlib
import socket
import tempfile
import threading
import time

import numpy as np

from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import holdback
from nova_trusted_clone.hypervisor.qemu.stream import PAGE, Addresses, Pages, StreamParser

LOG = logging.getLogger(__name__)
UNKNOWN, IS_ZERO, KEPT = 0, 1, 2
BUFFER_BYTES = 4 << 20
CHANGED = "source.page.changed"


class CaptureFailed(HypervisorError):
    """The frozen memory is not whole; the freeze is of no use any more."""

    code = "trusted-clone.capture.failed"


class _Block:
    """One block's pages: what is known of each, and a file with those that are not zero."""

    def __init__(self, size_bytes: int, directory: pathlib.Path) -> None:
        self.size_bytes = size_bytes
        self.state = np.zeros(size_bytes // PAGE, np.uint8)
        with tempfile.TemporaryFile(dir=directory, prefix="capture-") as file:
            self.descriptor = os.dup(file.fileno())
        os.truncate(self.descriptor, size_bytes)

    def write(self, first: int, pages: Pages) -> None:
        """Keep consecutive pages from page ``first`` on."""
        data, at = np.ascontiguousarray(pages).data.cast("B"), first * PAGE
        while data:
            written = os.pwrite(self.descriptor, data, at)
            data, at = data[written:], at + written

    def read(self, first: int, count: int) -> bytes:
        """Consecutive pages; what was not kept reads as zero."""
        return os.pread(self.descriptor, count * PAGE, first * PAGE)


class DrainedCapture:
    """Listens for QEMU, drains it, and answers which pages are there.

    Begin with ``start`` before the freeze; ``close`` ends it at any time. Several threads may ask at once.
    """

    def __init__(self, drain_socket: pathlib.Path, directory: pathlib.Path) -> None:
        self.socket_path = drain_socket
        self._directory = directory
        self._changed = threading.Condition()
        self._blocks: dict[str, _Block] = {}
        self._expected: dict[str, int] = {}
        self._streamed: dict[str, int] | None = None
        self._listening: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self.failed_reason: str | None = None
        self.ended = False
        self.bytes_read = 0
        self.seconds = 0.0
        self.compared_pages = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen on the drain socket."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(self.socket_path))
        self.socket_path.chmod(0o600)
        listening.listen(1)
        self._listening = listening
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop draining and let the pages go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            opened = (self._listening, self._connection)
        for waiting in opened:
            if waiting is not None:
                # Wakes the drain's thread; it may have ended by itself.
                with contextlib.suppress(OSError):
                    waiting.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()
        if self._listening is not None:
            self._listening.close()
        self.socket_path.unlink(missing_ok=True)
        with self._changed:
            for block in self._blocks.values():
                os.close(block.descriptor)
            self._blocks.clear()

    def fail(self, reason: str) -> None:
        """Mark the freeze as failed; the first reason counts. Draining goes on."""
        with self._changed:
            if self.failed_reason is None:
                self.failed_reason = reason
                LOG.error("the captured memory is not whole: %s", reason)
            self._changed.notify_all()

    def expect(self, blocks: dict[str, int]) -> None:
        """Name every block and its size, as the freeze found them; pages read in place can be kept from now on."""
        with self._changed:
            self._expected = dict(blocks)
            for name, size in blocks.items():
                self._ensure(name, size)
        self._check_blocks()

    # -- the drain's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._listening is not None
        connection = self._accept(self._listening)
        if connection is None:
            return
        with self._changed:
            self._connection = connection
            closed = self._closed
        try:
            with connection:
                if not closed:
                    self._begin(connection)
        finally:
            self._end()

    def _begin(self, connection: socket.socket) -> None:
        """Drain as soon as the guest stands still (``holdback``)."""
        try:
            filled = holdback.await_word(connection)
        except (HypervisorError, OSError) as error:
            if not self._closed:
                self.fail(f"the source's stream did not begin: {error}")
            holdback.await_end(connection)
            return
        began = time.monotonic()
        try:
            self._drain(connection, filled)
        finally:
            self.seconds = time.monotonic() - began

    def _accept(self, listening: socket.socket) -> socket.socket | None:
        """QEMU's connection; None when closed before it came."""
        try:
            connection, _ = listening.accept()
        except OSError:
            if not self._closed:
                raise
            return None
        return connection

    def _drain(self, connection: socket.socket, filled_bytes: int) -> None:
        """Read to the end.

        :param filled_bytes: before QEMU's own, to be thrown away
        """
        parser = StreamParser(self)
        # Twice what is read at once: an item that is not whole yet stays at the front.
        buffer = bytearray(2 * BUFFER_BYTES)
        view, filled = memoryview(buffer), 0
        while True:
            try:
                count = connection.recv_into(view[filled:], filled_bytes)
            except OSError as error:
                self.fail(f"the source's stream broke off: {error}")
                return
            if not count:
                return
            if filled_bytes:
                filled_bytes -= count
                continue
            self.bytes_read += count
            if self.failed_reason is not None or parser.in_tail:
                filled = 0
                continue
            filled += count
            filled = self._digest(parser, view, filled)

    def _digest(self, parser: StreamParser, view: memoryview, filled: int) -> int:
        """Read what is whole; the bytes that stay."""
        try:
            used = parser.feed(view[:filled])
        except (HypervisorError, OSError) as error:
            self.fail(f"{error}")
            return 0
        rest = filled - used
        view[:rest] = bytes(view[used:filled])
        return rest

    def _end(self) -> None:
        with self._changed:
            missing = [n for n, b in self._blocks.items() if not b.state.all()]
            self.ended = True
            self._changed.notify_all()
        if not self._closed and (missing or not self._blocks):
            self.fail("the source's stream ended before all pages had come")

    # -- the parser's sink --------------------------------------------------------------------------------------------

    def blocks(self, found: tuple[tuple[str, int], ...]) -> None:
        """Every block of the stream."""
        with self._changed:
            for name, size in found:
                self._ensure(name, size)
            self._streamed = dict(found)
        self._check_blocks()

    def pages(self, block: str, addresses: Addresses, data: Pages) -> None:
        """Keep pages of the stream."""
        numbers = (addresses // np.uint64(PAGE)).astype(np.int64)
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        bounds = [0, *breaks.tolist(), len(numbers)]
        for low, high in itertools.pairwise(bounds):
            self.keep(block, int(numbers[low]), data[low:high])
        self._tell()

    def zeros(self, block: str, addresses: Addresses) -> None:
        """Mark zero pages, of the stream or read in place."""
        numbers = (addresses // np.uint64(PAGE)).astype(np.int64)
        with self._changed:
            known = self._blocks[block]
            kept = numbers[known.state[numbers] == KEPT].tolist()
            differs = any(any(known.read(number, 1)) for number in kept)
            self.compared_pages += int((known.state[numbers] != UNKNOWN).sum())
            known.state[numbers[known.state[numbers] == UNKNOWN]] = IS_ZERO
            self._changed.notify_all()
        if differs:
            self.fail(f"{CHANGED}: a zero page of {block}")

    def tail(self) -> None:
        """The memory is complete."""

    # -- keeping and reading ------------------------------------------------------------------------------------------

    def keep(self, name: str, first: int, pages: Pages) -> None:
        """Keep consecutive pages; those that are there already are compared.

        :raises OSError: no room
        """
        with self._changed:
            block = self._blocks[name]
            state = block.state[first : first + len(pages)]
            known = state != UNKNOWN
            if not known.any():
                block.write(first, pages)
                state[:] = KEPT
                return
            old = np.frombuffer(block.read(first, len(pages)), np.uint8).reshape(-1, PAGE)
            same = bool((old[known] == pages[known]).all())
            self.compared_pages += int(known.sum())
            for offset in np.flatnonzero(~known).tolist():
                block.write(first + offset, pages[offset : offset + 1])
                state[offset] = KEPT
        if not same:
            self.fail(f"{CHANGED}: {name}, near page {first}")

    def complete(self, name: str, first: int, count: int) -> bool:
        """Whether all of these pages are there."""
        with self._changed:
            return bool(self._blocks[name].state[first : first + count].all())

    def read(self, name: str, first: int, count: int) -> bytes:
        """Consecutive pages that are all there."""
        with self._changed:
            return self._blocks[name].read(first, count)

    def await_pages(self, name: str, first: int, count: int) -> None:
        """Wait until all of these pages are there.

        :raises SourceGone: they will not come any more
        """
        with self._changed:
            while True:
                if self.failed_reason is not None:
                    raise SourceGone(f"the captured memory is not whole: {self.failed_reason}")
                if self._closed:
                    raise SourceGone("the freeze was released")
                if self._blocks[name].state[first : first + count].all():
                    return
                self._changed.wait(1.0)

    def progress(self) -> tuple[int, int]:
        """Pages that are there, and all pages."""
        with self._changed:
            there = sum(int(np.count_nonzero(b.state)) for b in self._blocks.values())
            return there, sum(len(b.state) for b in self._blocks.values())

    # -- within -------------------------------------------------------------------------------------------------------

    def _ensure(self, name: str, size: int) -> None:
        block = self._blocks.get(name)
        if block is None:
            self._blocks[name] = _Block(size, self._directory)

    def _check_blocks(self) -> None:
        if self._expected and self._streamed is not None and self._expected != self._streamed:
            self.fail(f"the stream has blocks {self._streamed}, the freeze found {self._expected}")

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
