"""What a destination's service finds at its start: taken back, left alone, never lost."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from typing import Any

import pytest

from nova_trusted_clone.clone import records
from nova_trusted_clone.clone.destination import Destination
from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.clone.host import Limits, Place
from nova_trusted_clone.clone.incoming import Incoming
from nova_trusted_clone.clone.kept import Phase, Rejected, identity_from_record, identity_to_record
from nova_trusted_clone.core.protocol.order import Order, SignedOrder
from nova_trusted_clone.ports import HostSide, Identity, NicIdentity

CLONE = "ab" * 16


class Hypervisor:
    """Removes a clone only when it was asked so often."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.destroyed = 0
        self.settled = 0
        self.running = False
        self.ends_while_settling = False

    def destroy(self, server_uuid: str, directory: pathlib.Path) -> None:
        self.destroyed += 1
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("the hypervisor does not answer")

    def exists(self, server_uuid: str, directory: pathlib.Path) -> bool:
        return self.running

    def settle(self, identity: Identity, directory: pathlib.Path) -> None:
        self.settled += 1
        if self.ends_while_settling:
            self.running = False
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("an image is in use")


@dataclasses.dataclass
class Parts:
    """The parts of a host that these stories need."""

    place: Place
    destination: Hypervisor
    limits: Limits = dataclasses.field(default_factory=Limits)

    def quote(self, *_: Any) -> Any:
        raise AssertionError("nothing is quoted here")


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Any:
    place = Place(tmp_path, "test:///default", "127.0.0.1", 1, 2)
    place.make()
    return Parts(place, Hypervisor())


def clone_of(host: Any) -> Incoming:
    directory = host.place.clones / CLONE
    directory.mkdir()
    order = Order(
        version=1,
        clone_id=bytes.fromhex(CLONE),
        freeze_group=bytes(16),
        project_id="p",
        user_id="u",
        source_server=bytes(16),
        destination_server=bytes(16),
        source_host="a",
        destination_host="b",
        source_ak_name=bytes(34),
        destination_ak_name=bytes(34),
        disks=(),
        memory_bytes=1 << 20,
        policy_sha256=bytes(32),
        vtpm_mode="new",
        memory_mode="lazy",
        tenant_nonce=bytes(32),
        issued_at=1,
        expires_at=2,
    )
    identity = Identity("clone", "00000000-0000-0000-0000-000000000000", ())
    signed = SignedOrder(order.encode(), b"signature", (bytes(64),))
    return Incoming(host, directory, signed, order, identity, Ground(b"", b""))


def record_of(phase: Phase) -> dict[str, Any]:
    return {
        "phase": phase.value,
        "reason": "",
        "code": "",
        "settled": False,
        "pause_us": 0,
        "regions": [],
        "last": ["", ""],
    }


@pytest.mark.parametrize("phase", [Phase.PREPARED, Phase.ATTESTING, Phase.RESTORING])
def test_a_clone_that_cannot_go_on_is_taken_back(host: Any, phase: Phase) -> None:
    clone = clone_of(host)
    clone.resume(record_of(phase))
    assert clone.phase is Phase.FAILED
    assert f"the service ended while the clone was {phase.value}" in clone.reason
    assert host.destination.destroyed == 1


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.PROVISIONAL])
def test_a_clone_whose_store_ended_too_is_taken_back(host: Any, phase: Phase) -> None:
    clone = clone_of(host)
    clone.resume(record_of(phase))
    assert clone.phase is Phase.FAILED
    assert host.destination.destroyed == 1


def test_a_removal_that_the_end_cut_short_is_done_again(host: Any) -> None:
    clone_of(host).resume(record_of(Phase.FAILED))
    assert host.destination.destroyed == 1


def test_a_complete_clone_is_left_alone(host: Any) -> None:
    clone = clone_of(host)
    clone.resume(record_of(Phase.COMPLETE))
    clone.fail("somebody says so")
    assert clone.phase is Phase.COMPLETE
    assert host.destination.destroyed == 0


def test_disks_that_do_not_settle_now_settle_later_and_are_told_of_once(host: Any) -> None:
    host.destination.refusals = 1
    clone = clone_of(host)
    clone.resume(record_of(Phase.COMPLETE))
    for _ in range(3):
        clone.settle()
    assert clone.settled
    assert host.destination.settled == 2
    assert records.read(host.place.clones / CLONE / "clone.json")["settled"]


def test_a_clone_that_is_removed_while_its_disks_settle_is_no_error(
    host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clone = clone_of(host)
    clone.resume(record_of(Phase.COMPLETE))

    def settle(*_: object) -> None:
        clone.forget("the server was deleted")
        raise RuntimeError("domain not found")

    host.destination.settle = settle
    clone.settle()
    assert "removed while its disks settled: domain not found" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_clone_whose_server_ends_while_its_disks_settle_is_no_error(
    host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clone = clone_of(host)
    clone.resume(record_of(Phase.COMPLETE))
    host.destination.running = True
    host.destination.refusals = 1
    host.destination.ends_while_settling = True
    clone.settle()
    assert "ended while its disks settled: an image is in use" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    clone.settle()
    assert clone.settled


@pytest.mark.parametrize("running", [True, False])
def test_disks_that_do_not_settle_for_any_other_reason_are_an_error(
    host: Any, caplog: pytest.LogCaptureFixture, running: bool
) -> None:
    clone = clone_of(host)
    clone.resume(record_of(Phase.COMPLETE))
    host.destination.running = running
    host.destination.refusals = 1
    clone.settle()
    assert "its disks still need the store" in caplog.text
    assert "an image is in use" in caplog.text
    assert not clone.settled


def test_a_hypervisor_that_does_not_answer_has_not_said_that_a_server_ended(
    host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clone = clone_of(host)
    clone.resume(record_of(Phase.COMPLETE))
    answers = iter([True])
    host.destination.exists = lambda *_: next(answers)
    host.destination.refusals = 1
    clone.settle()
    assert "whether it runs cannot be told" in caplog.text
    assert "its disks still need the store" in caplog.text


def test_a_clones_place_on_its_host_is_kept_with_it(host: Any) -> None:
    side = HostSide(
        interfaces=("<interface/>",), disks={"vda": "/images/disk"}, vtpm_secret="secret"
    )
    identity = Identity("clone", "0" * 36, (NicIdentity("52:54:00:00:00:01"),), side)
    kept = json.loads(json.dumps(identity_to_record(identity)))
    assert identity_from_record(kept) == identity


def test_a_forgotten_clone_leaves_no_record(host: Any) -> None:
    clone = clone_of(host)
    clone.save()
    clone.forget("the server was deleted")
    assert clone.phase is Phase.FAILED
    assert not (host.place.clones / CLONE).exists()
    clone.forget("again")


def test_what_cannot_be_removed_now_is_removed_later(host: Any) -> None:
    host.destination.refusals = 2
    clone = clone_of(host)
    clone.fail("enough")
    assert clone.phase is Phase.FAILED
    clone.clean_again()
    clone.clean_again()
    clone.clean_again()
    assert host.destination.destroyed == 3


def test_nothing_brings_a_clone_back_that_has_ended(host: Any) -> None:
    clone = clone_of(host)
    clone.fail("enough")
    with pytest.raises(Rejected, match="enough"):
        clone.enter(Phase.PROVISIONAL)
    assert clone.phase is Phase.FAILED


def test_a_full_disk_does_not_keep_a_clone(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = clone_of(host)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "write", full)
    clone.fail("enough")
    assert clone.phase is Phase.FAILED
    assert host.destination.destroyed == 1


def test_disks_are_never_removed_with_a_record_that_cannot_be_read(host: Any) -> None:
    disk = host.place.clones / CLONE / "vda.qcow2"
    disk.parent.mkdir()
    disk.touch()
    (disk.parent / "clone.json").write_text("{")
    Destination(host).resume()
    assert disk.exists()


def test_a_record_that_cannot_be_read_and_is_all_there_is_goes(host: Any) -> None:
    directory = host.place.clones / CLONE
    directory.mkdir()
    (directory / "clone.json").write_text("{")
    Destination(host).resume()
    assert not directory.exists()
