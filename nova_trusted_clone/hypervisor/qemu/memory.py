"""Frozen memory read in place, from the source's QEMU while its write protection still holds.

A background snapshot write-protects every page and lifts that only after the page has left. So a page that is still
protected **after** it was read is unchanged since the freeze. The kernel shows the protection in ``/proc/PID/pagemap``
(bit 57: Linux, Documentation/admin-guide/mm/pagemap.rst). Pages that are not protected any more come from the drain, which
also brings every other page and compares (``drain``).
"""

from __future__ import annotations

import os
import threading

import numpy as np
import numpy.typing as npt

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.drain import DrainedCapture
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, opened
from nova_trusted_clone.hypervisor.qemu.stream import PAGE

_WRITE_PROTECTED = np.uint64(1 << 57)
_PAGES_PER_SEGMENT = SEGMENT_BYTES // PAGE

Accepted = npt.NDArray[np.bool_]


def open_memory(process: ProcessId) -> tuple[int, int]:
    """/proc/PID/mem and pagemap of a process, for who cannot open them.

    :raises HypervisorError: the process is gone, or may not be looked into
    """
    with opened(process, "mem") as memory, opened(process, "pagemap") as pagemap:
        return os.dup(memory), os.dup(pagemap)


class DirectMemory:
    """A QEMU process's memory, by address.

    :raises HypervisorError: the process is gone, or may not be looked into (CAP_SYS_PTRACE)
    """

    def __init__(self, process: ProcessId, descriptors: tuple[int, int] | None = None) -> None:
        """:param descriptors: ``open_memory`` of another process's; they are this object's from now on"""
        self._process = process
        if descriptors is None:
            descriptors = open_memory(process)
        self._memory, self._pagemap = descriptors
        # The files are open on one process for good; now its identity can be checked without a race.
        if not process.alive():
            self.close()
            raise HypervisorError(f"process {process.pid} is not the one that was frozen")

    def close(self) -> None:
        """Let it go."""
        os.close(self._memory)
        os.close(self._pagemap)

    def read(self, address: int, pages: int, protected: bool) -> tuple[bytes, Accepted]:
        """Pages as they are now, and which of them are known to be as they were at the freeze.

        :param protected: whether these pages are write-protected one by one; what nobody can write needs no proof
        """
        try:
            data = os.pread(self._memory, pages * PAGE, address)
            marks = os.pread(self._pagemap, pages * 8, address // PAGE * 8)
        except OSError:
            # Unmapped or gone: the drain says what became of it.
            return b"", np.zeros(pages, np.bool_)
        if len(data) != pages * PAGE or len(marks) != pages * 8:
            return b"", np.zeros(pages, np.bool_)
        if not protected:
            return data, np.ones(pages, np.bool_)
        return data, (np.frombuffer(marks, "<u8") & _WRITE_PROTECTED) != 0


class RamSource:
    """A RAM block for the exporter: from the capture where a page is there, in place where it is not there yet."""

    def __init__(
        self,
        region: Region,
        capture: DrainedCapture,
        direct: DirectMemory | None = None,
        address: int | None = None,
        protected: bool = True,
    ) -> None:
        if region.size_bytes % PAGE:
            raise HypervisorError(
                f"block {region.name}: {region.size_bytes} bytes are no whole pages"
            )
        self.region = region
        self._capture = capture
        self._direct = direct if address is not None else None
        self._address = address or 0
        self._protected = protected
        self._lock = threading.Lock()
        self.read_in_place = 0

    def read(self, index: int) -> bytes:
        """Return segment ``index`` of the frozen block; waits for the drain where that is needed.

        :raises SourceGone: it cannot be had any more
        """
        first = index * _PAGES_PER_SEGMENT
        count = min(_PAGES_PER_SEGMENT, self.region.size_bytes // PAGE - first)
        if index < 0 or count <= 0:
            raise SourceGone(f"block {self.region.name} has no segment {index}")
        name = self.region.name
        if self._direct is not None and not self._capture.complete(name, first, count):
            self._take_in_place(self._direct, first, count)
        self._capture.await_pages(name, first, count)
        return self._capture.read(name, first, count)

    def _take_in_place(self, direct: DirectMemory, first: int, count: int) -> None:
        data, accepted = direct.read(self._address + first * PAGE, count, self._protected)
        if not accepted.any():
            return
        pages = np.frombuffer(data, np.uint8).reshape(-1, PAGE)
        zero = accepted & ~np.frombuffer(data, "<u8").reshape(-1, PAGE // 8).any(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], accepted & ~zero, [False]))))
        try:
            if zero.any():
                numbers = np.flatnonzero(zero) + first
                self._capture.zeros(self.region.name, numbers.astype(np.uint64) * np.uint64(PAGE))
            for low, high in edges.reshape(-1, 2).tolist():
                self._capture.keep(self.region.name, first + low, pages[low:high])
        except OSError as error:
            self._capture.fail(f"block {self.region.name}: {error}")
            return
        with self._lock:
            self.read_in_place += int(accepted.sum())
