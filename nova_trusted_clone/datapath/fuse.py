"""The store's mount: verified pages as files that QEMU maps and opens.

Read-only. A read waits until the pages are verified; where they never will be it fails with EIO, which ends the guest that
touched them: no byte goes to a guest unproved. The kernel keeps what was read (the bytes never change), so that clones of
one freeze share it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import stat
import threading

import pyfuse3
import trio

from nova_trusted_clone.datapath.errors import DatapathError
from nova_trusted_clone.datapath.mounts import SOURCE, unmount
from nova_trusted_clone.datapath.store import Store
from nova_trusted_clone.datapath.tree import Node, Tree

LOG = logging.getLogger(__name__)
# The bytes and sizes of a freeze never change; names under /ram do, and the kernel then hears of it by the same mount.
ATTRIBUTE_S = 3600.0
# Reads that wait for the network hold a task each; names must be answered meanwhile.
MAX_TASKS = 512


class MountError(DatapathError):
    """The mount could not be made."""

    code = "trusted-clone.store.mount"


class Files(pyfuse3.Operations):
    """Answers the kernel. Runs in the mount's thread only."""

    enable_writeback_cache = False

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self.tree = Tree(lambda: store.table)
        self._token = trio.lowlevel.current_trio_token()

    def _node(self, inode: int) -> Node:
        try:
            return self.tree[inode]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    def _attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.inode
        entry.st_mode = node.mode | (stat.S_IFDIR if node.region is None else stat.S_IFREG)
        entry.st_size = node.region.size_bytes if node.region is not None else 0
        entry.st_nlink = 1
        entry.st_uid, entry.st_gid = node.uid, node.gid
        entry.st_blksize = 4096
        entry.st_blocks = -(-entry.st_size // 512)
        entry.attr_timeout = ATTRIBUTE_S
        entry.entry_timeout = ATTRIBUTE_S if node.region is not None else 1.0
        return entry

    async def getattr(self, inode, ctx=None):  # type: ignore[no-untyped-def]
        """stat(2)."""
        return self._attributes(self._node(inode))

    async def setattr(self, inode, attr, fields, fh, ctx):  # type: ignore[no-untyped-def]
        """chown, chmod and utimens change what stat says; a size cannot change."""
        node = self._node(inode)
        if fields.update_size and (node.region is None or attr.st_size != node.region.size_bytes):
            raise pyfuse3.FUSEError(errno.EROFS)
        if fields.update_mode:
            node.mode = stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        return self._attributes(node)

    async def lookup(self, parent_inode, name, ctx=None):  # type: ignore[no-untyped-def]
        """A name in a directory."""
        text = os.fsdecode(name)
        if text == ".":
            return self._attributes(self._node(parent_inode))
        if text == "..":
            return self._attributes(self._node(self._node(parent_inode).parent))
        self._node(parent_inode)
        node = self.tree.find(parent_inode, text)
        if node is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(node)

    async def opendir(self, inode, ctx):  # type: ignore[no-untyped-def]
        """opendir(3)."""
        if self._node(inode).region is not None:
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return inode

    async def readdir(self, fh, start_id, token):  # type: ignore[no-untyped-def]
        """readdir(3)."""
        for number, (name, node) in enumerate(self.tree.entries(fh)):
            if number < start_id:
                continue
            attributes = self._attributes(node)
            if not pyfuse3.readdir_reply(token, os.fsencode(name), attributes, number + 1):
                return

    async def mkdir(self, parent_inode, name, mode, ctx):  # type: ignore[no-untyped-def]
        """libvirt makes a clone's directory, and those above it, before QEMU opens the blocks."""
        if parent_inode != self.tree.ram.inode:
            raise pyfuse3.FUSEError(errno.EROFS)
        if self.tree.find(parent_inode, os.fsdecode(name)) is not None:
            raise pyfuse3.FUSEError(errno.EEXIST)
        return self._attributes(self.tree.add_clone(os.fsdecode(name)))

    async def create(self, parent_inode, name, mode, flags, ctx):  # type: ignore[no-untyped-def]
        """A block that was unlinked comes back; nothing else can be made."""
        node = self.tree.restore_block(self._node(parent_inode), os.fsdecode(name))
        if node is None:
            raise pyfuse3.FUSEError(errno.EROFS)
        return self._file_info(node), self._attributes(node)

    async def unlink(self, parent_inode, name, ctx):  # type: ignore[no-untyped-def]
        """Takes a block's name away in one clone's directory."""
        self._remove(parent_inode, name)

    async def rmdir(self, parent_inode, name, ctx):  # type: ignore[no-untyped-def]
        """Takes a clone's directory away."""
        self._remove(parent_inode, name)

    def _remove(self, parent_inode: int, name: bytes) -> None:
        self._node(parent_inode)
        if self.tree.find(parent_inode, os.fsdecode(name)) is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        if not self.tree.remove(parent_inode, os.fsdecode(name)):
            raise pyfuse3.FUSEError(errno.EROFS)

    def _file_info(self, node: Node) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=node.inode, keep_cache=True)

    async def open(self, inode, flags, ctx):  # type: ignore[no-untyped-def]
        """QEMU opens its RAM read-write though it maps it privately; O_TRUNC would change bytes."""
        node = self._node(inode)
        if node.region is None:
            raise pyfuse3.FUSEError(errno.EISDIR)
        if flags & os.O_TRUNC or (
            flags & os.O_ACCMODE != os.O_RDONLY and node.region.kind != "ram"
        ):
            raise pyfuse3.FUSEError(errno.EROFS)
        return self._file_info(node)

    async def write(self, fh, off, buf):  # type: ignore[no-untyped-def]
        """Nothing can be written."""
        raise pyfuse3.FUSEError(errno.EROFS)

    async def access(self, inode, mode, ctx):  # type: ignore[no-untyped-def]
        """Who reached the mount may read."""
        return True

    async def flush(self, fh):  # type: ignore[no-untyped-def]
        """Nothing to write back."""

    async def fsync(self, fh, datasync):  # type: ignore[no-untyped-def]
        """Nothing to write back."""

    async def release(self, fh):  # type: ignore[no-untyped-def]
        """Nothing is held open."""

    async def releasedir(self, fh):  # type: ignore[no-untyped-def]
        """Nothing is held open."""

    async def forget(self, inode_list):  # type: ignore[no-untyped-def]
        """Nodes live as long as the mount."""

    async def statfs(self, ctx):  # type: ignore[no-untyped-def]
        """A read-only file system with no room in it; libvirt asks."""
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_blocks = sum(region.leaves for region in self._store.table.values())
        found.f_namemax = 255
        return found

    async def read(self, fh, off, size):  # type: ignore[no-untyped-def]
        """Wait until the range is verified, then give it."""
        node = self._node(fh)
        if node.region is None:
            raise pyfuse3.FUSEError(errno.EISDIR)
        try:
            return await self._read(node.region.id, off, min(size, node.region.size_bytes - off))
        except DatapathError as error:
            LOG.error("a read of %s fails: %s", node.region.name, error)
        except OSError as error:
            LOG.error("kept pages of %s cannot be read: %s", node.region.name, error)
        raise pyfuse3.FUSEError(errno.EIO)

    async def _read(self, region: int, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        regions = self._store.regions
        while not self._store.serves:
            # Eager mode: nobody should read yet; who does waits until all is verified, or fails with it.
            regions.has(region, 0, regions.regions[region].size_bytes)
            await trio.sleep(0.05)
        found = regions.read_now(region, offset, size)
        while found is None:
            if regions.has(region, offset, size):
                return await trio.to_thread.run_sync(regions.read, region, offset, size)
            event = trio.Event()
            regions.wait_for(region, offset, size, lambda e=event: self._wake(e))  # type: ignore[misc]
            await event.wait()
            found = regions.read_now(region, offset, size)
        return found

    def _wake(self, event: trio.Event) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(event.set)


class Mount:
    """One mount, in a thread of its own. A process can have one (pyfuse3's limit)."""

    def __init__(self, store: Store, path: pathlib.Path, connection: int | None = None) -> None:
        """:param connection: of what is mounted at ``path`` already; by default it is mounted here"""
        self.path = path
        self._store = store
        self._connection = connection
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._files: Files | None = None

    def start(self) -> None:
        """Mount.

        :raises MountError: when it cannot be made
        """
        if self._connection is None:
            unmount(self.path)
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        threading.Thread(target=self._run, name="fuse", daemon=True).start()
        self._ready.wait()
        if self._error is not None:
            raise MountError(f"{self.path} cannot be mounted: {self._error}") from self._error

    def add_clone(self, name: str) -> None:
        """Make a clone's directory under /ram."""
        files, token = self._files, self._token
        if files is None or token is None or self._ended.is_set():
            raise MountError("nothing is mounted")
        trio.from_thread.run_sync(files.tree.add_clone, name, trio_token=token)

    def stop(self) -> None:
        """Unmount; who has files mapped keeps what it has read. Harmless when repeated."""
        if self._token is not None and not self._ended.is_set():
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(pyfuse3.terminate)
            self._ended.wait(5)
        if self._connection is None:
            unmount(self.path)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except Exception as error:
            LOG.exception("the mount %s ended", self.path)
            self._error = error
        finally:
            self._ended.set()
            self._ready.set()

    async def _serve(self) -> None:
        files = Files(self._store)
        options = set(pyfuse3.default_options)
        # Owners are whatever libvirt last said: the kernel must not judge by them.
        options.discard("default_permissions")
        options |= {"allow_other", f"fsname={SOURCE}"}
        # libfuse takes a connection that was made for it under this name.
        place = str(self.path) if self._connection is None else f"/dev/fd/{self._connection}"
        pyfuse3.init(files, place, options)
        self._files, self._token = files, trio.lowlevel.current_trio_token()
        self._ready.set()
        try:
            await pyfuse3.main(min_tasks=4, max_tasks=MAX_TASKS)
        finally:
            pyfuse3.close(unmount=True)
