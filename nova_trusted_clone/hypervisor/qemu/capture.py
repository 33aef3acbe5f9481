"""The frozen memory as it is taken: in place, from the source's QEMU, while it is write-protected.

Whoever writes to a page that was not taken yet waits. Its surroundings (``CHUNK_BYTES``, aligned, so that huge pages stay
whole) are copied, and given back to the guest before anything else is done with them. A ``sweep`` takes all the rest from
the beginning to the end; when it is through nothing is protected any more.

What is copied is of the frozen instant if the kernel still shows every page of it as protected **after** it was copied
(``/proc/PID/pagemap``, bit 57: Linux, Documentation/admin-guide/mm/pagemap.rst). If it does not, the freeze has failed.

Pages are kept in sparse files without a name, in the freeze's directory; zero pages as holes.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import pathlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import handover
from nova_trusted_clone.hypervisor.qemu.handover import PAGE, Handed
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock
from nova_trusted_clone.hypervisor.qemu.userfault import Protection

LOG = logging.getLogger(__name__)
CHUNK_BYTES = 2 << 20
CHANGED = "source.page.changed"
# From the hand-over to the guest's going on: the pause, and what is flushed before it.
FREEZE_LIMIT_S = 120.0
_LOOK_S = 0.1
# A copy each, until it is kept.
_FAULTS_AT_ONCE = 4
_PROTECTED = np.uint64(1 << 57)


class _State(enum.Enum):
    """Of a chunk. Only between the first two it may not be lifted by others."""

    PROTECTED = enum.auto()
    COPYING = enum.auto()
    COPIED = enum.auto()
    KEPT = enum.auto()


class _Block:
    """One block in chunks, and a file with its pages."""

    def __init__(self, block: RamBlock, directory: pathlib.Path) -> None:
        assert block.address is not None
        self.name, self.size_bytes = block.name, block.size_bytes
        self.start, self.end = block.address, block.address + block.maximum_bytes
        self._first = self.start // CHUNK_BYTES
        self.states = [_State.PROTECTED] * (-(-self.end // CHUNK_BYTES) - self._first)
        with tempfile.TemporaryFile(dir=directory, prefix="capture-") as file:
            self._file = os.dup(file.fileno())
        os.truncate(self._file, block.size_bytes)

    def range_of(self, chunk: int) -> tuple[int, int]:
        """First address of a chunk and the one after its last."""
        at = (self._first + chunk) * CHUNK_BYTES
        return max(at, self.start), min(at + CHUNK_BYTES, self.end)

    def chunk_at(self, address: int) -> int:
        """The chunk with an address."""
        return address // CHUNK_BYTES - self._first

    def chunks_of(self, offset: int, size: int) -> range:
        """The chunks of a part of the block."""
        return range(
            self.chunk_at(self.start + offset), self.chunk_at(self.start + offset + size - 1) + 1
        )

    def keep(self, start: int, data: bytes) -> None:
        """Write down what lay at ``start``; zero pages stay holes.

        :raises OSError: no room
        """
        pages = np.frombuffer(data, np.uint64).reshape(-1, PAGE // 8)
        used = pages.any(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], used, [False]))))
        view, offset = memoryview(data), start - self.start
        for low, high in edges.reshape(-1, 2).tolist():
            part, at = view[low * PAGE : high * PAGE], offset + low * PAGE
            while part:
                written = os.pwrite(self._file, part, at)
                part, at = part[written:], at + written

    def read(self, offset: int, size: int) -> bytes:
        """A part of the block that is all kept."""
        return os.pread(self._file, size, offset)

    def close(self) -> None:
        os.close(self._file)


class _Memory:
    """The guest's memory, by address, as long as its process is there."""

    def __init__(self, handed: Handed) -> None:
        descriptor, self._memory, self._pagemap = handed.descriptors
        self._idle = threading.Condition()
        self._users = 0
        self._closed = False
        self.protection = Protection(descriptor)
        if not handed.process.alive():
            self.close()
            raise HypervisorError(f"process {handed.process.pid} is not the one to be frozen")

    def copy(self, start: int, end: int) -> bytes:
        """What lies there, if all of it is as it was at the freeze.

        :raises HypervisorError: it is not, or the process has ended
        """
        try:
            with self._used():
                data = os.pread(self._memory, end - start, start)
                marks = os.pread(self._pagemap, (end - start) // PAGE * 8, start // PAGE * 8)
        except OSError as error:
            raise HypervisorError(f"the frozen server's memory: {error.strerror}") from error
        if len(data) != end - start or len(marks) != (end - start) // PAGE * 8:
            raise HypervisorError("the frozen server has ended")
        if not (np.frombuffer(marks, "<u8") & _PROTECTED).all():
            raise HypervisorError(f"{CHANGED}: a page near {start:#x} was not protected")
        return data

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        """The files stay open meanwhile: their numbers must not be another file's."""
        with self._idle:
            if self._closed:
                raise HypervisorError("the freeze was released")
            self._users += 1
        try:
            yield
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def close(self) -> None:
        self.protection.close()
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._users)
        os.close(self._memory)
        os.close(self._pagemap)


class Capture:
    """Takes one frozen server's memory, and answers for its pages. Several threads may ask at once.

    Begin with ``start`` before the freeze, and with ``sweep`` after it; ``close`` ends it at any time.

    :ivar failed_reason: why the freeze is of no use any more
    :ivar whole: all of it is there, and nothing is protected any more
    :ivar ended: nothing is protected any more, whatever came of it
    """

    def __init__(self, socket_path: pathlib.Path, directory: pathlib.Path) -> None:
        self.socket_path = socket_path
        self._directory = directory
        self._changed = threading.Condition()
        self._blocks: dict[str, _Block] = {}
        self._memory: _Memory | None = None
        self._listening: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.failed_reason: str | None = None
        self.whole = False
        self.ended = False
        self.faults = 0
        self.seconds = 0.0

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen for the freeze."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(self.socket_path))
        self.socket_path.chmod(0o600)
        listening.listen(1)
        self._listening = listening
        self._begin_thread(self._take_over, "capture")

    def sweep(self) -> None:
        """Take all that nobody has asked for yet; in the background."""
        self._begin_thread(self._sweep, "sweep")

    def close(self) -> None:
        """End it, and let the pages go; the guest has its memory."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            waiting = (self._listening, self._connection)
        for one in waiting:
            if one is not None:
                # Wakes the thread that waits there; it may have ended by itself.
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._let_go()
        for thread in self._threads:
            thread.join()
        if self._listening is not None:
            self._listening.close()
        self.socket_path.unlink(missing_ok=True)
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        for block in self._blocks.values():
            block.close()
        self._blocks.clear()

    def fail(self, reason: str) -> None:
        """The freeze is of no use; the guest has its memory back at once. The first reason counts."""
        with self._changed:
            if self.failed_reason is None and not self._closed:
                self.failed_reason = reason
                LOG.error("the captured memory is not whole: %s", reason)
        self._let_go()

    def _begin_thread(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _let_go(self) -> None:
        with self._changed:
            if self._memory is not None:
                self._give_back(self._memory.protection)
            # Not before: who looks at this looks for what is protected next.
            self.ended = True
            self._changed.notify_all()

    def _give_back(self, protection: Protection) -> None:
        """Closing would do it when no thread looks for faults any more; and older kernels would leave marks in page tables."""
        for block in self._blocks.values():
            with contextlib.suppress(OSError):  # the process has ended
                protection.lift(block.start, block.end - block.start)
                protection.unregister(block.start, block.end - block.start)
        protection.close()

    # -- the freeze ---------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        assert self._listening is not None
        try:
            connection, _ = self._listening.accept()
        except OSError:
            return  # closed before anybody came
        with connection:
            with self._changed:
                self._connection = connection
            try:
                handed = handover.take(connection)
                self._open(handed)
                self._begin_thread(self._serve_faults, "faults")
                handover.say_ready(connection)
                if handover.await_word(connection, handover.PROTECT, FREEZE_LIMIT_S):
                    self._protect()
                    handover.say_protected(connection)
            except (HypervisorError, OSError) as error:
                self.fail(f"the capture did not begin: {error}")
                return
            if not handover.await_word(connection, handover.FROZEN, FREEZE_LIMIT_S):
                self.fail("the service ended before the server was frozen")

    def _protect(self) -> None:
        assert self._memory is not None
        if self.ended:
            raise HypervisorError("it has ended already")
        for block in self._blocks.values():
            self._memory.protection.protect(block.start, block.end - block.start)

    def _open(self, handed: Handed) -> None:
        with self._changed:
            if self._closed:
                for descriptor in handed.descriptors:
                    os.close(descriptor)
                raise HypervisorError("it was ended")
            self._memory = _Memory(handed)
            for block in handed.blocks:
                self._blocks[block.name] = _Block(block, self._directory)

    # -- taking -------------------------------------------------------------------------------------------------------

    def _serve_faults(self) -> None:
        """Whoever waits goes on as soon as what he waits for was copied; it is kept afterwards."""
        memory = self._memory
        assert memory is not None
        while not self.ended:
            try:
                addresses = memory.protection.faults(_LOOK_S)
            except OSError as error:
                self.fail(f"who waits for a page cannot be told: {error}")
                return
            self.faults += len(addresses)
            wanted = list(dict.fromkeys(self._places(addresses)))
            for at in range(0, len(wanted), _FAULTS_AT_ONCE):
                batch = wanted[at : at + _FAULTS_AT_ONCE]
                copied = [(place, self._copy(*place)) for place in batch]
                for (block, chunk), data in copied:
                    self._keep(block, chunk, data)

    def _places(self, addresses: list[int]) -> Iterator[tuple[_Block, int]]:
        for address in addresses:
            for block in self._blocks.values():
                if block.start <= address < block.end:
                    yield block, block.chunk_at(address)

    def _sweep(self) -> None:
        began = time.monotonic()
        for block in list(self._blocks.values()):
            for chunk in range(len(block.states)):
                if self.ended:
                    return
                self._keep(block, chunk, self._copy(block, chunk))
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self._all_kept())
            self.whole = not self.ended
            self.seconds = time.monotonic() - began
        if self.whole:
            self._let_go()

    def _all_kept(self) -> bool:
        return all(state is _State.KEPT for b in self._blocks.values() for state in b.states)

    def _copy(self, block: _Block, chunk: int) -> bytes | None:
        """Copy a chunk and give it back to the guest; None when another thread has it, or when there is nothing to be had."""
        start, end = block.range_of(chunk)
        with self._changed:
            memory, state = self._memory, block.states[chunk]
            if memory is None or self.ended or state is _State.COPYING:
                return None
            if state is _State.PROTECTED:
                block.states[chunk] = _State.COPYING
        try:
            data = memory.copy(start, end) if state is _State.PROTECTED else None
            if data is not None:
                with self._changed:
                    block.states[chunk] = _State.COPIED
            memory.protection.lift(start, end - start)
        except (HypervisorError, OSError) as error:
            self.fail(str(error))
            return None
        return data

    def _keep(self, block: _Block, chunk: int, data: bytes | None) -> None:
        if data is None:
            return
        start, _end = block.range_of(chunk)
        try:
            block.keep(start, data[: max(0, block.start + block.size_bytes - start)])
        except OSError as error:
            self.fail(f"block {block.name}: {error}")
            return
        with self._changed:
            block.states[chunk] = _State.KEPT
            self._changed.notify_all()

    # -- asking -------------------------------------------------------------------------------------------------------

    def require_blocks(self, sizes: dict[str, int]) -> None:
        """Require that these blocks and no others are being captured.

        :raises HypervisorError: others are
        """
        found = {block.name: block.size_bytes for block in self._blocks.values()}
        if found != sizes:
            raise HypervisorError(f"captured are the blocks {found}, the freeze has {sizes}")

    def read(self, name: str, offset: int, size: int) -> bytes:
        """A part of a block as it was at the freeze.

        :raises SourceGone: it cannot be had any more
        """
        block = self._blocks.get(name)
        if block is None:
            raise SourceGone("the freeze was released")
        for chunk in block.chunks_of(offset, size):
            if not self._is_kept(block, chunk):
                self._keep(block, chunk, self._copy(block, chunk))
            self._await_kept(block, chunk)
        with self._changed:
            if self._closed:
                raise SourceGone("the freeze was released")
            return block.read(offset, size)

    @staticmethod
    def _is_kept(block: _Block, chunk: int) -> bool:
        return block.states[chunk] is _State.KEPT

    def _await_kept(self, block: _Block, chunk: int) -> None:
        with self._changed:
            while not self._is_kept(block, chunk):
                if self.failed_reason is not None:
                    raise SourceGone(f"the captured memory is not whole: {self.failed_reason}")
                if self._closed:
                    raise SourceGone("the freeze was released")
                self._changed.wait(1.0)

    def progress(self) -> tuple[int, int]:
        """Pages that are there, and all pages."""
        with self._changed:
            there = every = 0
            for block in self._blocks.values():
                every += block.size_bytes // PAGE
                for chunk, state in enumerate(block.states):
                    if state is _State.KEPT:
                        start, end = block.range_of(chunk)
                        there += max(0, min(end, block.start + block.size_bytes) - start) // PAGE
            return there, every


class RamSource:
    """A RAM block for the exporter."""

    def __init__(self, region: Region, capture: Capture) -> None:
        if region.size_bytes % PAGE:
            raise HypervisorError(
                f"block {region.name}: {region.size_bytes} bytes are no whole pages"
            )
        self.region = region
        self._capture = capture

    def read(self, index: int) -> bytes:
        """Return segment ``index`` of the frozen block.

        :raises SourceGone: there is no such segment, or it cannot be had any more
        """
        offset = index * SEGMENT_BYTES
        size = min(SEGMENT_BYTES, self.region.size_bytes - offset)
        if index < 0 or size <= 0:
            raise SourceGone(f"block {self.region.name} has no segment {index}")
        return self._capture.read(self.region.name, offset, size)
