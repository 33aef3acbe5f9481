"""Two hosts in one process: real use cases, protocol and records; fakes for what is outside of them.

The exporter and the store are objects in place of processes. Between them bytes are copied, and both ends insist on the
certificate that the handshake gave them; that each page is verified is told by the tests of ``datapath``.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from nova_trusted_clone import ports
from nova_trusted_clone.clone import freeze_job, stores
from nova_trusted_clone.clone.destination import Destination
from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.clone.host import Host, Limits, Place
from nova_trusted_clone.clone.kept import Rejected
from nova_trusted_clone.clone.source import Source
from nova_trusted_clone.core.protocol.order import Order
from nova_trusted_clone.datapath.processes import ProcessFailed
from nova_trusted_clone.hypervisor.fake import FakeHypervisor, FakeServer
from nova_trusted_clone.tpm.fake import shared_keys
from nova_trusted_clone.vtpm.fake import FakeVtpmFactory
from nova_trusted_clone.vtpm.issuer import EkIssuer
from tests.unit.core.world import NOW, Machine, World, digest, pem

# A limit on messages that is longer than any story.
MESSAGE_LIMIT_S = 60.0
MEMORY = {"pc.ram": os.urandom(1 << 16), "vga.vram": bytes(4096)}
DISKS = {"vda": os.urandom(1 << 16), "vdb": bytes(8192)}


class HostTpm:
    """A machine's TPM as the adapters offer it."""

    def __init__(self, machine: Machine) -> None:
        self._tpm = machine.tpm

    def random(self, count: int) -> bytes:
        return os.urandom(count)

    def ak_public(self) -> bytes:
        return self._tpm.ak_public

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> ports.Quote:
        return ports.Quote(*self._tpm.quote(qualifying_data, tuple(pcrs)))

    def read_pcrs(self, pcrs: Sequence[int]) -> Mapping[int, bytes]:
        return {pcr: self._tpm.pcrs[pcr] for pcr in pcrs}

    def extend(self, pcr: int, value: bytes) -> None:
        self._tpm.extend([(pcr, value)])

    def close(self) -> None:
        pass


class FakeProcess:
    """``clone.helpers.Helper`` with an object in place of the process, found again by its directory."""

    LIVING: ClassVar[dict[pathlib.Path, Any]] = {}

    def __init__(self, module: str, directory: pathlib.Path) -> None:
        self.directory = directory
        self._kind = FakeExporter if module.endswith("exporter") else FakeStore

    def start(self) -> None:
        self.LIVING.setdefault(self.directory, self._kind(self.directory))

    @property
    def alive(self) -> bool:
        return self.directory in self.LIVING

    def call(self, operation: str, /, files: Sequence[int] = (), **arguments: Any) -> Any:
        if not self.alive:
            raise ProcessFailed(f"the {self._kind.__name__} process ended")
        return getattr(self.LIVING[self.directory], operation)(**arguments)

    def stop(self) -> None:
        living = self.LIVING.pop(self.directory, None)
        if living is not None:
            living.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class FakeExporter:
    """Gives whole regions to whom the source has let in."""

    BY_PORT: ClassVar[dict[int, FakeExporter]] = {}

    def __init__(self, directory: pathlib.Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = b"certificate of exporter " + os.urandom(8)
        self._directory = directory
        self._admitted: dict[str, bytes] = {}
        self._content: dict[int, bytes] = {}
        self._rows: list[dict[str, Any]] = []
        self._page_key = os.urandom(32)
        self._port = 0

    def listen(self, **_: Any) -> dict[str, Any]:
        self._port = 1 + max(self.BY_PORT, default=0)
        self.BY_PORT[self._port] = self
        return {"port": self._port}

    def identity(self) -> dict[str, Any]:
        return {"certificate": base64.b64encode(self.certificate).decode()}

    def admit(self, certificate: str, clone_id: str) -> dict[str, Any]:
        self._admitted[clone_id] = base64.b64decode(certificate)
        return {}

    def dismiss(self, clone_id: str) -> dict[str, Any]:
        self._admitted.pop(clone_id, None)
        return {}

    def capture(self) -> dict[str, Any]:
        return {"socket": str(self._directory / "capture.sock")}

    def frozen(self, regions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        for number, region in enumerate(regions, 1):
            self._content[number] = pathlib.Path(region["source"]["path"]).read_bytes()
            row = {key: region[key] for key in ("kind", "name", "size_bytes")}
            self._rows.append({"id": number, **row})
        key = base64.b64encode(self._page_key).decode()
        return {"page_key": key, "regions": self._rows, "port": self._port}

    def status(self) -> dict[str, Any]:
        return {**described(self._content), "capture": self._capture_status()} if self._rows else {}

    def _capture_status(self) -> dict[str, Any]:
        return {"whole": True, "ended": True, "failed": None}

    def ease(self) -> None:
        pass

    def hurry(self) -> None:
        pass

    def give(self, certificate: bytes, page_key: bytes) -> dict[int, bytes]:
        """Everything, to a store that was let in and knows the key that the source vouched for."""
        assert certificate in self._admitted.values(), "a store that nobody let in"
        assert page_key == self._page_key
        return dict(self._content)

    def stop(self) -> None:
        self.BY_PORT.pop(self._port, None)


class FakeStore:
    """Takes regions from one exporter, the one with the proven certificate."""

    def __init__(self, directory: pathlib.Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._certificate = b"certificate of store " + os.urandom(8)
        self._exporter: FakeExporter | None = None
        self._content: dict[int, bytes] = {}
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._mount: pathlib.Path | None = None

    def identity(self) -> dict[str, Any]:
        return {"certificate": base64.b64encode(self._certificate).decode()}

    def connect(self, port: int, peer_certificate: str, **_: Any) -> dict[str, Any]:
        exporter = FakeExporter.BY_PORT[port]
        assert exporter.certificate == base64.b64decode(peer_certificate)
        self._exporter = exporter
        return {}

    def fetch(
        self, page_key: str, regions: Sequence[Mapping[str, Any]], **_: Any
    ) -> dict[str, Any]:
        assert self._exporter is not None
        self._content = self._exporter.give(self._certificate, base64.b64decode(page_key))
        self._rows = {int(row["id"]): row for row in regions}
        assert {n: len(c) for n, c in self._content.items()} == {
            n: row["size_bytes"] for n, row in self._rows.items()
        }
        return {}

    def mount(self, path: str) -> dict[str, Any]:
        self._mount = pathlib.Path(path)
        (self._mount / "disks").mkdir()
        for number, row in self._rows.items():
            if row["kind"] == "disk":
                (self._mount / "disks" / row["name"]).write_bytes(self._content[number])
        return {}

    def add_clone(self, name: str) -> dict[str, Any]:
        assert self._mount is not None
        directory = self._mount / "ram" / name
        directory.mkdir(parents=True)
        for number, row in self._rows.items():
            if row["kind"] == "ram":
                (directory / row["name"]).write_bytes(self._content[number])
        return {}

    def read_region(self, region: int) -> dict[str, Any]:
        path = self._directory / f"region-{region}"
        path.write_bytes(self._content[region])
        return {"path": str(path)}

    def status(self) -> dict[str, Any]:
        if not self._rows:
            return {"mount": None}
        mount = None if self._mount is None else str(self._mount)
        return {**described(self._content), "complete": True, "mount": mount}

    def stop(self) -> None:
        if self._mount is not None:
            for path in self._mount.iterdir():
                shutil.rmtree(path)


def described(content: Mapping[int, bytes]) -> dict[str, Any]:
    """One digest and the sizes of everything, as both ends tell them."""
    root = hashlib.sha256(repr(sorted(content.items())).encode()).digest()
    sizes = [len(part) for part in content.values()]
    counts = {
        "segments": len(sizes),
        "leaves": sum(-(-size // 4096) for size in sizes),
        "zero_leaves": 0,
        "bytes": sum(sizes),
    }
    return {"root": base64.b64encode(root).decode(), "counts": counts}


class FakeGuard:
    """Nobody dies within one process."""

    def __init__(self, *_: Any) -> None:
        self.dismissed = False

    def start(self) -> None:
        pass

    def wait_until_ready(self) -> None:
        pass

    def pause_is_over(self) -> None:
        pass

    def dismiss(self) -> None:
        self.dismissed = True


class NoMounts:
    """The store's files are in a plain directory."""

    def connect(self, path: pathlib.Path) -> None:
        return None

    def unmount(self, path: pathlib.Path) -> None:
        pass


class NearPeer:
    """Another host of this process. ``lost``, ``mute`` and ``tamper`` are the network."""

    def __init__(self, cloud: Cloud, address: str) -> None:
        self._cloud = cloud
        self._address = address

    def call(
        self, operation: str, *, limit_s: float | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        if operation in self._cloud.mute:
            time.sleep(MESSAGE_LIMIT_S if limit_s is None else limit_s)
            raise ports.PeerUnreachable(f"no answer to {operation}")
        if self._address not in self._cloud.sides or self._address in self._cloud.lost:
            raise ports.PeerUnreachable(f"no route to {self._address}")
        there = self._cloud.sides[self._address].destination
        try:
            return self._answer(there, operation, arguments)
        except Rejected as error:
            raise ports.PeerRefused(str(error)) from error

    def _answer(
        self, there: Destination, operation: str, arguments: dict[str, Any]
    ) -> Mapping[str, Any]:
        clone_id = arguments.pop("clone_id")
        if operation == "message":
            data = self._cloud.tamper(arguments.pop("data"))
            return {"data": there.message(clone_id, data, arguments)}
        if operation == "status":
            return there.status(clone_id)
        assert operation == "end"
        there.end(clone_id, f"ended by the source: {arguments['reason']}", arguments["code"])
        return {}


@dataclasses.dataclass
class Side:
    """One host: what it can do, and its two use cases."""

    host: Host
    hypervisor: FakeHypervisor
    source: Source
    destination: Destination
    news: list[dict[str, Any]]
    secrets: dict[str, ports.Passphrase]


class Cloud:
    """Host ``left`` with a server, host ``right`` for its clones."""

    def __init__(self, root: pathlib.Path, **changes: Any) -> None:
        self.world = World(
            disks=tuple((name, len(part)) for name, part in DISKS.items()),
            memory_bytes=sum(map(len, MEMORY.values())),
            **changes,
        )
        self.lost: set[str] = set()
        self.mute: set[str] = set()
        self.tamper: Callable[[bytes], bytes] = lambda data: data
        self.sides = {
            machine.host_id: self._side(root / machine.host_id, machine)
            for machine in (self.world.left, self.world.right)
        }

    def _side(self, root: pathlib.Path, machine: Machine) -> Side:
        place = Place(root / "state", "test:///default", "127.0.0.1", 1, 2)
        place.make()
        hypervisor = FakeHypervisor(root / "servers")
        secrets: dict[str, ports.Passphrase] = {}
        anchors = [self.world.authorities.roots[role] for role in self.world.authorities.roots]
        issuer = EkIssuer(machine.vtpm_key, machine.vtpm_ca)
        numbers = iter(range(100))
        host = Host(
            local=machine.local,
            place=place,
            limits=Limits(message_timeout_s=0.3, network_limit_s=0.5, completion_limit_s=20.0),
            open_tpm=lambda: HostTpm(machine),
            ground=lambda: Ground(pem(*anchors), self.world.policy_json),
            vtpms=FakeVtpmFactory(issuer, lambda: shared_keys(f"{root.name} {next(numbers)}")),
            source=hypervisor,
            destination=hypervisor,
            peers=lambda address: NearPeer(self, address),
            passphrases=lambda server, secret: _secret_of(secrets, server, secret),
            now=lambda: NOW,
        )
        news: list[dict[str, Any]] = []
        return Side(host, hypervisor, Source(host), Destination(host, news.append), news, secrets)

    @property
    def left(self) -> Side:
        return self.sides["left"]

    @property
    def right(self) -> Side:
        return self.sides["right"]

    def boot(self, secret: str | None = None) -> FakeServer:
        """The source server, with a vTPM of this host's."""
        passphrase = self.left.secrets.get(secret or "")
        vtpm = self.left.host.vtpms.new("web-1", [(4, digest("guest's loader"))], passphrase)
        identity = ports.Identity(
            "web-1", self.server_uuid, (ports.NicIdentity("52:54:00:00:00:01"),)
        )
        return self.left.hypervisor.boot(
            identity, MEMORY, DISKS, vtpm=vtpm.hand_over(), vtpm_secret=secret
        )

    @property
    def server_uuid(self) -> str:
        raw = self.world.order.source_server.hex()
        return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))

    def order(self, name: str, **terms: Any) -> Order:
        """An order for a clone of that name, in the one freeze."""
        base = {
            "clone_id": digest(f"clone {name}")[:16],
            "destination_server": digest(f"server {name}")[:16],
            "disks": self.world.order.disks,
            "memory_bytes": self.world.order.memory_bytes,
        }
        return self.world.make_order(**(base | terms))

    def prepare(self, order: Order, secret: str | None = None) -> tuple[bytes, str]:
        """Have the right host expect a clone; the order as it is sent."""
        raw = self.world.authorities.sign(order).encode()
        side = ports.HostSide(vtpm_secret=secret, persistent=True)
        self.right.destination.prepare(raw, clone_identity(order, side))
        return raw, "right"


def clone_identity(order: Order, side: ports.HostSide | None = None) -> ports.Identity:
    raw = order.destination_server.hex()
    uuid = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    name = f"clone-{raw[:8]}"
    return ports.Identity(name, uuid, (ports.NicIdentity(f"52:54:00:{raw[:2]}:00:02"),), side)


def _secret_of(
    secrets: Mapping[str, ports.Passphrase], server: str, secret: str
) -> ports.Passphrase:
    if secret not in secrets:
        raise ports.PassphraseUnavailable(f"server {server}: secret {secret} cannot be read")
    return secrets[secret]


@contextlib.contextmanager
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Objects in place of processes and mounts for a block of code; none may be left."""
    monkeypatch.setattr(freeze_job, "Helper", FakeProcess)
    monkeypatch.setattr(freeze_job, "Guard", FakeGuard)
    monkeypatch.setattr(freeze_job, "POLL_S", 0.005)
    monkeypatch.setattr(stores, "Helper", FakeProcess)
    monkeypatch.setattr(stores, "mounts", NoMounts())
    yield
    FakeProcess.LIVING.clear()
    FakeExporter.BY_PORT.clear()
