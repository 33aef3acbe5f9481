"""Make a guest's memory huge pages before it is frozen.

Write protection goes by entries of the page table: 0.1 ms a GiB in huge pages, 15 to 30 in small ones, and that is in the
pause. The kernel's own daemon makes huge pages at a few MiB a second at most. So ranges of small pages are collapsed by
``MADV_COLLAPSE`` (Linux 6.1, madvise(2)), from outside, while the guest runs: 0.1 s a GiB. A freeze itself splits none
(``capture``).

Only ranges in which every page is the guest's own are collapsed. Others would take memory that the guest never touched, gave
back (balloon) or shares with its like (KSM). An older kernel, or a caller without CAP_SYS_NICE and CAP_SYS_PTRACE, leaves
everything as it is: slower, not wrong.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock

LOG = logging.getLogger(__name__)
PAGE = 4096
HUGE = 2 << 20
_PAGES_PER_HUGE = HUGE // PAGE
_MADV_COLLAPSE = 25
_PROCESS_MADVISE = 440  # the same number on every architecture
# pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst): bit 63 present, 61 of a file or shared, 56 mapped here alone,
# which the zero page and merged pages are not.
_MARKS = np.uint64(1 << 63 | 1 << 61 | 1 << 56)
_OWN = np.uint64(1 << 63 | 1 << 56)
# The kernel's call does not heed this switch; the operator's word counts all the same.
_SWITCH = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
# None of the others could be collapsed, either: no such call, no right, no such process.
_HOPELESS = (errno.ENOSYS, errno.EPERM, errno.ESRCH)
_libc = ctypes.CDLL(None, use_errno=True)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def collapse(process: ProcessId, blocks: Iterable[RamBlock], limit_s: float) -> int:
    """Collapse what is worth it within ``limit_s`` seconds; return how many huge pages there are then.

    Never raises for what the kernel or the process is like. What is a huge page already costs a system call and is left
    as it is.
    """
    ranges = [(b.address, b.maximum_bytes) for b in blocks if b.address is not None]
    if (daemon := access.daemon()) is None:
        return collapse_ranges(process, ranges, limit_s)
    try:
        return daemon.collapse(process.pid, process.start_time, ranges, limit_s)
    except HypervisorError as error:
        LOG.info("memory of process %d stays in small pages: %s", process.pid, error)
        return 0


def collapse_ranges(process: ProcessId, ranges: Sequence[tuple[int, int]], limit_s: float) -> int:
    """The same for ranges (address, bytes), by this process's own right."""
    deadline, made = time.monotonic() + limit_s, 0
    try:
        if "[never]" in _SWITCH.read_text():
            return 0
        descriptor = os.pidfd_open(process.pid)
        try:
            if not process.alive():
                return 0
            for address in _worth_it(process, ranges):
                if time.monotonic() >= deadline:
                    LOG.info("process %d: the rest of its memory stays as it is", process.pid)
                    break
                made += _collapse_one(descriptor, address)
        finally:
            os.close(descriptor)
    except OSError as error:
        LOG.info("memory of process %d stays in small pages: %s", process.pid, error)
    return made


def _collapse_one(descriptor: int, address: int) -> int:
    """How many huge pages came of it.

    :raises OSError: no other could be collapsed, either
    """
    vector = _IoVec(address, HUGE)
    done = _libc.syscall(
        _PROCESS_MADVISE, descriptor, ctypes.byref(vector), ctypes.c_size_t(1), _MADV_COLLAPSE, 0
    )
    if done == HUGE:
        return 1
    if (number := ctypes.get_errno()) in _HOPELESS:
        raise OSError(number, os.strerror(number))
    # No huge page is free, a page is in use just now, or it is protected: the next one may be luckier.
    return 0


def _worth_it(process: ProcessId, ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Addresses of ranges in which every page is the process's own.

    :raises OSError: the process may not be looked into, or is gone
    """
    with open(f"/proc/{process.pid}/pagemap", "rb", buffering=0) as pagemap:
        for start, size_bytes in ranges:
            first = -(-start // HUGE) * HUGE
            for address in range(first, start + size_bytes - HUGE + 1, HUGE):
                marks = np.frombuffer(
                    os.pread(pagemap.fileno(), _PAGES_PER_HUGE * 8, address // PAGE * 8), "<u8"
                )
                if len(marks) == _PAGES_PER_HUGE and ((marks & _MARKS) == _OWN).all():
                    yield address
