"""The real conductor, killed in each step of ordering a freeze. The hosts are this test's own, on the real broker."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import oslo_messaging as messaging
import pytest
from labkit import process
from labkit.cloud.cloud import Cloud
from nova import rpc

from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.rpc import COMPUTE_TOPIC, checks, shapes
from nova_trusted_clone.rpc.endpoint import answers
from tests.openstack.killing import kill
from tests.openstack.wire import conductor as conductor
from tests.openstack.wire import forger as forger
from tests.openstack.wire import transport as transport

HOST = f"nowhere-{secrets.token_hex(4)}"
LIMIT_S = 120.0


class Host:
    """A compute that holds its first answer to one step back until the conductor is dead."""

    target = messaging.Target(version="1.0")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.held = ""
        self.reached = threading.Event()
        self.released = threading.Event()
        self.calls: list[str] = []
        self.prepared: dict[str, bytes] = {}
        self.freezes: dict[str, list[bytes]] = {}
        self.ended: list[str] = []

    def hold(self, step: str) -> None:
        """Begin a story: the first call of ``step`` waits."""
        self.__init__(self._policy)  # type: ignore[misc]
        self.held = step

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name == self.held and self.calls.count(name) == 1:
            self.reached.set()
            self.released.wait(LIMIT_S)

    @answers(server=checks.server_uuid)
    def inspect(self, context: Any, server: str) -> Any:
        self._step("inspect")
        return {
            "host_id": "host-a",
            "policy_sha256": self._policy.sha256.hex(),
            "memory_bytes": 1 << 27,
            "disks": [["vda", 1 << 30]],
            "has_vtpm": True,
            "has_generation_id": True,
            "running": True,
            "obstacles": [],
        }

    @answers(
        clone_id=checks.hex_id,
        server=checks.server_uuid,
        order=checks.base64_text(shapes.MAX_ORDER_BYTES),
    )
    def prepare(self, context: Any, clone_id: str, server: str, order: bytes) -> Any:
        assert self.prepared.setdefault(clone_id, order) == order, "two orders for one clone"
        self._step("prepare")
        return {}

    @answers(orders=checks.many(shapes.placed_order, shapes.MAX_COUNT, 1))
    def clone(self, context: Any, orders: list[dict[str, Any]]) -> Any:
        raw = [row["order"] for row in orders]
        freeze_id = SignedOrder.decode(raw[0]).order().freeze_group.hex()
        assert self.freezes.setdefault(freeze_id, raw) == raw, "two sets of orders for one freeze"
        self._step("clone")
        return {"freeze_id": freeze_id}

    @answers(clone_id=checks.hex_id)
    def status(self, context: Any, clone_id: str) -> Any:
        return {"phase": "fetching"}

    @answers(clone_id=checks.hex_id, reason=checks.reason)
    def end(self, context: Any, clone_id: str, reason: str) -> Any:
        self.ended.append(clone_id)
        return {}

    @answers(freeze_id=checks.hex_id, clone_id=checks.optional(checks.hex_id), reason=checks.reason)
    def abort(self, context: Any, freeze_id: str, clone_id: str | None, reason: str) -> Any:
        return {}


@pytest.fixture(scope="module")
def host(cloud: Cloud, transport: Any) -> Iterator[Host]:
    """A host that answers on the real broker."""
    policy = (cloud.paths.hosts / "operator" / "policy.json").read_bytes()
    made = Host(Policy.parse(policy))
    server = rpc.get_server(messaging.Target(topic=COMPUTE_TOPIC, server=HOST), [made])
    server.start()
    yield made
    made.released.set()
    server.stop()
    server.wait()


@pytest.mark.parametrize("step", ["inspect", "prepare", "clone"])
def test_killed_in_mid_ordering_and_taken_up(
    cloud: Cloud, conductor, forger, host: Host, step: str
):
    service, group, server = (
        cloud.service("trusted-clone-conductor"),
        secrets.token_hex(16),
        str(uuid.uuid4()),
    )
    request = {
        "group": group,
        "source_server": str(uuid.uuid4()),
        "source_host": HOST,
        "count": 1,
        "vtpm": "new",
        "memory": "lazy",
        "name": "killed",
        "project_id": "nobody",
        "user_id": "nobody",
    }
    host.hold(step)
    conductor.begin(forger, request)
    (record,) = conductor.register(forger, group, [{"server": server, "name": "killed"}])
    attempt = conductor.claim(forger, group, server, HOST, "host-b")
    try:
        assert host.reached.wait(LIMIT_S), f"{step} was not asked for: {host.calls}"
        kill(service)
        host.released.set()
        service.start()
        assert process.wait_until(
            lambda: bool(host.freezes) and host.calls.count(step) > 1, LIMIT_S
        )
        conductor.report(forger, attempt, {"phase": "fetching"})
        found = conductor.get(forger, record["id"])
        assert (found["phase"], found["attempt_id"]) == ("fetching", attempt)
        assert list(host.freezes) == [found["freeze_id"]]
        assert list(host.prepared) == [attempt]
        assert host.ended == []
    finally:
        if service.process is None:
            service.start()
        conductor.cancel(forger, group, "the story is over")
    assert process.wait_until(lambda: host.ended == [attempt], LIMIT_S)
