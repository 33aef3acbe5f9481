"""A running guest is frozen on real libvirt and QEMU, and everything is taken off it again, whatever happens."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from labkit.guests import Guest
from labkit.lab import Lab

from nova_trusted_clone.hypervisor.base import FreezeBusy, FreezeFailed, ServerNotFound
from nova_trusted_clone.hypervisor.qemu import connection, diskfreeze, holdback
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor
from nova_trusted_clone.hypervisor.qemu.process import ProcessId

from .freezing import Freeze, await_true, running, traces

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# Freezes, and kills itself right after a monitor command was answered, or the snapshot was let go.
_DYING = """
import os, pathlib, signal, sys
from nova_trusted_clone.hypervisor.qemu.holdback import HeldConnection
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor
from nova_trusted_clone.hypervisor.qemu.source import QemuSource
uri, uuid, directory, last = sys.argv[1:]
GONE = "let go"
answer = Monitor._answer
def die(command, text):
    if command == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(command, text)
Monitor._answer = staticmethod(die)
let_go = HeldConnection.let_go
HeldConnection.let_go = lambda held: (let_go(held), die(GONE, '{"return": 0}'))
QemuSource(uri).freeze(uuid, pathlib.Path(directory), pathlib.Path(directory) / "drain.sock")
"""


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    """Two processors, two disks, a video device; one for all tests of this file, which is a test in itself."""
    with running(lab, name="frozen", vcpus=2, disks=(64, 32), video=True) as made:
        yield made


def test_a_freeze_is_whole_and_leaves_nothing_and_can_be_repeated(
    guest: Guest, tmp_path: pathlib.Path
) -> None:
    for _ in range(2):
        freeze = Freeze.begin(guest, "freeze")
        frozen = freeze.freeze()
        files = freeze.read_all(tmp_path)
        freeze.await_drained()
        status = freeze.sources.status()
        assert status["failed"] is None
        assert status["pages_there"] == status["pages"]
        assert status["pages_compared"] == status["pages_read_in_place"]
        assert {key[0] for key in files} == {"ram", "disk", "device", "domain"}
        assert {name for kind, name in files if kind == "disk"} == {"vda", "vdb"}
        assert frozen.vtpm is not None
        assert frozen.vtpm.permanent not in files["device", "device"].read_bytes()
        freeze.release()
        assert traces(guest, freeze.directory) == []
        freeze.release()
    assert guest.console.check_itself().bad == 0


def test_memory_is_read_in_place_before_the_drain_brings_it(
    guest: Guest, tmp_path: pathlib.Path
) -> None:
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.read_all(tmp_path)
    freeze.await_drained()
    assert freeze.sources.status()["pages_read_in_place"] > 0
    freeze.release()


def test_a_second_freeze_is_refused_at_once_and_harms_neither(guest: Guest) -> None:
    first = Freeze.begin(guest, "first")
    first.freeze()
    second = Freeze.begin(guest, "second")
    began = time.monotonic()
    with pytest.raises(FreezeBusy):
        second.freeze()
    assert time.monotonic() - began < 2
    second.release()
    first.await_drained()
    assert first.sources.failed_reason is None
    first.release()
    assert traces(guest, first.directory) == []


@pytest.mark.parametrize(
    "last",
    [
        "object-add",
        "migrate-set-capabilities",
        "blockdev-add",
        "nbd-server-start",
        "getfd",
        "transaction",
        "xen-save-devices-state",
        "migrate",
        "let go",
        "block-export-add",
    ],
)
def test_killed_in_any_step_the_freeze_is_taken_back(guest: Guest, last: str) -> None:
    freeze = Freeze.begin(guest, "killed")
    freeze_and_die(freeze, last)
    freeze.release()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def freeze_and_die(freeze: Freeze, last: str) -> None:
    """A process of its own freezes, and is killed right after ``last``."""
    guest = freeze.guest
    command = [
        sys.executable,
        "-c",
        _DYING,
        guest.host.uri,
        guest.uuid,
        str(freeze.directory),
        last,
    ]
    died = subprocess.run(command, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr


def test_killed_while_the_snapshot_is_held_back_the_guest_runs_on_before_anybody_comes(
    guest: Guest,
) -> None:
    freeze = Freeze.begin(guest, "killed")
    freeze_and_die(freeze, "migrate")
    require_going_on(guest)
    assert "the service ended before the server stood still" in str(freeze.sources.failed_reason)
    freeze.release()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


@pytest.mark.parametrize("point", ["held back", "in the pause"])
def test_a_drain_that_ends_before_the_server_is_frozen_harms_nobody(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The snapshot then begins and fails, and leaves the memory protected while the service goes on asking QEMU."""
    freeze = Freeze.begin(guest, "freeze")
    module, name = (holdback, "await_arrival") if point == "held back" else (diskfreeze, "hold")
    honest = getattr(module, name)

    def close_then(*arguments: object) -> object:
        freeze.sources.close()
        time.sleep(0.5)
        return honest(*arguments)

    monkeypatch.setattr(module, name, close_then)
    with pytest.raises(FreezeFailed):
        freeze.freeze()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def test_a_snapshot_that_was_not_held_back_is_no_freeze(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory would be of an earlier instant than the disks."""
    monkeypatch.setattr(holdback.HeldConnection, "_fill", lambda _held: 0)
    freeze = Freeze.begin(guest, "freeze")
    with pytest.raises(FreezeFailed, match="active before the server stood still"):
        freeze.freeze()
    freeze.sources.close()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def test_a_thread_whose_arrival_cannot_be_told_costs_time_and_nothing_else(
    guest: Guest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdback, "await_arrival", lambda _process, _limit_s: None)
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.read_all(tmp_path)
    freeze.await_drained()
    status = freeze.sources.status()
    assert (status["failed"], status["pages_there"]) == (None, status["pages"])
    freeze.release()
    assert traces(guest, freeze.directory) == []


def test_a_freeze_whose_events_libvirt_keeps_to_itself_is_one_all_the_same(
    guest: Guest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.EventTimes, "_note", lambda *_arguments: None)
    freeze = Freeze.begin(guest, "freeze")
    # Our own clock's, which is longer than the pause was: QEMU is asked after a quarter of a second.
    assert freeze.freeze().pause_s > 0.25
    freeze.read_all(tmp_path)
    freeze.release()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def test_a_freeze_whose_disks_cannot_be_flushed_ahead_is_one_all_the_same(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    honest = Monitor.human
    monkeypatch.setattr(
        Monitor,
        "human",
        lambda monitor, line: honest(monitor, line.replace("qemu-io ", "qemu-io not-")),
    )
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    assert "is flushed in the pause" in caplog.text
    freeze.await_drained()
    freeze.release()
    assert traces(guest, freeze.directory) == []


def test_a_server_that_ends_while_the_snapshot_is_held_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = holdback.await_arrival
    with running(lab, name="ends") as guest:
        freeze = Freeze.begin(guest, "ending")

        def end_then(process: ProcessId, limit_s: float) -> holdback.Arrival | None:
            arrival = honest(process, limit_s)
            assert arrival
            guest.destroy()
            return arrival

        monkeypatch.setattr(holdback, "await_arrival", end_then)
        with pytest.raises(FreezeFailed):
            freeze.freeze()
    await_true(lambda: bool(freeze.sources.status()["drain_ended"]))
    freeze.release()
    assert list(freeze.directory.iterdir()) == []


def test_a_released_freeze_ends_in_mid_drain(guest: Guest) -> None:
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.release()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def test_the_guest_goes_on_when_the_drains_reader_dies(guest: Guest) -> None:
    """QEMU leaves its memory protected then; the release lifts that."""
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.sources.close()
    time.sleep(1)
    freeze.source.release(guest.uuid, freeze.directory)
    assert traces(guest, freeze.directory) == []
    assert guest.console.check_itself().bad == 0


def test_a_freeze_without_a_drain_or_a_server_changes_nothing(guest: Guest) -> None:
    freeze = Freeze.begin(guest, "freeze")
    freeze.sources.close()
    with pytest.raises(FreezeFailed, match="No such file"):
        freeze.freeze()
    assert traces(guest, freeze.directory) == []
    with pytest.raises(ServerNotFound):
        freeze.source.inspect("00000000-0000-4000-8000-000000000000")


def test_a_server_that_ends_takes_the_freeze_along(lab: Lab) -> None:
    with running(lab, name="ends") as guest:
        freeze = Freeze.begin(guest, "ending")
        freeze.freeze()
    await_true(lambda: bool(freeze.sources.status()["drain_ended"]))
    freeze.release()
    assert list(freeze.directory.iterdir()) == []


def require_going_on(guest: Guest) -> None:
    """It finishes a look at its memory that it begins now, and finds no damage."""
    first = guest.console.wait_for("TICK", since=guest.console.size())
    then = guest.console.wait_for(
        "TICK", lambda line: line.number("pass") > first.number("pass"), since=first.offset
    )
    assert then["bad"] == "0"
