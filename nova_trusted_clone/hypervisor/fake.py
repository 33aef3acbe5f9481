"""A hypervisor whose servers are directories of files.

A server is a directory below ``root`` named by its UUID: ``server.json``, ``ram/<block>``, ``disk/<target>``, ``device``. A
freeze copies them while nobody may write; a restore reads every byte of the plan back, makes a new server of it and lets it
"run". A whole clone needs no more than this to be tested in one process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
import threading
import time
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.hypervisor.base import (
    FreezeBusy,
    Obstacles,
    ReleaseFailed,
    RestoreFailed,
    ServerNotFound,
)
from nova_trusted_clone.ports import (
    DiskShape,
    Frozen,
    Identity,
    NicShape,
    RegionSource,
    RestorePlan,
    ServerShape,
    VtpmBlobs,
)

_SERVER = "server.json"
_FREEZE = "freeze.json"
_FROZEN = "frozen"


@dataclasses.dataclass(frozen=True)
class FakeServer:
    """A server's files, for tests to look into and to write to."""

    directory: pathlib.Path

    @property
    def facts(self) -> dict[str, Any]:
        """Name, UUID, MACs, whether it runs, who froze it."""
        found: dict[str, Any] = json.loads((self.directory / _SERVER).read_text())
        return found

    def note(self, **facts: object) -> None:
        """Change facts."""
        # Whole at once: others read meanwhile.
        changed = self.directory / f"{_SERVER}.new"
        changed.write_text(json.dumps({**self.facts, **facts}))
        changed.replace(self.directory / _SERVER)

    def content(self, kind: str, name: str) -> bytes:
        """A RAM block (``ram``) or a disk (``disk``)."""
        return (self.directory / kind / name).read_bytes()

    def digest(self) -> str:
        """One value for all of its memory, disks and device state."""
        digest = hashlib.sha256()
        for path in sorted(self.directory.rglob("*")):
            if path.is_file() and path.name not in (_SERVER, "vtpm"):
                digest.update(
                    str(path.relative_to(self.directory)).encode() + b"\0" + path.read_bytes()
                )
        return digest.hexdigest()


class FakeHypervisor:
    """``ports.SourceHypervisor`` and ``ports.DestinationHypervisor`` in files below ``root``."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        self._lock = threading.Lock()

    # -- for tests ----------------------------------------------------------------------------------------------------

    def boot(
        self,
        identity: Identity,
        memory: Mapping[str, bytes],
        disks: Mapping[str, bytes],
        device_state: bytes = b"device state",
        vtpm: VtpmBlobs | None = None,
        vtpm_secret: str | None = None,
    ) -> FakeServer:
        """Start a server with this content."""
        directory = self._root / identity.uuid
        for kind, parts in (("ram", memory), ("disk", disks)):
            (directory / kind).mkdir(parents=True)
            for name, content in parts.items():
                (directory / kind / name).write_bytes(content)
        (directory / "device").write_bytes(device_state)
        facts = {
            "name": identity.name,
            "uuid": identity.uuid,
            "macs": [nic.mac for nic in identity.nics],
            "running": True,
            "frozen_by": None,
            "settled": True,
            "blocks": list(memory),
            "vtpm": None if vtpm is None else [b.hex() for b in dataclasses.astuple(vtpm)],
            "vtpm_secret": vtpm_secret,
        }
        (directory / _SERVER).write_text(json.dumps(facts))
        return FakeServer(directory)

    def server(self, server_uuid: str) -> FakeServer:
        """A server.

        :raises ServerNotFound: there is none
        """
        directory = self._root / server_uuid
        if not (directory / _SERVER).is_file():
            raise ServerNotFound(f"there is no server {server_uuid}")
        return FakeServer(directory)

    # -- source -------------------------------------------------------------------------------------------------------

    def inspect(self, server_uuid: str) -> ServerShape:
        """Describe the server."""
        server = self.server(server_uuid)
        facts = server.facts
        disks = sorted((server.directory / "disk").iterdir())
        return ServerShape(
            uuid=server_uuid,
            name=facts["name"],
            memory_bytes=sum(p.stat().st_size for p in (server.directory / "ram").iterdir()),
            running=facts["running"],
            disks=tuple(DiskShape(p.name, p.stat().st_size, "raw", str(p)) for p in disks),
            nics=tuple(NicShape(f"net{i}", mac) for i, mac in enumerate(facts["macs"])),
            has_vtpm=facts["vtpm"] is not None,
            has_generation_id=True,
            vtpm_secret=facts["vtpm_secret"],
            obstacles=() if facts["running"] else ("the server is not running",),
        )

    def offer_disks(self, server_uuid: str, directory: pathlib.Path) -> tuple[RegionSource, ...]:
        """The disks' own files, which change while they are read."""
        return tuple(
            RegionSource("disk", disk.target, disk.size_bytes, {"type": "file", "path": disk.path})
            for disk in self.inspect(server_uuid).disks
        )

    def freeze(
        self, server_uuid: str, directory: pathlib.Path, capture_socket: pathlib.Path
    ) -> Frozen:
        """Copy everything; ``capture_socket`` is not used."""
        with self._lock:
            server = self.server(server_uuid)
            if obstacles := self.inspect(server_uuid).obstacles:
                raise Obstacles(obstacles)
            if server.facts["frozen_by"] is not None:
                raise FreezeBusy("the server is frozen already: wait for that freeze to end")
            (directory / _FREEZE).write_text(json.dumps({"server": server_uuid}))
            server.note(frozen_by=str(directory))
            began = time.monotonic()
            copy = directory / _FROZEN
            for kind in ("ram", "disk"):
                shutil.copytree(server.directory / kind, copy / kind)
            shutil.copy(server.directory / "device", copy / "device")
            pause_s = time.monotonic() - began
        facts = server.facts
        (copy / "domain").write_text(json.dumps(facts))
        files = [("ram", name, copy / "ram" / name) for name in facts["blocks"]]
        files += [("disk", path.name, path) for path in sorted((copy / "disk").iterdir())]
        files += [(kind, kind, copy / kind) for kind in ("device", "domain")]
        return Frozen(
            regions=tuple(
                RegionSource(kind, name, path.stat().st_size, {"type": "file", "path": str(path)})
                for kind, name, path in files
            ),
            pause_s=pause_s,
            vtpm=_vtpm(facts),
        )

    def release(self, server_uuid: str, directory: pathlib.Path) -> None:
        """Forget a freeze; repeatable."""
        try:
            record = json.loads((directory / _FREEZE).read_text())
        except FileNotFoundError:
            return
        if record["server"] != server_uuid:
            raise ReleaseFailed(f"{directory}: it is a freeze of server {record['server']}")
        with self._lock:
            if (self._root / server_uuid / _SERVER).is_file():
                server = self.server(server_uuid)
                if server.facts["frozen_by"] == str(directory):
                    server.note(frozen_by=None)
        shutil.rmtree(directory / _FROZEN, ignore_errors=True)
        (directory / _FREEZE).unlink()

    # -- destination --------------------------------------------------------------------------------------------------

    def restore(self, plan: RestorePlan) -> None:
        """Read every part of the plan and let a server of it run."""
        if (self._root / plan.identity.uuid).exists():
            raise RestoreFailed(f"there is a server {plan.identity.uuid} already")
        try:
            memory = {}
            for name, size in plan.ram_block_order:
                path = plan.memory[name] if name in plan.memory else plan.small_blocks[name]
                memory[name] = path.read_bytes()
                if len(memory[name]) != size:
                    raise RestoreFailed(f"block {name}: {len(memory[name])} bytes, expected {size}")
            disks = {target: path.read_bytes() for target, path in plan.backings.items()}
            json.loads(plan.definition)
            side = plan.identity.host_side
            server = self.boot(
                plan.identity,
                memory,
                disks,
                plan.device_state.read_bytes(),
                plan.vtpm,
                side.vtpm_secret if side is not None else None,
            )
        except (OSError, KeyError, ValueError) as error:
            shutil.rmtree(self._root / plan.identity.uuid, ignore_errors=True)
            raise RestoreFailed(f"clone {plan.identity.uuid}: {error!r}") from error
        server.note(settled=False)

    def warm_up(self) -> None:
        """Nothing is cold here."""

    def exists(self, server_uuid: str, directory: pathlib.Path) -> bool:
        """Whether there is such a server."""
        return (self._root / server_uuid / _SERVER).is_file()

    def settle(self, identity: Identity, directory: pathlib.Path) -> None:
        """Note that the store is needed no longer."""
        if self.exists(identity.uuid, directory):
            self.server(identity.uuid).note(settled=True)

    def pause(self, server_uuid: str) -> None:
        """Stop the server."""
        self.server(server_uuid).note(running=False)

    def destroy(self, server_uuid: str, directory: pathlib.Path) -> None:
        """End the server; harmless when there is none."""
        shutil.rmtree(self._root / server_uuid, ignore_errors=True)


def _vtpm(facts: Mapping[str, Any]) -> VtpmBlobs | None:
    if facts["vtpm"] is None:
        return None
    return VtpmBlobs(*(bytes.fromhex(blob) for blob in facts["vtpm"]))
