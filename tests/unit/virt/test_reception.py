"""A clone that spawn() waits for: claim and order may come in either order, and an end comes from anywhere."""

from __future__ import annotations

import threading

import pytest

from nova_trusted_clone.ports import Identity
from nova_trusted_clone.rpc.errors import Conflict, Refused
from nova_trusted_clone.virt import reception
from nova_trusted_clone.virt.reception import CloneEnded, Ending, Mismatch, Reception, Receptions

SERVER = "b5b0a1f4-52a5-4a3a-9d0e-5f8c2f3c0001"
CLONE, OTHER = "0" * 31 + "1", "0" * 31 + "2"
IDENTITY = Identity("instance-00000001", SERVER, ())
ABORTED = Ending("the source was deleted", "trusted-clone.aborted")


class Engine:
    """Prepares a clone once; says the id that the order really names."""

    def __init__(self, names: str = CLONE) -> None:
        self.names = names
        self.orders: list[tuple[bytes, Identity]] = []

    def prepare(self, order: bytes, identity: Identity) -> str:
        self.orders.append((order, identity))
        return self.names


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def awaited(engine: Engine) -> Reception:
    return Reception(IDENTITY, engine.prepare)


def nothing() -> None:
    """The server is still wanted."""


def test_the_order_reaches_the_engine_with_the_identity_that_nova_decided(
    awaited: Reception, engine: Engine
) -> None:
    awaited.claim(CLONE)
    awaited.accept(CLONE, b"order")
    assert awaited.wait_for_order(5, nothing) == CLONE
    assert engine.orders == [(b"order", IDENTITY)]


def test_an_order_may_come_before_the_answer_to_the_claim(awaited: Reception) -> None:
    awaited.accept(CLONE, b"order")
    awaited.claim(CLONE)
    assert awaited.wait_for_order(5, nothing) == CLONE


def test_the_same_order_twice_is_one(awaited: Reception, engine: Engine) -> None:
    awaited.accept(CLONE, b"order")
    awaited.accept(CLONE, b"order")
    assert len(engine.orders) == 1


def test_an_order_for_another_attempt_is_told(awaited: Reception, engine: Engine) -> None:
    awaited.claim(CLONE)
    with pytest.raises(Mismatch, match=f"clone {CLONE} is awaited here, not {OTHER}"):
        awaited.accept(OTHER, b"order")
    assert engine.orders == []


def test_what_the_signed_order_names_counts(awaited: Reception, engine: Engine) -> None:
    engine.names = OTHER
    with pytest.raises(Mismatch, match=f"the order is for clone {OTHER}"):
        awaited.accept(CLONE, b"order")


def test_an_end_wakes_the_one_who_waits(awaited: Reception) -> None:
    awaited.claim(CLONE)
    threading.Timer(0.05, awaited.end, [ABORTED]).start()
    with pytest.raises(CloneEnded, match="the source was deleted") as raised:
        awaited.wait_for_order(5, nothing)
    assert raised.value.ending == ABORTED


def test_nothing_is_accepted_after_the_end(awaited: Reception, engine: Engine) -> None:
    awaited.end(ABORTED)
    with pytest.raises(CloneEnded):
        awaited.accept(CLONE, b"order")
    assert engine.orders == []


def test_the_first_reason_stays(awaited: Reception) -> None:
    awaited.end(ABORTED)
    awaited.end(Ending("later", "later"))
    with pytest.raises(CloneEnded, match="the source was deleted"):
        awaited.wait_for_order(5, nothing)


def test_no_order_is_a_reason_too(awaited: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "LOOK_S", 0.01)
    with pytest.raises(CloneEnded, match="no order for this clone came within 0 s") as raised:
        awaited.wait_for_order(0, nothing)
    assert raised.value.ending.code == "trusted-clone.order.missing"


def test_a_server_that_is_not_wanted_any_more_ends_the_wait(
    awaited: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "LOOK_S", 0.01)
    looks: list[int] = []

    def deleted_at_the_third_look() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise KeyError(SERVER)

    with pytest.raises(KeyError):
        awaited.wait_for_order(5, deleted_at_the_third_look)


def test_receptions_are_found_by_server_and_by_clone(awaited: Reception, engine: Engine) -> None:
    all_of_them = Receptions()
    all_of_them.add(awaited)
    assert all_of_them.of_server(SERVER) is awaited
    assert all_of_them.of_clone(CLONE) is None
    awaited.claim(CLONE)
    assert all_of_them.of_clone(CLONE) is awaited
    all_of_them.remove(Reception(IDENTITY, engine.prepare))  # another attempt's does not count
    assert all_of_them.of_server(SERVER) is awaited
    all_of_them.remove(awaited)
    assert all_of_them.of_server(SERVER) is None


def test_a_host_that_is_not_enrolled_leaves_the_clone_to_another() -> None:
    ending = reception.unclaimed(
        Refused("host host-b is not enrolled", "trusted-clone.order.host-not-enrolled")
    )
    assert ending.refused_here
    assert ending.code == "trusted-clone.order.host-not-enrolled"


def test_a_clone_that_has_ended_is_no_other_hosts_either() -> None:
    assert not reception.unclaimed(Conflict("the clone is aborted")).refused_here
