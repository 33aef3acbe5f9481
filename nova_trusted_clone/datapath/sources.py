"""Where an exporter finds the frozen bytes: one contract, and the two simplest sources."""

from __future__ import annotations

import os
import pathlib
from typing import Protocol

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES, Buffer
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone


class SegmentSource(Protocol):
    """A region's frozen bytes. Several threads read at once."""

    @property
    def region(self) -> Region:
        """Which region it is."""

    def read(self, index: int) -> Buffer:
        """Return segment ``index``, always the same bytes; blocks until they are there.

        :raises SourceGone: when they cannot be had any more
        """


class FileSource:
    """A region in a file that nobody changes any more."""

    def __init__(self, region: Region, path: pathlib.Path, offset_bytes: int = 0) -> None:
        """:param offset_bytes: where in the file the region begins"""
        self.region = region
        self._path = path
        self._offset_bytes = offset_bytes
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, index: int) -> bytes:
        """Return segment ``index``."""
        size = self.region.segment_bytes(index)
        at = self._offset_bytes + index * SEGMENT_BYTES
        data = os.pread(self._descriptor, size, at)
        if len(data) != size:
            raise SourceGone(f"{self._path}: segment {index} has {len(data)} bytes of {size}")
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class FakeSource:
    """A region in memory."""

    def __init__(self, region: Region, data: Buffer) -> None:
        self.region = region
        self.data = memoryview(data)
        self.reads: list[int] = []

    def read(self, index: int) -> Buffer:
        """Return segment ``index``."""
        self.reads.append(index)
        start = index * SEGMENT_BYTES
        return self.data[start : start + self.region.segment_bytes(index)]
