"""In the daemon with CAP_SYS_ADMIN: a store's file system is mounted, and taken off.

A store serves its FUSE connection without any privilege (libfuse: a mount point of ``/dev/fd/N``). What needs one is the
mount(2) that connects it to a directory, since QEMU, another user, shall read it (``allow_other``, mount.fuse3(8)).
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import stat

from nova_trusted_clone.datapath import mounts
from nova_trusted_clone.datapath.errors import DatapathError
from nova_trusted_clone.privsep import descriptors, mounts_pctxt

# mount(2): nothing on it is run, opened as a device or given another user's rights.
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_LIBC = ctypes.CDLL(None, use_errno=True)


class MountRefused(DatapathError):
    """The directory is none of the asker's, or the kernel refused."""

    code = "trusted-clone.privilege.mount"


@mounts_pctxt.entrypoint
def mount(path: str, name: str, receiver: int) -> None:
    """Mount on a directory of the process ``receiver``'s user, and hand it the connection at ``name``.

    :raises MountRefused: with the reason; nothing is mounted then
    """
    user = pathlib.Path(f"/proc/{receiver}").stat().st_uid
    directory = _open_own(path, user)
    try:
        connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            _mount(directory, connection, user)
            try:
                descriptors.send(name, receiver, (connection,))
            except BaseException:
                mounts.unmount(pathlib.Path(path))
                raise
        finally:
            # The receiver has a copy. Without one this ends the connection.
            os.close(connection)
    finally:
        os.close(directory)


@mounts_pctxt.entrypoint
def unmount(directory: str) -> None:
    """Take off every file system of ours at or below a directory, also when its store is dead or it is in use.

    :raises OSError: the kernel refuses
    """
    mounts.unmount(pathlib.Path(directory))


def _open_own(path: str, user: int) -> int:
    """The directory itself: what happens to its name from now on changes nothing."""
    if not path.startswith("/"):
        raise MountRefused(f"path: {path!r} is not absolute")
    try:
        opened = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MountRefused(f"{path}: {error.strerror}") from error
    found = os.fstat(opened)
    if found.st_uid != user or stat.S_IMODE(found.st_mode) & 0o022:
        os.close(opened)
        raise MountRefused(
            f"{path}: expected a directory of user {user} that nobody else may write to"
        )
    return opened


def _mount(directory: int, connection: int, user: int) -> None:
    options = f"fd={connection},rootmode=40000,user_id={user},group_id=0,allow_other"
    target = f"/proc/self/fd/{directory}"
    flags = _NOSUID | _NODEV | _NOEXEC
    done = _LIBC.mount(
        mounts.SOURCE.encode(), target.encode(), b"fuse", ctypes.c_ulong(flags), options.encode()
    )
    if done != 0:
        raise MountRefused(f"mount: {os.strerror(ctypes.get_errno())}")
