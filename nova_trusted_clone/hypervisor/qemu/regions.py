"""What a frozen server consists of, as regions that an exporter can read."""

from __future__ import annotations

import dataclasses
import pathlib

from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, mappings
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock
from nova_trusted_clone.ports import RegionSource

NBD_SOCKET = "nbd.sock"
DEVICE_STATE = "device-state"
DOMAIN = "domain.xml"
FILES = (NBD_SOCKET, DEVICE_STATE, DOMAIN)


def protected(process: ProcessId, blocks: tuple[RamBlock, ...]) -> dict[str, bool]:
    """For each block whose place is known, whether its pages are write-protected now; the others nobody writes."""
    found = mappings(process.pid)
    return {
        block.name: any("uw" in m.flags for m in found if m.start <= address < m.start + m.size)
        for block in blocks
        if (address := block.address) is not None
    }


def described(
    directory: pathlib.Path,
    record: FreezeRecord,
    blocks: tuple[RamBlock, ...],
    protected: dict[str, bool],
) -> tuple[RegionSource, ...]:
    """Memory, disks, device state and definition, in this order.

    :param protected: of each block that can be read in place
    """
    process = dataclasses.asdict(record.process)
    memory = [
        RegionSource(
            "ram",
            block.name,
            block.size_bytes,
            {
                "type": "memory",
                "process": process,
                "address": block.address if block.name in protected else None,
                "protected": protected.get(block.name, True),
            },
        )
        for block in blocks
    ]
    disks = [
        RegionSource(
            "disk",
            disk.target,
            disk.size_bytes,
            {"type": "nbd", "socket": str(directory / NBD_SOCKET), "export": disk.target},
        )
        for disk in record.disks
    ]
    files = [
        RegionSource(
            kind,
            kind,
            (directory / name).stat().st_size,
            {"type": "file", "path": str(directory / name)},
        )
        for kind, name in (("device", DEVICE_STATE), ("domain", DOMAIN))
    ]
    return (*memory, *disks, *files)
