"""Nova's other operations on a server that gives or receives a clone."""

from __future__ import annotations

from typing import Any

import pytest

from nova_trusted_clone.virt import protect
from nova_trusted_clone.virt.protect import Busy, Need, Protection

SERVER, CLONE = "b5b0a1f4-52a5-4a3a-9d0e-5f8c2f3c0001", "1" * 32


class Source:
    """Freezes that end by themselves after some looks, or never."""

    def __init__(self, looks: int = 0) -> None:
        self.looks = looks
        self.ended: list[tuple[float, str]] = []

    def uses(self, server_uuid: str) -> list[str]:
        self.looks -= 1
        return ["f" * 32] if self.looks >= 0 else []

    def end_all(self, server_uuid: str, wait_s: float, reason: str) -> None:
        self.ended.append((wait_s, reason))
        self.looks = 0


class Destination:
    """One clone."""

    def __init__(self, phase: str | None = None, finishes: bool = False) -> None:
        self.phase, self.finishes = phase, finishes
        self.waited: list[float] = []
        self.ended: list[tuple[str, str]] = []

    def of_server(self, server_uuid: str) -> dict[str, Any] | None:
        return {"clone_id": CLONE, "phase": self.phase} if self.phase else None

    def finish(self, server_uuid: str, wait_s: float) -> bool:
        self.waited.append(wait_s)
        return self.finishes

    def end(self, clone_id: str, reason: str) -> None:
        self.ended.append((clone_id, reason))


class World:
    """Both, and what was told of ends to come."""

    def __init__(
        self, source: Source | None = None, destination: Destination | None = None
    ) -> None:
        self.source, self.destination = source or Source(), destination or Destination()
        self.expected: list[str] = []
        self.ways = Protection(self.source, self.destination, self.expected.append, 30)

    def before(self, need: Need, operation: str = "a reboot") -> None:
        self.ways.before(SERVER, need, operation)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "POLL_S", 0.001)


@pytest.mark.parametrize("need", list(Need))
def test_an_ordinary_server_is_in_nobodys_way(need: Need) -> None:
    world = World()
    world.before(need)
    assert not (world.source.ended or world.destination.waited or world.destination.ended)


@pytest.mark.parametrize("need", [Need.DESTROYS, Need.DISRUPTS])
def test_a_source_waits_within_the_limit_and_then_ends_its_clones_with_the_reason(
    need: Need,
) -> None:
    world = World(Source(looks=10**6))
    world.before(need, "a stop")
    assert world.source.ended == [(30, "a stop of the source server")]


def test_a_device_is_attached_to_a_source_when_its_clones_are_complete() -> None:
    world = World(Source(looks=5))
    world.before(Need.CHANGES)
    assert world.source.ended == []


def test_clones_do_not_end_for_a_device() -> None:
    world = World(Source(looks=10**6))
    world.ways = Protection(world.source, world.destination, world.expected.append, 0.01)
    with pytest.raises(Busy, match="being cloned; attaching a volume is possible when"):
        world.before(Need.CHANGES, "attaching a volume")
    assert world.source.ended == []


@pytest.mark.parametrize("phase", ["fetching", "restoring", "provisional"])
def test_a_clone_that_fetches_is_deleted_at_once(phase: str) -> None:
    world = World(destination=Destination(phase))
    world.before(Need.DESTROYS)
    assert world.destination.ended == [(CLONE, "the server was deleted")]
    assert world.expected == [CLONE]  # so that its end does not become an error of the server
    assert world.destination.waited == []


@pytest.mark.parametrize("need", [Need.DISRUPTS, Need.CHANGES])
def test_anything_else_waits_until_the_clone_is_complete(need: Need) -> None:
    world = World(destination=Destination("provisional", finishes=True))
    world.before(need)
    assert world.destination.waited == [30]
    assert world.destination.ended == []


@pytest.mark.parametrize("need", [Need.DISRUPTS, Need.CHANGES])
def test_a_clone_is_never_ended_for_a_reboot(need: Need) -> None:
    world = World(destination=Destination("provisional", finishes=False))
    with pytest.raises(Busy, match="still fetches from its source; a reboot is possible when"):
        world.before(need)
    assert world.destination.ended == []


def test_a_complete_clone_whose_disks_are_not_its_own_yet_does_not_claim_to_fetch() -> None:
    world = World(destination=Destination("complete", finishes=False))
    with pytest.raises(Busy, match="disks are being made its own; a reboot is possible in a"):
        world.before(Need.DISRUPTS)


def test_a_complete_clone_is_deleted_like_any_server() -> None:
    world = World(destination=Destination("complete"))
    world.before(Need.DESTROYS)
    assert world.destination.ended == []


@pytest.mark.parametrize("need", list(Need))
def test_a_failed_clone_holds_up_nothing(need: Need) -> None:
    world = World(destination=Destination("failed"))
    world.before(need)
    assert not (world.destination.ended or world.destination.waited)
