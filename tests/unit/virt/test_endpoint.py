"""What comes over the broker to a nova-compute: checked, done once, and answered with one of five errors."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from nova_trusted_clone.clone.incoming import Rejected
from nova_trusted_clone.ports import Identity, PeerRefused, PeerUnreachable
from nova_trusted_clone.rpc import COMPUTE_TOPIC
from nova_trusted_clone.rpc.compute import ComputeAPI
from nova_trusted_clone.rpc.errors import Conflict, Invalid, NotFound, Refused
from nova_trusted_clone.virt import endpoint as module
from nova_trusted_clone.virt.endpoint import ComputeEndpoint
from nova_trusted_clone.virt.peers import RpcPeer
from nova_trusted_clone.virt.reception import CloneEnded, Reception, Receptions
from tests.unit.rpc.broker import broker, context, serving
from tests.unit.virt.fakes import CLONE, FREEZE, SERVER, Engine, Service

HOST, ORDER = "compute-1", b"a signed order"
BULK = {"address": "192.0.2.1", "port": 49300}


class World:
    """A nova-compute behind a broker."""

    def __init__(self, endpoint: ComputeEndpoint) -> None:
        self.engine, self.receptions = Engine(), Receptions()
        self.orders: list[bytes] = []
        self.rejects: Rejected | None = None
        self.api = ComputeAPI()
        self.endpoint = endpoint
        endpoint.__init__(Service(self.engine), self.receptions)  # type: ignore[misc, arg-type]

    def await_clone(self) -> Reception:
        reception = Reception(Identity("instance-1", SERVER, ()), self._prepare)
        self.receptions.add(reception)
        return reception

    def _prepare(self, order: bytes, identity: Identity) -> str:
        if self.rejects:
            raise self.rejects
        self.orders.append(order)
        return CLONE

    def peer(self) -> RpcPeer:
        return RpcPeer(HOST, 5)


@pytest.fixture(scope="module")
def served() -> Iterator[ComputeEndpoint]:
    """One server for all of this: it takes oslo.messaging a second to stop one."""
    endpoint = ComputeEndpoint(Service(Engine()), Receptions())  # type: ignore[arg-type]
    with broker() as transport, serving(transport, COMPUTE_TOPIC, HOST, endpoint):
        yield endpoint


@pytest.fixture
def world(served: ComputeEndpoint) -> World:
    return World(served)


def test_an_order_finds_the_one_who_waits_for_it(world: World) -> None:
    reception = world.await_clone()
    world.api.prepare(context(), HOST, CLONE, SERVER, ORDER)
    world.api.prepare(context(), HOST, CLONE, SERVER, ORDER)
    assert world.orders == [ORDER]
    assert reception.wait_for_order(1, lambda: None) == CLONE


def test_an_order_that_nobody_waits_for_is_told(world: World) -> None:
    with pytest.raises(NotFound, match=f"no clone is awaited here for server {SERVER}"):
        world.api.prepare(context(), HOST, CLONE, SERVER, ORDER)


def test_an_order_comes_again_after_the_server_runs(world: World) -> None:
    world.engine.destination.put("provisional")
    world.api.prepare(context(), HOST, CLONE, SERVER, ORDER)


def test_a_host_that_rejects_an_order_leaves_the_clone_to_another(world: World) -> None:
    reception = world.await_clone()
    world.rejects = Rejected("this host receives 8 clones already, its limit")
    with pytest.raises(Refused, match="8 clones already"):
        world.api.prepare(context(), HOST, CLONE, SERVER, ORDER)
    with pytest.raises(CloneEnded) as ended:
        reception.wait_for_order(1, lambda: None)
    assert ended.value.ending.refused_here


def test_a_clone_without_order_can_be_ended(world: World) -> None:
    reception = world.await_clone()
    reception.claim(CLONE)
    world.api.end(context(), HOST, CLONE, "the source is stopped")
    with pytest.raises(CloneEnded, match="the source is stopped") as ended:
        reception.wait_for_order(1, lambda: None)
    assert not ended.value.ending.refused_here


def test_a_clone_that_is_received_can_be_ended(world: World) -> None:
    world.engine.destination.put("fetching")
    world.api.end(context(), HOST, CLONE, "aborted")
    assert world.engine.destination.asked == [("end", CLONE, "aborted", "")]


def test_nothing_else_can_be_ended(world: World) -> None:
    with pytest.raises(NotFound):
        world.api.end(context(), HOST, CLONE, "aborted")


def test_a_claimed_clone_has_a_status_before_its_order(world: World) -> None:
    with pytest.raises(NotFound):
        world.api.status(context(), HOST, CLONE)
    world.await_clone().claim(CLONE)
    assert world.api.status(context(), HOST, CLONE)["phase"] == "claimed"
    world.engine.destination.put("fetching")
    assert world.api.status(context(), HOST, CLONE)["phase"] == "fetching"


def test_a_freeze_is_started_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_freeze_of", lambda order: FREEZE)
    orders = [(ORDER, "compute-2"), (b"another", "compute-3")]
    assert world.api.clone(context(), HOST, orders) == FREEZE
    assert world.api.clone(context(), HOST, orders) == FREEZE
    assert world.engine.source.started == [orders]
    world.api.abort(context(), HOST, FREEZE, None, "the tenant wants it so")
    assert world.engine.source.aborted == [(FREEZE, None, "the tenant wants it so")]


def test_a_freeze_of_an_order_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(Refused):
        world.api.clone(context(), HOST, [(b"no order", "compute-2")])
    assert world.engine.source.started == []


def test_a_freeze_that_is_not_there_cannot_be_aborted(world: World) -> None:
    with pytest.raises(Conflict, match="no freeze"):
        world.api.abort(context(), HOST, FREEZE, None, "x")


def test_a_host_that_cannot_clone_says_why(world: World) -> None:
    why = Conflict("host compute-1 cannot clone: its TPM does not answer")
    world.endpoint._service = Service(world.engine, why)  # type: ignore[assignment]
    with pytest.raises(Conflict, match="its TPM does not answer"):
        world.api.inspect(context(), HOST, SERVER)


# -- the engines' conversation ----------------------------------------------------------------------------------------


def test_a_handshake_message_goes_through_the_broker_as_it_is(world: World) -> None:
    data = bytes(range(256)) * 16
    world.engine.destination.answer = data[::-1]
    reply = world.peer().call("message", clone_id=CLONE, data=data, bulk=BULK)
    assert reply == {"data": data[::-1]}
    assert world.engine.destination.asked == [("message", CLONE, data, BULK)]


def test_a_peer_asks_for_early_disks_for_the_status_and_for_the_end(world: World) -> None:
    world.engine.destination.put("fetching", fetched=True)
    peer = world.peer()
    peer.call("early", clone_id=CLONE, disks=["vda"], bulk=BULK)
    assert peer.call("status", clone_id=CLONE)["fetched"] is True
    peer.call("end", clone_id=CLONE, reason="pcr 4", code="trusted-clone.host.refused")
    assert world.engine.destination.asked == [
        ("early", CLONE, ["vda"], BULK),
        ("end", CLONE, "ended by the source: pcr 4", "trusted-clone.host.refused"),
    ]


def test_a_destination_s_reason_comes_back(world: World) -> None:
    world.engine.destination.answer = Rejected("refused: trusted-clone.quote.stale")
    with pytest.raises(PeerRefused, match="quote"):
        world.peer().call("message", clone_id=CLONE, data=b"x")


def test_a_host_that_does_not_answer_is_asked_again_later(world: World) -> None:
    with pytest.raises(PeerUnreachable, match="no answer within"):
        RpcPeer("compute-9", 0.1).call("status", clone_id=CLONE)


@pytest.mark.parametrize(
    ("operation", "arguments", "field"),
    [
        ("restore", {}, "operation"),
        ("message", {}, "message.data"),
        ("message", {"data": "no base64!"}, "message.data"),
        ("message", {"data": "", "bulk": {}}, "message"),
        ("message", {"data": "eA==", "bulk": {"address": "a", "port": 0}}, "bulk.port"),
        ("message", {"data": "eA==", "path": "/etc/shadow"}, "path"),
        ("early", {"disks": [], "bulk": BULK}, "disks"),
        ("early", {"disks": ["a" * 17], "bulk": BULK}, r"disks\[0\]"),
        ("early", {"disks": ["vda"]}, "bulk"),
        ("end", {}, "reason"),
    ],
)
def test_a_forged_call_is_told_by_its_field(
    world: World, operation: str, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid, match=field):
        world.api.peer(context(), HOST, CLONE, operation, arguments)
    assert world.engine.destination.asked == []


@pytest.mark.parametrize("clone_id", ["../../etc", "C" * 32, "c" * 31, ""])
def test_only_an_id_is_an_id(world: World, clone_id: str) -> None:
    with pytest.raises(Invalid, match="clone_id"):
        world.api.status(context(), HOST, clone_id)


def test_a_message_is_one_megabyte_at_most(world: World) -> None:
    large = base64.b64encode(bytes((1 << 20) + 1)).decode()
    with pytest.raises(Invalid, match=r"message\.data"):
        world.api.peer(context(), HOST, CLONE, "message", {"data": large})


def test_an_answer_is_waited_for_no_longer_than_asked_nor_than_a_message_may_take() -> None:
    waited: dict[str, float] = {}

    class Api:
        def peer(
            self,
            _context: object,
            _host: str,
            _clone: str,
            operation: str,
            _arguments: object,
            *,
            timeout_s: float,
        ) -> dict[str, object]:
            waited[operation] = timeout_s
            return {}

    for timeout_s in (60, 3):
        peer = RpcPeer(HOST, timeout_s, Api())  # type: ignore[arg-type]
        peer.call("status", limit_s=5, clone_id=CLONE)
        peer.call("message", clone_id=CLONE, data=b"")
        assert waited == {"status": min(timeout_s, 5), "message": timeout_s}
