"""The sources of one freeze, for the exporter.

Two steps, because the capture must be there before the freeze and the regions are known after it::

    sources = FrozenSources(capture_socket, directory)
    sources.start()                  # listening; now the freeze
    sources.open(regions)            # regions: [(Region, RegionSource.source), ...]
    sources.sources[region.id].read(index)
    sources.status(); sources.failed_reason
    sources.close()

Runs in the exporter's process, which needs no right over the guest's: it is handed what the memory is taken with, open.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.sources import FileSource, SegmentSource
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.capture import Capture, RamSource
from nova_trusted_clone.hypervisor.qemu.nbd import DiskSource, Keep

# Below this the guest's next writes may find no room for the old content, and would fail in the guest: the freeze has to end
# before that.
LOW_SPACE_BYTES = 256 << 20


class FrozenSources:
    """Everything that a freeze holds, as sources of segments."""

    def __init__(
        self,
        capture_socket: pathlib.Path,
        directory: pathlib.Path,
        low_space_bytes: int = LOW_SPACE_BYTES,
        keep: Keep = lambda _connection: None,
    ) -> None:
        """:param keep: is given each connection to the source's QEMU"""
        self._keep = keep
        self._directory = directory
        self._low_space_bytes = low_space_bytes
        self._capture = Capture(capture_socket, directory)
        self._disks: list[DiskSource] = []
        self._files: list[FileSource] = []
        self._has_nothing_to_capture = False
        self.sources: dict[int, SegmentSource] = {}

    def start(self) -> None:
        """Listen for the freeze."""
        self._capture.start()

    def open(self, regions: Sequence[tuple[Region, Mapping[str, object]]]) -> None:
        """Open every region as the freeze describes it.

        :raises HypervisorError: a description that is not understood; it names the region
        """
        blocks = {r.name: r.size_bytes for r, source in regions if source.get("type") == "memory"}
        if blocks:
            self._capture.require_blocks(blocks)
        else:
            # The memory is a file already: nobody will hand over any.
            self._capture.close()
            self._has_nothing_to_capture = True
        for region, source in regions:
            try:
                self.sources[region.id] = self._open(region, dict(source))
            except (KeyError, TypeError, ValueError, OSError) as error:
                raise HypervisorError(f"region {region.kind}/{region.name}: {error!r}") from error
        if blocks:
            self._capture.sweep()

    def _open(self, region: Region, source: dict[str, Any]) -> SegmentSource:
        kind = source["type"]
        if kind == "memory":
            return RamSource(region, self._capture)
        if kind == "nbd":
            path, export = pathlib.Path(source["socket"]), str(source["export"])
            disk = DiskSource(region, path, export, self._keep)
            self._disks.append(disk)
            return disk
        if kind == "file":
            path, offset_bytes = pathlib.Path(source["path"]), int(source.get("offset", 0))
            file = FileSource(region, path, offset_bytes)
            self._files.append(file)
            return file
        raise ValueError(f"source type {kind!r}")

    @property
    def failed_reason(self) -> str | None:
        """Why the freeze is of no use any more; None while it is."""
        if self._capture.failed_reason is None and self._disks:
            found = os.statvfs(self._directory)
            if (free := found.f_bavail * found.f_frsize) < self._low_space_bytes:
                self._capture.fail(
                    f"{self._directory}: {free >> 20} MiB are left, {self._low_space_bytes >> 20} are "
                    "needed so that the server's own writes never fail"
                )
        return self._capture.failed_reason

    def status(self) -> dict[str, Any]:
        """How far the capture is, for people and for the bench."""
        there, pages = self._capture.progress()
        return {
            "pages": pages,
            "pages_there": there,
            "whole": self._capture.whole or self._has_nothing_to_capture,
            "ended": self._capture.ended or self._has_nothing_to_capture,
            "faults": self._capture.faults,
            "seconds": self._capture.seconds,
            "failed": self.failed_reason,
        }

    def close(self) -> None:
        """End the capture and let everything go; repeatable."""
        self._capture.close()
        disks, self._disks = self._disks, []
        files, self._files = self._files, []
        for disk in disks:
            disk.close()
        for file in files:
            file.close()
