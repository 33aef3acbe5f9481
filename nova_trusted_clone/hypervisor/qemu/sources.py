"""The sources of one freeze, for the exporter.

Two steps, because the drain must listen before the freeze and the regions are known after it::

    sources = FrozenSources(drain_socket, directory)
    sources.start()                  # listening; now the freeze
    sources.open(regions)            # regions: [(Region, RegionSource.source), ...]
    sources.sources[region.id].read(index)
    sources.status(); sources.failed_reason
    sources.close()

Runs in the exporter's process, to which the service hands the guest's memory open. Where it does not, the exporter opens it
itself (CAP_SYS_PTRACE); where it may not, memory comes from the drain alone.
"""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.sources import FileSource, SegmentSource
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.drain import DrainedCapture
from nova_trusted_clone.hypervisor.qemu.memory import DirectMemory, RamSource
from nova_trusted_clone.hypervisor.qemu.nbd import DiskSource
from nova_trusted_clone.hypervisor.qemu.process import ProcessId

LOG = logging.getLogger(__name__)
# Below this the guest's next writes may find no room for the old content, and would fail in the guest: the freeze has to end
# before that.
LOW_SPACE_BYTES = 256 << 20


class FrozenSources:
    """Everything that a freeze holds, as sources of segments."""

    def __init__(
        self,
        drain_socket: pathlib.Path,
        directory: pathlib.Path,
        low_space_bytes: int = LOW_SPACE_BYTES,
    ) -> None:
        self._directory = directory
        self._low_space_bytes = low_space_bytes
        self._capture = DrainedCapture(drain_socket, directory)
        self._direct: DirectMemory | None = None
        self._disks: list[DiskSource] = []
        self._files: list[FileSource] = []
        self._memory: list[RamSource] = []
        self._handed: tuple[ProcessId, tuple[int, int]] | None = None
        self._has_nothing_to_drain = False
        self.sources: dict[int, SegmentSource] = {}

    def take_memory(self, process: ProcessId, descriptors: tuple[int, int]) -> None:
        """Read the guest's memory through these (``memory.open_memory``); before ``open``."""
        self._handed = (process, descriptors)

    def start(self) -> None:
        """Listen for QEMU's stream; before the freeze."""
        self._capture.start()

    def open(self, regions: Sequence[tuple[Region, Mapping[str, object]]]) -> None:
        """Open every region as the freeze describes it.

        :raises HypervisorError: a description that is not understood; it names the region
        """
        blocks = {r.name: r.size_bytes for r, source in regions if source.get("type") == "memory"}
        if blocks:
            self._capture.expect(blocks)
        else:
            # The memory is a file already: nobody will send anything.
            self._capture.close()
            self._has_nothing_to_drain = True
        for region, source in regions:
            try:
                self.sources[region.id] = self._open(region, dict(source))
            except (KeyError, TypeError, ValueError, OSError) as error:
                raise HypervisorError(f"region {region.kind}/{region.name}: {error!r}") from error

    def _open(self, region: Region, source: dict[str, Any]) -> SegmentSource:
        kind = source["type"]
        if kind == "memory":
            return self._open_memory(region, source)
        if kind == "nbd":
            disk = DiskSource(region, pathlib.Path(source["socket"]), str(source["export"]))
            self._disks.append(disk)
            return disk
        if kind == "file":
            path, offset_bytes = pathlib.Path(source["path"]), int(source.get("offset", 0))
            file = FileSource(region, path, offset_bytes)
            self._files.append(file)
            return file
        raise ValueError(f"source type {kind!r}")

    def _open_memory(self, region: Region, source: dict[str, Any]) -> SegmentSource:
        address = source["address"]
        if address is not None and self._direct is None:
            described = source["process"]
            process = ProcessId(int(described["pid"]), int(described["start_time"]))
            try:
                self._direct = self._look_into(process)
            except HypervisorError as error:
                LOG.warning("memory will come from the drain alone: %s", error)
        memory = RamSource(region, self._capture, self._direct, address, bool(source["protected"]))
        self._memory.append(memory)
        return memory

    def _look_into(self, process: ProcessId) -> DirectMemory:
        handed, self._handed = self._handed, None
        if handed is None:
            return DirectMemory(process)
        whose, descriptors = handed
        if whose != process:
            for descriptor in descriptors:
                os.close(descriptor)
            raise HypervisorError(f"the memory of process {whose.pid} was handed over")
        return DirectMemory(process, descriptors)

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
        """How far the drain is, for people and for the bench."""
        there, pages = self._capture.progress()
        return {
            "pages": pages,
            "pages_there": there,
            "pages_read_in_place": sum(memory.read_in_place for memory in self._memory),
            "pages_compared": self._capture.compared_pages,
            "drain_ended": self._capture.ended or self._has_nothing_to_drain,
            "drain_bytes": self._capture.bytes_read,
            "drain_seconds": self._capture.seconds,
            "failed": self.failed_reason,
        }

    def close(self) -> None:
        """End the drain and let everything go; repeatable."""
        self._capture.close()
        disks, self._disks = self._disks, []
        files, self._files = self._files, []
        direct, self._direct = self._direct, None
        for opened in (*disks, *files, direct):
            if opened is not None:
                opened.close()
