"""A write protection of a guest's memory, put on and taken off from outside QEMU.

The kernel protects a process's memory through a userfaultfd that this process itself has opened (userfaultfd(2),
ioctl_userfaultfd(2)). QEMU opens one for a moment each time that it looks whether it could do background snapshots: whoever
may trace it takes a copy of that descriptor in this moment (pidfd_getfd(2)), and holds it alone as soon as QEMU has closed
its own. So QEMU knows nothing of the protection; and it is off at once, and who waited at a write goes on, when the last who
holds the descriptor closes it or is killed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import select
import struct
import threading
import time

from nova_trusted_clone.hypervisor.base import HypervisorError, MonitorError
from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor, set_capability
from nova_trusted_clone.hypervisor.qemu.process import ProcessId

SNAPSHOT = "background-snapshot"
# A try is some hundred microseconds of QEMU's; tens of tries fail on a machine that is busy.
BORROW_LIMIT_S = 20.0
_LINK = "anon_inode:[userfaultfd]"
# The same number on every architecture (asm-generic/unistd.h).
_SYS_PIDFD_GETFD = 438
# QEMU opens it with the lowest number that is free; others of its threads open files too.
_CANDIDATES = 4
_TRIES_BETWEEN_LOOKS = 2000
_SETTLE_S = 0.5
# linux/userfaultfd.h
_API, _API_VERSION = 0xC018AA3F, 0xAA
_REGISTER, _REGISTER_WRITE_PROTECT = 0xC020AA00, 2
_UNREGISTER = 0x8010AA01
_WRITE_PROTECT, _ON, _OFF = 0xC018AA06, 1, 0
_MESSAGE_BYTES = 32
_PAGE_FAULT = 0x12
_MESSAGES_AT_ONCE = 16


class Protection:
    """Protects ranges of one process's memory. Several threads may use it; after ``close`` nothing is protected.

    :ivar descriptor: a userfaultfd of that process's, this object's own
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()
        self._closed = False
        os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError):  # QEMU has mostly done it
            fcntl.ioctl(descriptor, _API, struct.pack("QQQ", _API_VERSION, 0, 0))

    def register(self, start: int, size: int) -> None:
        """Be told of writes to a range once it is protected.

        :raises OSError: the memory is not of a kind that can be protected
        """
        self._control(_REGISTER, struct.pack("QQQQ", start, size, _REGISTER_WRITE_PROTECT, 0))

    def protect(self, start: int, size: int) -> None:
        """Have whoever writes there wait from now on."""
        self._control(_WRITE_PROTECT, struct.pack("QQQ", start, size, _ON))

    def lift(self, start: int, size: int) -> None:
        """Let everybody write there again, and wake who waited."""
        self._control(_WRITE_PROTECT, struct.pack("QQQ", start, size, _OFF))

    def unregister(self, start: int, size: int) -> None:
        """Be told of nothing there any more; who waited goes on."""
        self._control(_UNREGISTER, struct.pack("QQ", start, size))

    def _control(self, request: int, argument: bytes) -> None:
        with self._lock:
            if self._closed:
                return
            # The address space is changing just now (fork, mremap): it is asked for again.
            for _ in range(1000):
                try:
                    fcntl.ioctl(self.descriptor, request, argument)
                    return
                except OSError as error:
                    if error.errno != errno.EAGAIN:
                        raise
            raise OSError(errno.EAGAIN, "the process's address space changes all the time")

    def faults(self, limit_s: float) -> list[int]:
        """Addresses at which somebody waits; none when nobody has come within ``limit_s``, or it is closed."""
        looking = select.poll()
        looking.register(self.descriptor, select.POLLIN)
        if not looking.poll(limit_s * 1e3):
            return []
        with self._lock:
            # The number may be another file's by now.
            if self._closed:
                return []
            try:
                raw = os.read(self.descriptor, _MESSAGE_BYTES * _MESSAGES_AT_ONCE)
            except BlockingIOError:
                return []
        messages = (raw[at : at + _MESSAGE_BYTES] for at in range(0, len(raw), _MESSAGE_BYTES))
        return [struct.unpack_from("Q", one, 16)[0] for one in messages if one[0] == _PAGE_FAULT]

    def close(self) -> None:
        """Take all of it off; who waited goes on. Harmless when repeated."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.descriptor)


def borrow(monitor: Monitor, process: ProcessId) -> Protection:
    """A protection of QEMU's memory; nothing is protected yet.

    :raises HypervisorError: this process may not, or QEMU cannot protect its memory: it says why
    """
    with concurrent.futures.ThreadPoolExecutor(1, "borrow") as pool:
        caught = pool.submit(_catch, process)
        try:
            while not caught.done():
                set_capability(monitor, SNAPSHOT, True)
                set_capability(monitor, SNAPSHOT, False)
        except MonitorError:
            # QEMU had registered its memory with what was caught, and may not do so once more.
            concurrent.futures.wait([caught], _SETTLE_S)
            if not caught.done():
                raise
        return Protection(caught.result())


def _catch(process: ProcessId) -> int:
    daemon = access.daemon()
    if daemon is None:
        return catch(process, BORROW_LIMIT_S)
    return daemon.catch_userfaultfd(process.pid, process.start_time, BORROW_LIMIT_S)


def catch(process: ProcessId, limit_s: float) -> int:
    """A copy of a userfaultfd that the process opens within ``limit_s``.

    :raises HypervisorError: it opened none that was seen, is gone, or may not be looked into
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        raise HypervisorError(f"process {process.pid}: {error.strerror}") from error
    try:
        if not process.alive():
            raise HypervisorError(f"process {process.pid} is gone")
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            found = _try_often(pidfd, _free_numbers(process.pid))
            if found is not None:
                return found
    except OSError as error:
        raise HypervisorError(
            f"process {process.pid}: its userfaultfd: {error.strerror}"
        ) from error
    finally:
        os.close(pidfd)
    raise HypervisorError(
        f"process {process.pid}: no userfaultfd of it was seen within {limit_s:.0f} s; try again"
    )


def _free_numbers(pid: int) -> tuple[int, ...]:
    taken = {int(link.name) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
    free = (number for number in range(len(taken) + _CANDIDATES) if number not in taken)
    return tuple(next(free) for _ in range(_CANDIDATES))


def _try_often(pidfd: int, numbers: tuple[int, ...]) -> int | None:
    getfd = ctypes.CDLL(None, use_errno=True).syscall
    for _ in range(_TRIES_BETWEEN_LOOKS):
        for number in numbers:
            found = int(getfd(_SYS_PIDFD_GETFD, pidfd, number, 0))
            if found < 0:
                code = ctypes.get_errno()
                if code != errno.EBADF:
                    raise OSError(code, os.strerror(code))
            elif str(pathlib.Path(f"/proc/self/fd/{found}").readlink()) == _LINK:
                return found
            else:
                os.close(found)
    return None
