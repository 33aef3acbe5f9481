"""Who looks into a guest's QEMU: this process by its own right, or a daemon that has the right in its place (``privsep``).

A right is the process's as a whole, so what is used instead is too: a service says it once, at its start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

# In the order in which a daemon hands them over.
FILES = ("mem", "pagemap", "smaps")


class GuestDaemon(Protocol):
    """What needs a right over a guest's process that its libvirt connection does not give.

    :ivar command: by which another process of this user starts one of its own
    """

    command: str

    def open_files(self, pid: int, start_time: int) -> Sequence[int]:
        """``FILES`` of /proc/PID, open for reading; they are the caller's to close.

        :raises HypervisorError: the process is gone or another one, or no guest's
        """

    def catch_userfaultfd(self, pid: int, start_time: int, limit_s: float) -> int:
        """``userfault.catch``; it is the caller's to close."""

    def collapse(
        self, pid: int, start_time: int, ranges: Sequence[tuple[int, int]], limit_s: float
    ) -> int:
        """``hugepages.collapse_ranges``."""


_daemon: GuestDaemon | None = None


def use(daemon: GuestDaemon | None) -> None:
    """From now on ask ``daemon``; None: by this process's own right."""
    global _daemon
    _daemon = daemon


def daemon() -> GuestDaemon | None:
    """Who is asked instead; None where this process has the right itself."""
    return _daemon


def open_file(pid: int, start_time: int, name: str) -> int:
    """One of ``FILES`` of a process, open for reading. The kernel asks for the right now and never again (proc(5)).

    :raises OSError: the process is gone, or this process may not
    :raises HypervisorError: the daemon says so
    """
    if _daemon is None:
        return os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    wanted = -1
    for found, descriptor in zip(FILES, _daemon.open_files(pid, start_time), strict=True):
        if found == name:
            wanted = descriptor
        else:
            os.close(descriptor)
    return wanted
