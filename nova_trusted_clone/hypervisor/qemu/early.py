"""Disks as they are before the freeze, for stores that begin to copy them already.

QEMU serves its live disk nodes, read-only, over the NBD server that the freeze uses later: what is read is what the
guest would read, its latest writes too. It is put onto the server under a record like a freeze's, and taken off by the
same ``release``.
"""

from __future__ import annotations

import pathlib
import secrets
from typing import Any

from nova_trusted_clone.hypervisor.qemu import definition, diskfreeze, journal, marker
from nova_trusted_clone.hypervisor.qemu.journal import FreezeRecord
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.ports import RegionSource

NBD_SOCKET = "nbd.sock"


def offer(
    domain: Any, monitor: Monitor, process: ProcessId, directory: pathlib.Path, first_fdset: int
) -> tuple[RegionSource, ...]:
    """Serve every disk; the guest is neither stopped nor slowed but by what is read.

    :raises HypervisorError: QEMU refuses
    """
    disks = diskfreeze.plan(
        monitor, definition.disks(definition.parse(domain.XMLDesc(0))), directory, first_fdset
    )
    nbd_socket = directory / NBD_SOCKET
    record = FreezeRecord(
        server_uuid=domain.UUIDString(),
        token=f"{directory.name}/{secrets.token_hex(16)}",
        process=process,
        device_fdset=first_fdset,
        disks=disks,
        files=(str(nbd_socket),),
        resumed=True,
    )
    journal.write(directory, record)
    marker.put(monitor, record.token)
    diskfreeze.start_server(monitor, nbd_socket)
    diskfreeze.export(monitor, disks, live=True)
    return tuple(
        RegionSource(
            "disk",
            disk.target,
            disk.size_bytes,
            {"type": "nbd", "socket": str(nbd_socket), "export": disk.target},
        )
        for disk in disks
    )
