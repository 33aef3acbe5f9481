"""The names that the store's mount shows, without any FUSE in it.

    /disks/<target>               each disk of the freeze
    /ram/<clone>/<block>          the RAM blocks, once for each clone's directory

A clone's directory is made by the control channel or by mkdir (libvirt makes it). libvirt and QEMU also chown, unlink and
create the block files: that changes names, never bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from nova_trusted_clone.core.integrity.manifest import Region, RegionTable

ROOT_INODE = 1


@dataclasses.dataclass
class Node:
    """A directory, or a region's file.

    :ivar region: None for a directory
    """

    inode: int
    parent: int
    region: Region | None = None
    children: dict[str, int] = dataclasses.field(default_factory=dict)
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


class Tree:
    """Names. Only the mount's own thread may use it."""

    def __init__(self, table: Callable[[], RegionTable]) -> None:
        """Make a tree over a table that may still be empty."""
        self._table = table
        self._nodes: dict[int, Node] = {}
        self._last = ROOT_INODE
        self._nodes[ROOT_INODE] = Node(ROOT_INODE, ROOT_INODE)
        self.disks = self._add(ROOT_INODE, "disks", None)
        self.ram = self._add(ROOT_INODE, "ram", None)

    def _add(self, parent: int, name: str, region: Region | None) -> Node:
        self._last += 1
        mode = 0o755 if region is None else 0o666 if region.kind == "ram" else 0o444
        node = Node(self._last, parent, region, mode=mode)
        self._nodes[node.inode] = node
        self._nodes[parent].children[name] = node.inode
        return node

    def __getitem__(self, inode: int) -> Node:
        """The node; KeyError when there is none."""
        return self._nodes[inode]

    def find(self, parent: int, name: str) -> Node | None:
        """A directory's entry."""
        directory = self._nodes[parent]
        if directory is self.disks and name not in directory.children:
            self._show_disks()
        inode = directory.children.get(name)
        return self._nodes[inode] if inode is not None else None

    def entries(self, inode: int) -> list[tuple[str, Node]]:
        """All entries of a directory."""
        directory = self._nodes[inode]
        if directory is self.disks:
            self._show_disks()
        return [(name, self._nodes[child]) for name, child in directory.children.items()]

    def _show_disks(self) -> None:
        for region in self._table().values():
            if region.kind == "disk" and region.name not in self.disks.children:
                self._add(self.disks.inode, region.name, region)

    def add_clone(self, name: str) -> Node:
        """Make a clone's directory with every RAM block that can be a file; the one that is there, if it is."""
        known = self.find(self.ram.inode, name)
        node = known or self._add(self.ram.inode, name, None)
        for region in self._table().values():
            # Blocks like "/rom@etc/acpi/tables" never are files of their own.
            if region.kind == "ram" and "/" not in region.name:
                self.restore_block(node, region.name)
        return node

    def restore_block(self, directory: Node, name: str) -> Node | None:
        """A block's file, also after an unlink; None when there is no such block."""
        if directory.parent != self.ram.inode:
            return None
        if name in directory.children:
            return self._nodes[directory.children[name]]
        region = self._table().named("ram", name)
        return self._add(directory.inode, name, region) if region is not None else None

    def remove(self, parent: int, name: str) -> bool:
        """Take a clone's directory or block away by name; its inode stays for who has it open."""
        directory = self._nodes[parent]
        if directory is not self.ram and directory.parent != self.ram.inode:
            return False
        return directory.children.pop(name, None) is not None
