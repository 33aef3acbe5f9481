"""A whole clone in one process: both use cases, from the order to the evidence, and what becomes of it when a part fails."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nova_trusted_clone.clone import outgoing
from nova_trusted_clone.clone.batch import Batch
from nova_trusted_clone.clone.freeze_job import FreezeJob
from nova_trusted_clone.clone.source import FreezeFailed
from nova_trusted_clone.core.protocol.evidence import verify_evidence
from nova_trusted_clone.core.protocol.order import Order
from nova_trusted_clone.hypervisor.fake import FakeHypervisor, FakeServer
from nova_trusted_clone.ports import Frozen, Passphrase, VtpmBlobs
from tests.unit.clone.oneprocess import (
    DISKS,
    MEMORY,
    Cloud,
    clone_identity,
    in_one_process,
)

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with in_one_process(monkeypatch):
        yield


@pytest.fixture
def make_cloud(tmp_path: pathlib.Path) -> Iterator[Callable[..., Cloud]]:
    made: list[Cloud] = []

    def make(**changes: Any) -> Cloud:
        made.append(Cloud(tmp_path, **changes))
        return made[-1]

    yield make
    for cloud in made:
        for side in cloud.sides.values():
            side.destination.close()


def ended(cloud: Cloud, freeze_id: str) -> dict[str, str]:
    """Wait until a freeze is released; each clone's reason by its id, empty for one that is complete."""
    deadline = time.monotonic() + LIMIT_S
    while cloud.left.source.uses(cloud.server_uuid):
        assert time.monotonic() < deadline, cloud.left.source.status(freeze_id)
        time.sleep(0.01)
    clones = cloud.left.source.status(freeze_id)["clones"]
    return {clone["clone_id"]: clone["reason"] for clone in clones}


def wait(cloud: Cloud, order: Order, phase: str) -> dict[str, Any]:
    return cloud.right.destination.wait(order.clone_id.hex(), {phase}, LIMIT_S)


def clone_of(cloud: Cloud, order: Order) -> FakeServer:
    return cloud.right.hypervisor.server(clone_identity(order).uuid)


def vtpm_of(server: FakeServer) -> VtpmBlobs:
    return VtpmBlobs(*(bytes.fromhex(part) for part in server.facts["vtpm"]))


def proven(cloud: Cloud, order: Order) -> dict[str, Any]:
    """What the evidence tells to somebody who trusts the operator's roots alone."""
    path = cloud.right.host.place.clones / order.clone_id.hex() / "evidence.json"
    anchors, policy = cloud.world.authorities.anchors, cloud.world.policy
    verdict, told = verify_evidence(path.read_bytes(), anchors, policy, order.tenant_nonce)
    verdict.require()
    assert told is not None
    return told


@pytest.mark.parametrize("memory", ["lazy", "eager"])
def test_a_clone_has_everything_of_its_source_but_the_identity(
    make_cloud: Callable[..., Cloud], memory: str
) -> None:
    cloud = make_cloud()
    source = cloud.boot()
    order = cloud.order("a", memory_mode=memory)
    freeze = cloud.left.source.clone([cloud.prepare(order)])
    status = wait(cloud, order, "complete")
    assert (status["phase"], status["reason"]) == ("complete", "")
    assert ended(cloud, freeze) == {order.clone_id.hex(): ""}
    clone = clone_of(cloud, order)
    for kind, parts in (("ram", MEMORY), ("disk", DISKS)):
        for name, content in parts.items():
            assert clone.content(kind, name) == content
    assert clone.facts["uuid"] != source.facts["uuid"]
    assert not set(clone.facts["macs"]) & set(source.facts["macs"])
    vtpms = [cloud.left.host.vtpms.shadow(vtpm_of(one)).tpm for one in (source, clone)]
    assert vtpms[0].ak_public() != vtpms[1].ak_public()
    assert source.facts["frozen_by"] is None
    assert proven(cloud, order)["page_key_vouched_by"] == "vtpm"


def test_a_server_is_not_paused_when_its_last_clone_is_aborted_just_before(
    make_cloud: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = make_cloud()
    cloud.boot()
    order = cloud.order("a")
    frozen: list[str] = []

    def abort(job: FreezeJob) -> None:
        job.abort(order.clone_id.hex(), "by the tenant")

    def freeze(_own: FakeHypervisor, server_uuid: str, *_paths: pathlib.Path) -> Frozen:
        frozen.append(server_uuid)
        raise AssertionError("the server was paused for nobody")

    monkeypatch.setattr(FreezeJob, "_early", abort)
    monkeypatch.setattr(FakeHypervisor, "freeze", freeze)
    found = ended(cloud, cloud.left.source.clone([cloud.prepare(order)]))
    assert found == {order.clone_id.hex(): "by the tenant"}
    assert frozen == []


def test_siblings_succeed_or_fail_alone(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    source = cloud.boot()
    good, bad = cloud.order("good"), cloud.order("bad")
    wanted = [cloud.prepare(good), (cloud.prepare(bad)[0], "a host that is not there")]
    found = ended(cloud, cloud.left.source.clone(wanted))
    assert found[good.clone_id.hex()] == ""
    assert "no route to a host that is not there" in found[bad.clone_id.hex()]
    assert clone_of(cloud, good).content("ram", "pc.ram") == MEMORY["pc.ram"]
    assert source.facts["frozen_by"] is None


def test_a_sibling_that_was_refused_before_the_freeze_ends_nothing(
    make_cloud: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end may be told just when the freeze of the others begins, before any of them is let in."""
    cloud = make_cloud()
    cloud.boot()
    order, admit = cloud.order("a"), Batch.admit

    def told_first(batch: Batch, *admitted: Any) -> None:
        cloud.left.source.abort(order.freeze_group.hex(), "ab" * 16, "its host is full")
        admit(batch, *admitted)

    monkeypatch.setattr(Batch, "admit", told_first)
    freeze = cloud.left.source.clone([cloud.prepare(order)])
    assert ended(cloud, freeze) == {order.clone_id.hex(): ""}


@pytest.mark.parametrize(("takes_turns", "reason"), [(True, ""), (False, "frozen already")])
def test_a_freeze_may_wait_until_the_one_before_it_has_ended(
    make_cloud: Callable[..., Cloud], takes_turns: bool, reason: str
) -> None:
    """A server has one at a time; a clone that is late does not end for that where it takes its turn."""
    cloud = make_cloud()
    source = cloud.boot()
    held, go = threading.Event(), threading.Event()

    def hold(data: bytes) -> bytes:
        if source.facts["frozen_by"] is not None and not held.is_set():
            held.set()
            assert go.wait(LIMIT_S)
        return data

    cloud.tamper = hold
    early, late = cloud.order("early"), cloud.order("late", freeze_group=b"late" * 4)
    first = cloud.left.source.clone([cloud.prepare(early)])
    assert held.wait(LIMIT_S)
    second = cloud.left.source.clone([cloud.prepare(late)], takes_turns=takes_turns)
    if takes_turns:
        assert cloud.left.source.status(second)["phase"] == "starting"
    else:
        wait(cloud, late, "failed")
    go.set()
    assert ended(cloud, first) == {early.clone_id.hex(): ""}
    (told,) = ended(cloud, second).values()
    assert reason in told and bool(told) == bool(reason)
    assert source.facts["frozen_by"] is None


def test_each_phase_is_told_in_order(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    cloud.boot()
    cloud.right.destination.start_watching()
    order = cloud.order("a")
    cloud.left.source.clone([cloud.prepare(order)])
    assert wait(cloud, order, "complete")["phase"] == "complete"
    assert cloud.right.destination.finish(clone_identity(order).uuid, LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while not (cloud.right.news and cloud.right.news[-1]["settled"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [status["phase"] for status in cloud.right.news] == [
        "attesting",
        "fetching",
        "restoring",
        "provisional",
        "complete",
        "complete",
    ]


def test_a_message_that_was_changed_on_the_way_ends_the_clone_and_frees_the_server(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud()
    source = cloud.boot()
    cloud.tamper = lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]
    order = cloud.order("a")
    (reason,) = ended(cloud, cloud.left.source.clone([cloud.prepare(order)])).values()
    assert reason.startswith("the destination: ")
    assert wait(cloud, order, "failed")["phase"] == "failed"
    assert not cloud.right.hypervisor.exists(clone_identity(order).uuid, pathlib.Path())
    assert source.facts["frozen_by"] is None


def test_state_under_a_passphrase_vouches_and_the_clones_is_under_its_own(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud(allow_without_vtpm=False)
    ours, theirs = Passphrase(b"of the source"), Passphrase(b"of the clone")
    cloud.left.secrets["ours"], cloud.right.secrets["theirs"] = ours, theirs
    cloud.boot("ours")
    order = cloud.order("a")
    freeze = cloud.left.source.clone([cloud.prepare(order, "theirs")])
    assert ended(cloud, freeze) == {order.clone_id.hex(): ""}
    clone = clone_of(cloud, order)
    assert clone.facts["vtpm_secret"] == "theirs"
    assert cloud.right.host.vtpms.shadow(vtpm_of(clone), theirs).tpm.read_pcrs([1])
    kept = [
        path.read_bytes()
        for side in cloud.sides.values()
        for path in side.host.place.state_path.rglob("*")
        if path.is_file()
    ]
    assert not any(secret.value in content for content in kept for secret in (ours, theirs))


def test_a_vtpm_is_derived_from_state_under_a_passphrase(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud(allow_vtpm_derive=True)
    cloud.left.secrets["ours"] = Passphrase(b"of the source")
    cloud.right.secrets["theirs"] = Passphrase(b"of the clone")
    source = cloud.boot("ours")
    order = cloud.order("a", vtpm_mode="derive")
    freeze = cloud.left.source.clone([cloud.prepare(order, "theirs")])
    assert ended(cloud, freeze) == {order.clone_id.hex(): ""}
    was = cloud.left.host.vtpms.shadow(vtpm_of(source), cloud.left.secrets["ours"]).tpm
    now = cloud.right.host.vtpms.shadow(
        vtpm_of(clone_of(cloud, order)), cloud.right.secrets["theirs"]
    ).tpm
    assert now.read_pcrs(range(8)) == was.read_pcrs(range(8))
    assert now.ak_public() != was.ak_public()


def test_without_the_sources_passphrase_nothing_is_frozen(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud(allow_without_vtpm=False)
    cloud.left.secrets["ours"] = Passphrase(b"of the source")
    cloud.boot("ours")
    cloud.left.secrets.clear()
    order = cloud.order("a")
    (reason,) = ended(cloud, cloud.left.source.clone([cloud.prepare(order)])).values()
    assert "secret ours cannot be read" in reason
    assert cloud.left.source.status(order.freeze_group.hex())["pause_us"] == 0


def test_without_it_the_host_vouches_where_the_policy_lets_it(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud(allow_without_vtpm=True)
    cloud.left.secrets["ours"] = Passphrase(b"of the source")
    cloud.boot("ours")
    cloud.left.secrets.clear()
    order = cloud.order("a")
    freeze = cloud.left.source.clone([cloud.prepare(order)])
    assert ended(cloud, freeze) == {order.clone_id.hex(): ""}
    assert proven(cloud, order)["page_key_vouched_by"] == "host"


def test_without_the_clones_passphrase_the_clone_ends_with_the_reason(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud()
    cloud.boot()
    order = cloud.order("a")
    (reason,) = ended(cloud, cloud.left.source.clone([cloud.prepare(order, "theirs")])).values()
    assert "secret theirs cannot be read" in reason


def test_a_server_that_is_needed_is_let_go_within_the_limit(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud()
    source = cloud.boot()
    cloud.tamper = lambda data: time.sleep(0.5) or data
    order = cloud.order("a")
    freeze = cloud.left.source.clone([cloud.prepare(order)])
    assert cloud.left.source.uses(cloud.server_uuid) == [freeze]
    cloud.left.source.end_all(cloud.server_uuid, 0.1, "the server is being deleted")
    assert cloud.left.source.uses(cloud.server_uuid) == []
    assert source.facts["frozen_by"] is None
    assert ended(cloud, freeze) == {order.clone_id.hex(): "the server is being deleted"}
    with pytest.raises(FreezeFailed, match="used before"):
        cloud.left.source.clone([(cloud.world.authorities.sign(order).encode(), "right")])


def test_an_answer_that_is_lost_on_its_way_keeps_no_server_frozen(
    make_cloud: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network went away between a question and its answer: nothing tells who waits for it that none will come."""
    monkeypatch.setattr(outgoing, "STATUS_LIMIT_S", 0.1)
    cloud = make_cloud()
    source = cloud.boot()
    cloud.mute = {"status"}
    order = cloud.order("a")
    told = ended(cloud, cloud.left.source.clone([cloud.prepare(order)]))
    assert "has not answered for" in told[order.clone_id.hex()]
    assert source.facts["frozen_by"] is None


def test_a_clone_whose_server_is_deleted_leaves_nothing(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    cloud.boot()
    order = cloud.order("a")
    ended(cloud, cloud.left.source.clone([cloud.prepare(order)]))
    identity = clone_identity(order)
    assert cloud.right.destination.of_server(identity.uuid) is not None
    cloud.right.destination.forget(identity.uuid, "deleted")
    assert cloud.right.destination.of_server(identity.uuid) is None
    assert list(cloud.right.host.place.clones.iterdir()) == []
    cloud.right.destination.forget(identity.uuid, "deleted")
