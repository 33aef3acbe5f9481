"""The frozen memory as it is taken: in place, from the source's QEMU, while it is write-protected.

Whoever writes to a page that was not taken yet waits. Its surroundings (``CHUNK_BYTES``, aligned, so that huge pages stay
whole) are copied, and given back to the guest before anything else is done with them. A ``sweep`` takes all the rest from
the beginning to the end; when it is through nothing is protected any more.

What it works on, and how it knows that a copy is of the frozen instant: ``frozen``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import handover
from nova_trusted_clone.hypervisor.qemu.frozen import Block, Memory, State
from nova_trusted_clone.hypervisor.qemu.handover import PAGE, Handed
from nova_trusted_clone.hypervisor.qemu.userfault import Protection

LOG = logging.getLogger(__name__)
# From the hand-over to the guest's going on: the pause, and what is flushed before it.
FREEZE_LIMIT_S = 120.0
_LOOK_S = 0.1
# A copy each, until it is kept.
_FAULTS_AT_ONCE = 4


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
        self._blocks: dict[str, Block] = {}
        self._memory: Memory | None = None
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
            self._memory = Memory(handed)
            for block in handed.blocks:
                self._blocks[block.name] = Block(block, self._directory)

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

    def _places(self, addresses: list[int]) -> Iterator[tuple[Block, int]]:
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
        return all(state is State.KEPT for b in self._blocks.values() for state in b.states)

    def _copy(self, block: Block, chunk: int) -> bytes | None:
        """Copy a chunk and give it back to the guest; None when another thread has it, or when there is nothing to be had."""
        start, end = block.range_of(chunk)
        with self._changed:
            memory, state = self._memory, block.states[chunk]
            if memory is None or self.ended or state is State.COPYING:
                return None
            if state is State.PROTECTED:
                block.states[chunk] = State.COPYING
        try:
            data = memory.copy(start, end) if state is State.PROTECTED else None
            if data is not None:
                with self._changed:
                    block.states[chunk] = State.COPIED
            memory.protection.lift(start, end - start)
        except (HypervisorError, OSError) as error:
            self.fail(str(error))
            return None
        return data

    def _keep(self, block: Block, chunk: int, data: bytes | None) -> None:
        if data is None:
            return
        start, _end = block.range_of(chunk)
        try:
            block.keep(start, data[: max(0, block.start + block.size_bytes - start)])
        except OSError as error:
            self.fail(f"block {block.name}: {error}")
            return
        with self._changed:
            block.states[chunk] = State.KEPT
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
    def _is_kept(block: Block, chunk: int) -> bool:
        return block.states[chunk] is State.KEPT

    def _await_kept(self, block: Block, chunk: int) -> None:
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
                    if state is State.KEPT:
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
