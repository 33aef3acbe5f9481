"""What a freeze is about to put onto a domain, written down before it is done; ``release`` needs nothing else."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from nova_trusted_clone.hypervisor import journals
from nova_trusted_clone.hypervisor.qemu.journal import FrozenDisk
from nova_trusted_clone.hypervisor.qemu.process import ProcessId

NAME = "freeze.json"


@dataclasses.dataclass(frozen=True)
class FreezeRecord:
    """A freeze of ``server_uuid``.

    :ivar domain: its number, which no other domain gets before the host boots anew: a server that was started again has
        another
    :ivar saver: the process that saves it, once it has started; it leads a session of its own
    :ivar resumed: the domain was told to go on; from then on a pause is somebody else's
    """

    server_uuid: str
    domain: int
    disks: tuple[FrozenDisk, ...]
    files: tuple[str, ...]
    saver: ProcessId | None = None
    resumed: bool = False


def write(directory: pathlib.Path, record: FreezeRecord) -> None:
    """Put the record on the disk, whole or not at all."""
    journals.write(directory / NAME, dataclasses.asdict(record))


def read(directory: pathlib.Path) -> FreezeRecord | None:
    """The record in ``directory``; None when nothing was put onto any domain from there.

    :raises HypervisorError: it is there and not readable
    """
    return journals.read(directory / NAME, _record)


def _record(raw: dict[str, Any]) -> FreezeRecord:
    saver = raw["saver"]
    return FreezeRecord(
        server_uuid=str(raw["server_uuid"]),
        domain=int(raw["domain"]),
        disks=tuple(FrozenDisk(**disk) for disk in raw["disks"]),
        files=tuple(str(name) for name in raw["files"]),
        saver=None if saver is None else ProcessId(int(saver["pid"]), int(saver["start_time"])),
        resumed=bool(raw["resumed"]),
    )


def remove(directory: pathlib.Path) -> None:
    """Forget it: nothing of the freeze is left."""
    (directory / NAME).unlink(missing_ok=True)
