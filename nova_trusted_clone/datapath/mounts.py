"""FUSE mounts of helper processes, found and taken off also when their process is dead.

Apart from ``fuse.py``, so that who cleans up after a killed store needs no FUSE library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

# What stands for a device in our mounts; others' are never touched.
SOURCE = "trusted-clone"
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_LIBC = ctypes.CDLL(None, use_errno=True)


class MountDaemon(Protocol):
    """Who mounts in the place of a process that may not (``privsep``)."""

    def mount(self, path: pathlib.Path) -> int:
        """Mount on a directory of this user's; the connection, which a store serves.

        :raises DatapathError: it was refused
        """

    def unmount(self, directory: pathlib.Path) -> None:
        """Take off everything of ours at or below a directory."""


_daemon: MountDaemon | None = None


def use(daemon: MountDaemon | None) -> None:
    """From now on have ``daemon`` mount and unmount; None: by this process's own right."""
    global _daemon
    _daemon = daemon


def connect(path: pathlib.Path) -> int | None:
    """Have a store's file system mounted; the connection for the store, None where the store mounts by itself.

    :raises DatapathError: it was refused
    """
    if _daemon is None:
        return None
    unmount(path)
    return _daemon.mount(path)


def mounts_below(directory: pathlib.Path) -> Sequence[pathlib.Path]:
    """Our FUSE mounts at or below a directory, the innermost first, dead ones too (proc(5), mountinfo)."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, source = after.split()[:2]
        if kind.startswith("fuse") and source == SOURCE:
            raw = before.split()[4].encode().decode("unicode_escape").encode("latin-1")
            found.append(pathlib.Path(os.fsdecode(raw)))
    return sorted((p for p in found if p.is_relative_to(directory)), reverse=True)


def unmount(directory: pathlib.Path) -> None:
    """Unmount every FUSE mount of ours at or below a directory, also when its process is gone or it is in use.

    :raises OSError: when the kernel refuses
    """
    if _daemon is not None:
        if mounts_below(directory.absolute()):
            _daemon.unmount(directory)
        return
    for path in mounts_below(directory.absolute()):
        if _LIBC.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
            number = ctypes.get_errno()
            if number != errno.EINVAL:
                raise OSError(number, os.strerror(number), str(path))
