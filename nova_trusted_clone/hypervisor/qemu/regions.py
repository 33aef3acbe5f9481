"""What a frozen server consists of, as regions that an exporter can read."""

from __future__ import annotations

import pathlib

from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock
from nova_trusted_clone.ports import RegionSource

NBD_SOCKET = "nbd.sock"
DEVICE_STATE = "device-state"
DOMAIN = "domain.xml"
FILES = (NBD_SOCKET, DEVICE_STATE, DOMAIN)


def described(
    directory: pathlib.Path,
    record: FreezeRecord,
    blocks: tuple[RamBlock, ...],
) -> tuple[RegionSource, ...]:
    """Memory, disks, device state and definition, in this order."""
    memory = [
        RegionSource("ram", block.name, block.size_bytes, {"type": "memory"}) for block in blocks
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
