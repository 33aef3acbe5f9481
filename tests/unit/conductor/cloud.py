"""A control plane on a desk: a database, the operator's signer, computes that work in memory, and time that is told."""

from __future__ import annotations

import concurrent.futures
import datetime
import hashlib
import pathlib
import types
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from nova_trusted_clone.clone.authority import key_pem
from nova_trusted_clone.clone.registry import EnrolledHost, Registry
from nova_trusted_clone.conductor.leases import Lease
from nova_trusted_clone.conductor.servers import Said, Word
from nova_trusted_clone.conductor.service import Pools, Worker
from nova_trusted_clone.core.protocol import actions
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.db import models
from nova_trusted_clone.db.engine import Database
from nova_trusted_clone.db.store import Store
from nova_trusted_clone.rpc.errors import CloneError, NotFound
from tests.unit.core.world import NOW, Exchange, World, pem
from tests.unit.rpc.broker import context

SOURCE = "11111111-2222-4333-8444-555555555555"
GROUP = "ab" * 16
NONCE = "00112233445566778899aabbccddeeff"
HOSTS = {"compute-1": "left", "compute-2": "right"}
"""Nova's names of the hosts, and their names in certificates."""


def server(number: int) -> str:
    return str(
        uuid.UUID(bytes=hashlib.sha256(f"server {number}".encode()).digest()[:16], version=4)
    )


class Inline(concurrent.futures.Executor):
    """Does at once what it is given."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.moment = datetime.datetime(2027, 1, 15, 8, 0, 0)

    def __call__(self) -> datetime.datetime:
        return self.moment

    def passes(self, seconds: float) -> None:
        self.moment += datetime.timedelta(seconds=seconds)


class Computes:
    """Every compute of a cloud: takes orders as the real ones do, the same one once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.prepared: dict[str, tuple[str, str, bytes]] = {}
        self.freezes: dict[str, list[tuple[bytes, str]]] = {}
        self.ended: list[tuple[str, str, str]] = []
        self.aborted: list[tuple[str, str | None]] = []
        self.states: dict[str, dict[str, Any]] = {}
        self.contexts: list[Any] = []
        self.calls: list[tuple[str, str]] = []
        self.failing: dict[tuple[str, str], CloneError | Callable[[], None]] = {}
        self.shape: dict[str, Any] = {
            "host_id": "left",
            "policy_sha256": world.policy.sha256.hex(),
            "memory_bytes": 64 << 20,
            "disks": [("vda", 10 << 20)],
            "has_vtpm": True,
            "has_generation_id": True,
            "running": True,
            "obstacles": [],
        }

    def inspect(self, context: Any, host: str, server: str) -> dict[str, Any]:
        self._called("inspect", host, context)
        return self.shape

    def prepare(self, context: Any, host: str, clone_id: str, server: str, order: bytes) -> None:
        self._called("prepare", host, context)
        found = self.prepared.setdefault(clone_id, (host, server, order))
        self.states.setdefault(clone_id, {"phase": "prepared"})
        assert found == (host, server, order), "another order for the same clone"

    def clone(self, context: Any, host: str, orders: Any) -> str:
        self._called("clone", host, context)
        freeze_id = SignedOrder.decode(orders[0][0]).order().freeze_group.hex()
        found = self.freezes.setdefault(freeze_id, list(orders))
        assert found == list(orders), "other orders for the same freeze"
        return freeze_id

    def end(self, context: Any, host: str, clone_id: str, reason: str) -> None:
        self._called("end", host, context)
        self.ended.append((host, clone_id, reason))

    def abort(
        self, context: Any, host: str, freeze_id: str, clone_id: str | None, reason: str
    ) -> None:
        self._called("abort", host, context)
        self.aborted.append((freeze_id, clone_id))

    def status(self, context: Any, host: str, clone_id: str) -> dict[str, Any]:
        self._called("status", host, context)
        if clone_id not in self.states:
            raise NotFound(f"no clone {clone_id}")
        return self.states[clone_id]

    def evidence(self, clone_id: str) -> dict[str, Any]:
        """Carry a clone out, all handshake and quotes, and return its evidence."""
        _, _, raw = self.prepared[clone_id]
        self._world.signed = SignedOrder.decode(raw)
        self._world.order = self._world.signed.order()
        exchange = Exchange(self._world)
        exchange.start()
        exchange.freeze(freeze_id=self._world.order.freeze_group)
        exchange.transfer()
        exchange.finish()
        return dict(exchange.actions("source", actions.Completed)[0].evidence)

    def _called(self, method: str, host: str, context: Any) -> None:
        self.calls.append((method, host))
        self.contexts.append(context)
        failure = self.failing.get((method, host))
        if isinstance(failure, CloneError):
            raise failure
        if failure is not None:
            failure()


class Nova:
    """What nova says of servers."""

    def __init__(self) -> None:
        self.said: dict[str, Said] = {}

    def ask(self, server_id: str) -> Said:
        return self.said.get(server_id, Said(Word.GOES_ON))


class Cloud:
    """One control plane. ``worker`` is replaced by ``restart``, as a killed one would be."""

    def __init__(self, directory: pathlib.Path, **options: Any) -> None:
        self.world = World(memory_bytes=64 << 20)
        self.clock = Clock()
        self.computes = Computes(self.world)
        self.nova = Nova()
        self.told: list[tuple[str, str, str]] = []
        _write_operator(directory, self.world)
        self.options = types.SimpleNamespace(
            **{
                "signer_path": str(directory),
                "anchors_file": str(directory / "anchors.pem"),
                "policy_file": str(directory / "policy.json"),
                "order_lifetime_s": 600,
                "gather_limit_s": 15.0,
                "ordering_threads": 2,
                "stale_check_s": 10.0,
                "silence_s": 45.0,
                "stale_limit_s": 600.0,
                "lease_s": 60.0,
                "retry_limit_s": 0,
                **options,
            }
        )
        self.database = database(directory / "records.sqlite")
        self.store = Store.of(self.database)
        self.restart("first")

    def restart(self, incarnation: str, host: str = "control-1") -> None:
        self.worker = Worker(
            self.database,
            self.options,
            self.computes,
            self.nova,
            lambda before, after: self.told.append((after.server_id, before.phase, after.phase)),
            Lease(host, incarnation, self.options.lease_s),
            pools=Pools(Inline(), Inline()),
            now=self.clock,
        )
        self.conductor = self.worker.conductor

    # -- what people and hosts do -------------------------------------------------------------------------------------

    def begin(self, count: int = 1, **changes: Any) -> str:
        request = {
            "group": GROUP,
            "source_server": SOURCE,
            "source_host": "compute-1",
            "count": count,
            "vtpm": "new",
            "memory": "lazy",
            "nonce": NONCE,
            "name": "web",
            "project_id": "project",
            "user_id": "user",
            "request_id": "req-1",
        }
        return self.conductor.begin(context(), {**request, **changes})

    def register(self, count: int = 1, group: str = GROUP) -> list[Any]:
        rows = [{"server": server(n), "name": f"web-{n}"} for n in range(count)]
        return self.conductor.register(context(), group, rows)

    def ask_for(self, count: int = 1) -> None:
        self.begin(count)
        self.register(count)

    def claim(self, number: int = 0, host: str = "compute-2", group: str = GROUP) -> str:
        return self.conductor.claim(
            context(), group, server(number), host, HOSTS.get(host, "right")
        )

    def look(self) -> None:
        self.worker.gatherer.look()

    def ordered(self, count: int = 1) -> list[str]:
        """Ask for clones, have them claimed and ordered; return their attempts."""
        self.ask_for(count)
        attempts = [self.claim(number) for number in range(count)]
        self.look()
        return attempts

    def record(self, number: int = 0) -> Any:
        return self.store.clones.by_server(server(number))

    def phases(self, count: int = 1) -> list[str]:
        return [self.record(number).phase.value for number in range(count)]


def database(path: pathlib.Path) -> Database:
    made = Database({"connection": f"sqlite:///{path}"}, 5.0)
    models.Base.metadata.create_all(made.engine)
    return made


def _write_operator(directory: pathlib.Path, world: World) -> None:
    authorities = world.authorities
    (directory / "control.key").write_bytes(key_pem(authorities.signer))
    (directory / "control.pem").write_bytes(pem(authorities.signer_cert))
    anchors = authorities.anchors
    (directory / "anchors.pem").write_bytes(
        pem(*anchors.attestation, *anchors.vtpm, *anchors.control)
    )
    (directory / "policy.json").write_bytes(world.policy_json)
    registry = Registry(directory / "hosts.json")
    for number, machine in enumerate((world.left, world.right)):
        host = EnrolledHost(machine.host_id, bytes([number]) * 32, machine.tpm.ak_name, NOW)
        with registry.claiming(host):
            pass


@pytest.fixture
def cloud(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A control plane at the time for which the test world's certificates are good."""
    monkeypatch.setattr("nova_trusted_clone.clone.signer.time.time", lambda: float(NOW))
    return Cloud(tmp_path)
