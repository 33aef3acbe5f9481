"""Lift a write protection that QEMU left on its own memory.

When a background snapshot ends badly (its reader went away, or it was cancelled) QEMU 7.2 ends the thread that answers
write faults and leaves the memory protected: the guest then stands still at its next write, for good, and the next freeze
is refused as "not compatible with guest memory configuration". The descriptor that holds the protection is still open
in QEMU; the kernel lets a process with CAP_SYS_PTRACE borrow it (pidfd_getfd(2)) and lift the protection from outside
(ioctl_userfaultfd(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import pathlib
import struct
import threading
from collections.abc import Iterator

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, mappings

LOG = logging.getLogger(__name__)
# linux/userfaultfd.h: _IOWR(0xAA, 6, {start, length, mode}) and _IOR(0xAA, 1, {start, length}).
_UFFDIO_WRITEPROTECT = 0xC018AA06
_UFFDIO_UNREGISTER = 0x8010AA01
# The same number on every architecture (asm-generic/unistd.h).
_SYS_PIDFD_GETFD = 438
_LIFT_EVERY_S = 0.05
_LINK = "anon_inode:[userfaultfd]"


def lift_protection(process: ProcessId) -> int:
    """Lift whatever there is, and say how many ranges there were. A snapshot that still runs fails by this, and is meant to:
    what it would save from then on is not of the frozen instant.

    :raises HypervisorError: something stays protected
    """
    if (daemon := access.daemon()) is not None:
        return daemon.lift_protection(process.pid, process.start_time)
    ranges = _protected(process)
    if not ranges:
        return 0
    LOG.warning("process %d: QEMU left %d ranges protected", process.pid, len(ranges))
    pidfd = os.pidfd_open(process.pid)
    try:
        if not process.alive():
            return 0
        for number in _userfaultfds(process.pid):
            _lift_through(pidfd, number, ranges)
    except OSError as error:
        raise HypervisorError(
            f"process {process.pid}: its memory stays protected: {error}"
        ) from error
    finally:
        os.close(pidfd)
    if left := _protected(process):
        raise HypervisorError(
            f"process {process.pid}: {len(left)} ranges of its memory stay protected"
        )
    return len(ranges)


@contextlib.contextmanager
def kept_lifted(process: ProcessId) -> Iterator[None]:
    """Lift the protection again and again while something is asked of QEMU that may wait for it.

    Once is not enough: a snapshot that is just beginning arms the memory after one has looked.

    :raises HypervisorError: something stays protected at the end
    """
    ended = threading.Event()

    def lift() -> None:
        while not ended.wait(_LIFT_EVERY_S):
            try:
                lift_protection(process)
            except HypervisorError as error:
                LOG.info("armed again meanwhile: %s", error)

    lifting = threading.Thread(target=lift, name="rescue", daemon=True)
    lifting.start()
    try:
        yield
    finally:
        ended.set()
        lifting.join()
        lift_protection(process)


def _protected(process: ProcessId) -> list[tuple[int, int]]:
    return [(m.start, m.size) for m in mappings(process.pid) if "uw" in m.flags]


def _userfaultfds(pid: int) -> list[int]:
    links = pathlib.Path(f"/proc/{pid}/fd").iterdir()
    return [int(link.name) for link in links if str(link.readlink()) == _LINK]


def _lift_through(pidfd: int, number: int, ranges: list[tuple[int, int]]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    borrowed = libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if borrowed < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"pidfd_getfd: {os.strerror(code)}")
    try:
        for start, size in ranges:
            try:
                # Without a mode bit: lift, and wake who waits.
                fcntl.ioctl(borrowed, _UFFDIO_WRITEPROTECT, struct.pack("QQQ", start, size, 0))
                fcntl.ioctl(borrowed, _UFFDIO_UNREGISTER, struct.pack("QQ", start, size))
            except OSError as error:
                # Another descriptor's range: one that QEMU forgot to close when an earlier snapshot failed. The
                # caller looks whether all is lifted in the end.
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
    finally:
        os.close(borrowed)
