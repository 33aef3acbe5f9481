"""What a capture works on: the guest's memory, read where it lies, and blocks of it in chunks with files for their pages.

What is copied is of the frozen instant if the kernel still shows every page of it as protected **after** it was copied
(``/proc/PID/pagemap``, bit 57: Linux, Documentation/admin-guide/mm/pagemap.rst). If it does not, the freeze has failed.

Pages are kept in sparse files without a name, in the freeze's directory; zero pages as holes.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator

import numpy as np

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.handover import PAGE, Handed
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock
from nova_trusted_clone.hypervisor.qemu.userfault import Protection

CHUNK_BYTES = 2 << 20
CHANGED = "source.page.changed"
_PROTECTED = np.uint64(1 << 57)


class State(enum.Enum):
    """Of a chunk. Only between the first two it may not be lifted by others."""

    PROTECTED = enum.auto()
    COPYING = enum.auto()
    COPIED = enum.auto()
    KEPT = enum.auto()


class Block:
    """One block in chunks, and a file with its pages.

    :ivar states: of each chunk; whoever changes one holds the capture's lock
    """

    def __init__(self, block: RamBlock, directory: pathlib.Path) -> None:
        assert block.address is not None
        self.name, self.size_bytes = block.name, block.size_bytes
        self.start, self.end = block.address, block.address + block.maximum_bytes
        self._first = self.start // CHUNK_BYTES
        self.states = [State.PROTECTED] * (-(-self.end // CHUNK_BYTES) - self._first)
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
        """Let the pages go."""
        os.close(self._file)


class Memory:
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
        """Nothing is protected any more; waits for who reads."""
        self.protection.close()
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._users)
        os.close(self._memory)
        os.close(self._pagemap)
