"""Calls between services over oslo.messaging, with a broker that nobody trusts."""

import base64

import oslo_messaging as messaging
import pytest

from nova_trusted_clone.rpc import COMPUTE_TOPIC, CONDUCTOR_TOPIC, checks, errors, shapes
from nova_trusted_clone.rpc.client import insist
from nova_trusted_clone.rpc.compute import ComputeAPI
from nova_trusted_clone.rpc.conductor import ConductorAPI
from nova_trusted_clone.rpc.endpoint import answers
from tests.unit.rpc.broker import broker, context, serving

CLONE = "ab" * 16
SERVER = "5d4cf5ac-3d6b-4b1b-9d3a-0d4c7ce2d5a1"
INSPECTION = {
    "host_id": "compute-1",
    "policy_sha256": "00" * 32,
    "memory_bytes": 1 << 30,
    "disks": [["vda", 1 << 20]],
    "has_vtpm": True,
    "has_generation_id": True,
    "running": True,
    "obstacles": [],
}


class Compute:
    """A compute's endpoint that remembers what it was told."""

    target = messaging.Target(version="1.0")

    def __init__(self):
        self.seen = []

    @answers(server=checks.server_uuid)
    def inspect(self, context, server):
        self.seen.append((context.project_id, server))
        return INSPECTION

    @answers(
        clone_id=checks.hex_id,
        server=checks.server_uuid,
        order=checks.base64_text(shapes.MAX_ORDER_BYTES),
    )
    def prepare(self, context, clone_id, server, order):
        self.seen.append((clone_id, server, order))
        return {}

    @answers(clone_id=checks.hex_id, reason=checks.reason)
    def end(self, context, clone_id, reason):
        raise errors.NotFound(f"no clone {clone_id}", "trusted-clone.clone.unknown")

    @answers(clone_id=checks.hex_id)
    def status(self, context, clone_id):
        raise KeyError("a fault of ours")

    def clone(self, context, orders):
        return {"freeze_id": "not an id"}

    def abort(self, context, freeze_id, clone_id, reason):
        return "nonsense"


@pytest.fixture(scope="module")
def answering():
    endpoint = Compute()
    with broker() as transport, serving(transport, COMPUTE_TOPIC, "host-1", endpoint):
        yield endpoint


@pytest.fixture
def compute(answering):
    answering.seen.clear()
    return answering


def test_an_inspection_comes_back_checked_and_the_tenants_context_goes_along(compute):
    found = ComputeAPI().inspect(context(project_id="tenant"), "host-1", SERVER)
    assert found["disks"] == [("vda", 1 << 20)]
    assert compute.seen == [("tenant", SERVER)]


def test_bytes_travel_as_base64_and_arrive_as_bytes(compute):
    ComputeAPI().prepare(context(), "host-1", CLONE, SERVER, b"\x00an order\xff")
    assert compute.seen == [(CLONE, SERVER, b"\x00an order\xff")]


def test_an_error_arrives_as_what_it_was_though_nova_allows_no_module_of_ours(compute):
    with pytest.raises(errors.NotFound, match="no clone") as caught:
        ComputeAPI().end(context(), "host-1", CLONE, "enough")
    assert caught.value.code == "trusted-clone.clone.unknown"


def test_a_fault_at_the_other_side_is_no_answer(compute):
    with pytest.raises(errors.Unavailable, match="status on host-1"):
        ComputeAPI().status(context(), "host-1", CLONE)


@pytest.mark.parametrize("call", ["clone", "abort"])
def test_a_reply_that_is_not_what_it_should_be_is_no_answer(compute, call):
    api = ComputeAPI()
    with pytest.raises(errors.Unavailable) as caught:
        if call == "clone":
            api.clone(context(), "host-1", [(b"order", "host-2")])
        else:
            api.abort(context(), "host-1", CLONE, None, "enough")
    assert caught.value.code == "trusted-clone.rpc.malformed-reply"


def test_nobody_there_is_unavailable_within_the_time(monkeypatch):
    monkeypatch.setattr("nova_trusted_clone.rpc.compute.INSPECT_S", 0.2)
    with broker(), pytest.raises(errors.Unavailable, match="no answer within") as caught:
        ComputeAPI().inspect(context(), "host-9", SERVER)
    assert caught.value.code == "trusted-clone.rpc.timeout"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"clone_id": "AB" * 16}, "prepare.clone_id"),
        ({"clone_id": ["ab" * 16]}, "prepare.clone_id"),
        ({"server": "../etc/passwd"}, "prepare.server"),
        ({"server": None}, "prepare.server"),
        ({"order": "%%%"}, "prepare.order"),
        ({"order": base64.b64encode(b"x" * 70_000).decode()}, "prepare.order"),
        ({"order": ""}, "prepare.order"),
        ({"surprise": 1}, "prepare.surprise"),
    ],
)
def test_a_malformed_message_is_told_by_its_field_and_nothing_happens(compute, arguments, told):
    good = {"clone_id": CLONE, "server": SERVER, "order": base64.b64encode(b"o").decode()}
    reply = compute.prepare(context(), **{**good, **arguments})
    assert reply["error"]["kind"] == "invalid"
    assert told in reply["error"]["text"]
    assert compute.seen == []


def test_a_missing_argument_is_told_by_its_name(compute):
    reply = compute.prepare(context(), clone_id=CLONE, server=SERVER)
    assert "prepare.order" in reply["error"]["text"]


class AwayAtFirst:
    """A conductor that does not answer the first two times."""

    target = messaging.Target(version="1.0")

    def __init__(self):
        self.calls = 0

    @answers(
        group=checks.hex_id, server=checks.server_uuid, host=checks.host, host_id=checks.host_id
    )
    def claim(self, context, group, server, host, host_id):
        self.calls += 1
        if self.calls < 3:
            raise errors.Unavailable("the database is away")
        return {"clone_id": CLONE}


def test_a_claim_gets_through_a_restart(monkeypatch):
    monkeypatch.setattr("nova_trusted_clone.rpc.client.RETRY_PAUSE_S", 0.01)
    endpoint = AwayAtFirst()
    with broker() as transport, serving(transport, CONDUCTOR_TOPIC, "any", endpoint):
        found = ConductorAPI().claim(context(), "cd" * 16, SERVER, "host-1", "compute-1")
    assert (found, endpoint.calls) == (CLONE, 3)


def test_insisting_ends_with_the_last_reason(monkeypatch):
    monkeypatch.setattr("nova_trusted_clone.rpc.client.RETRY_PAUSE_S", 0.02)

    def never():
        raise errors.Unavailable("away")

    with pytest.raises(errors.Unavailable, match="away"):
        insist(never, limit_s=0.05)


def test_what_is_refused_is_not_repeated():
    calls = []

    def refused():
        calls.append(1)
        raise errors.Refused("no")

    with pytest.raises(errors.Refused):
        insist(refused, limit_s=10)
    assert calls == [1]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "text",
        {},
        {"kind": "surprise", "code": "c", "text": "t"},
        {"kind": 1, "code": "c", "text": "t"},
    ],
)
def test_an_error_that_cannot_be_read_is_no_answer(raw):
    assert errors.from_reply(raw).code == "trusted-clone.rpc.malformed-reply"


@pytest.mark.parametrize("kind", errors.KINDS.values())
def test_every_kind_of_error_comes_back_as_it_went(kind):
    told = errors.from_reply(errors.to_reply(kind("why", "trusted-clone.some.code"))["error"])
    assert type(told) is kind
    assert (told.text, told.code) == ("why", "trusted-clone.some.code")
