"""A clone's own image files: made over the store's, and freed of it in the end."""

from __future__ import annotations

import json
import pathlib
import subprocess

from nova_trusted_clone.hypervisor.base import HypervisorError, RestoreFailed


def create_overlay(path: pathlib.Path, backing: pathlib.Path) -> None:
    """An empty image that shows ``backing`` where nothing was written.

    :raises RestoreFailed: qemu-img's words
    """
    _run(RestoreFailed, path, "create", "-f", "qcow2", "-F", "raw", "-b", str(backing), str(path))


def copy_whole(path: pathlib.Path, source: pathlib.Path) -> None:
    """An image with all of ``source``, for a medium that nobody writes to: it is small, and needs no store.

    :raises RestoreFailed: qemu-img's words
    """
    _run(RestoreFailed, path, "convert", "-f", "raw", "-O", "qcow2", str(source), str(path))


def detach(path: pathlib.Path) -> None:
    """Copy what an image still has in the store alone; QEMU's own lock refuses one that is in use.

    :raises HypervisorError: when it cannot be done now
    """
    told = _run(HypervisorError, path, "info", "--output=json", str(path), quiet=False)
    if json.loads(told).get("backing-filename"):
        _run(HypervisorError, path, "rebase", "-f", "qcow2", "-F", "raw", "-b", "", str(path))


def _run(
    failure: type[HypervisorError],
    path: pathlib.Path,
    operation: str,
    *arguments: str,
    quiet: bool = True,
) -> str:
    command = ["qemu-img", operation, *(["-q"] if quiet else []), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise failure(f"{path}: {done.stderr.strip()}")
    return done.stdout
