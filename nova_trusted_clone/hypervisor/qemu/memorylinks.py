"""How a clone's QEMU comes to map the store's files as its memory.

libvirt lets QEMU open ``<memory_backing_dir>/libvirt/qemu/<id>-<name>/<block>``; the id is known only once the domain runs. So
links to the store's directory are laid for the ids that may come, and those that did not come are removed afterwards. Had the
guess been wrong QEMU would have made an empty file of its own: it then fails to load, or ``mapped`` finds that out before the
guest runs one instruction.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

from nova_trusted_clone.hypervisor.base import HypervisorError, RestoreFailed
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, mappings

# libvirt: VIR_DOMAIN_SHORT_NAME_MAX.
_SHORT_NAME = 20
# Domains that started and ended, or start meanwhile, after the newest one that runs; links take some microseconds each.
GUESSES = 256


def directory_of(memory_backing_dir: pathlib.Path) -> pathlib.Path:
    """Where libvirt has domains' memory; it gives the directory to QEMU's user whenever it starts."""
    return memory_backing_dir / "libvirt" / "qemu"


class MemoryLinks:
    """The links of one restore."""

    def __init__(self, memory_backing_dir: pathlib.Path, name: str) -> None:
        self._directory = directory_of(memory_backing_dir)
        self._name = name[:_SHORT_NAME]

    def path(self, domain_id: int) -> pathlib.Path:
        """Where libvirt looks for the memory of a domain."""
        return self._directory / f"{domain_id}-{self._name}"

    def lay(self, first_id: int, store: pathlib.Path) -> None:
        """Link every id from ``first_id`` on that may come."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for domain_id in range(first_id, first_id + GUESSES):
            self.path(domain_id).unlink(missing_ok=True)
            self.path(domain_id).symlink_to(store)

    def clear(self, keep: int | None = None) -> None:
        """Remove all links of this name but the one in use."""
        if not self._directory.is_dir():
            return
        for entry in self._directory.iterdir():
            number, _, name = entry.name.partition("-")
            mine = name == self._name and number.isdigit() and entry.is_symlink()
            if mine and int(number) != keep:
                entry.unlink(missing_ok=True)


def require_files(memory: Mapping[str, pathlib.Path], sizes: Mapping[str, int]) -> pathlib.Path:
    """Check that the store serves every block, and return the directory that holds them.

    :raises RestoreFailed: a file is missing or has another size, which is what an unmounted store looks like
    """
    directories = {path.parent for path in memory.values()}
    if len(directories) != 1:
        raise RestoreFailed(f"memory is served from {len(directories)} directories, expected 1")
    for block, path in memory.items():
        try:
            size = path.stat().st_size
        except OSError as error:
            raise RestoreFailed(f"block {block}: {path}: {error}; is the store mounted?") from error
        if path.name != block or size != sizes.get(block):
            raise RestoreFailed(
                f"block {block}: {path} has {size} bytes, expected {sizes.get(block)}"
            )
    return directories.pop()


def mapped(process: ProcessId, memory: Mapping[str, pathlib.Path]) -> bool:
    """Whether QEMU's memory really is the store's files.

    :raises HypervisorError: the process is gone
    """
    found = set()
    for mapping in mappings(process.pid):
        major, _, minor = mapping.device.partition(":")
        found.add((os.makedev(int(major, 16), int(minor, 16)), mapping.inode, mapping.size))
    if not found:
        raise HypervisorError(f"process {process.pid} has no memory")
    for path in memory.values():
        there = path.stat()
        if (there.st_dev, there.st_ino, there.st_size) not in found:
            return False
    return True
