"""Files that only their owner may read, written whole or not at all, by one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import secrets
from collections.abc import Iterator


def write(path: pathlib.Path, data: bytes, *, public: bool = False, new: bool = False) -> None:
    """Write ``data`` so that a crash leaves the former content or the new, never a part.

    :param public: mode 0644 instead of 0600
    :param new: raise ``FileExistsError`` when ``path`` exists, so that no key is lost
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = 0o644 if public else 0o600
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if new:
            os.link(scratch, path)  # unlike rename, never replaces
        else:
            scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def make_directory(path: pathlib.Path) -> None:
    """Make ``path`` with mode 0700, or check that it is one of ours that nobody else can read.

    :raises PermissionError: when it is another user's or open to others
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path}: expected a directory of the user {os.geteuid()} with mode 0700, "
            f"found user {found.st_uid}, mode {found.st_mode & 0o777:04o}"
        )


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, a file that is made when it is missing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
