"""What a freeze is about to put onto a server, written down before it is done.

``release`` needs nothing else: it works after the process that froze was killed at any point. One record is written before
the first change and one after the guest runs again; nothing is written while the guest stands still.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from nova_trusted_clone.hypervisor import journals
from nova_trusted_clone.hypervisor.qemu.process import ProcessId

NAME = "freeze.json"


@dataclasses.dataclass(frozen=True)
class FrozenDisk:
    """The parts that hold a disk's frozen content.

    :ivar node: QEMU's name of the disk's top node, which stays as it is
    :ivar scratch: a file that gets the old content of blocks that the guest overwrites
    :ivar read_only: nobody writes to it, so that it is served as it is
    :ivar image: the disk's own file or device
    """

    target: str
    node: str
    size_bytes: int
    scratch: str
    fdset: int
    read_only: bool = False
    image: str = ""

    @property
    def scratch_node(self) -> str:
        """The scratch file's node name."""
        return f"ntc-old-{self.target}"

    @property
    def job(self) -> str:
        """The id of the job that copies before writing."""
        return f"ntc-{self.target}"

    @property
    def export(self) -> str:
        """The id of the NBD export."""
        return f"ntc-export-{self.target}"


@dataclasses.dataclass(frozen=True)
class FreezeRecord:
    """A freeze of ``server_uuid``.

    :ivar token: says in QEMU itself whose freeze it is
    :ivar resumed: the guest was seen to run again; from then on a pause is somebody else's
    """

    server_uuid: str
    token: str
    process: ProcessId
    device_fdset: int
    disks: tuple[FrozenDisk, ...]
    files: tuple[str, ...]
    resumed: bool = False


def write(directory: pathlib.Path, record: FreezeRecord) -> None:
    """Put the record on the disk, whole or not at all."""
    journals.write(directory / NAME, dataclasses.asdict(record))


def read(directory: pathlib.Path) -> FreezeRecord | None:
    """The record in ``directory``; None when nothing was put onto any server from there.

    :raises HypervisorError: it is there and not readable
    """
    return journals.read(directory / NAME, _record)


def _record(raw: dict[str, Any]) -> FreezeRecord:
    return FreezeRecord(
        server_uuid=str(raw["server_uuid"]),
        token=str(raw["token"]),
        process=ProcessId(int(raw["process"]["pid"]), int(raw["process"]["start_time"])),
        device_fdset=int(raw["device_fdset"]),
        disks=tuple(FrozenDisk(**disk) for disk in raw["disks"]),
        files=tuple(str(name) for name in raw["files"]),
        resumed=bool(raw["resumed"]),
    )


def remove(directory: pathlib.Path) -> None:
    """Forget it: nothing of the freeze is left."""
    (directory / NAME).unlink(missing_ok=True)
