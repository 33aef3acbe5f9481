"""A running guest is frozen on real libvirt and QEMU, and everything is taken off it again, whatever happens."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from labkit.guests import Guest
from labkit.lab import Lab

from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.base import FreezeBusy, FreezeFailed, ServerNotFound
from nova_trusted_clone.hypervisor.qemu import connection, diskfreeze
from nova_trusted_clone.hypervisor.qemu.frozen import CHANGED, CHUNK_BYTES
from nova_trusted_clone.hypervisor.qemu.handover import PAGE
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor, migration_status
from nova_trusted_clone.hypervisor.qemu.process import mappings, of_domain
from nova_trusted_clone.hypervisor.qemu.userfault import Protection
from nova_trusted_clone.ports import Frozen

from .freezing import Freeze, await_true, running, traces

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# Freezes, and kills itself right after a monitor command was answered, or the snapshot was let go.
_DYING = """
import os, pathlib, signal, sys
from nova_trusted_clone.hypervisor.qemu.handover import Handing
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor
from nova_trusted_clone.hypervisor.qemu.source import QemuSource
from nova_trusted_clone.hypervisor.qemu.userfault import Protection
uri, uuid, directory, last = sys.argv[1:]
def dying(name, honest):
    def call(*arguments):
        answer = honest(*arguments)
        if last == name or arguments[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return call
Monitor._answer = staticmethod(dying("", Monitor._answer))
Handing.give = dying("give", Handing.give)
Handing.say_frozen = dying("say frozen", Handing.say_frozen)
Protection.register = dying("register", Protection.register)
Handing.protect = dying("protect", Handing.protect)
QemuSource(uri).freeze(uuid, pathlib.Path(directory), pathlib.Path(directory) / "capture.sock")
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
        freeze.await_taken()
        status = freeze.sources.status()
        assert status["failed"] is None
        assert status["pages_there"] == status["pages"]
        assert status["whole"]
        assert {key[0] for key in files} == {"ram", "disk", "device", "domain"}
        assert {name for kind, name in files if kind == "disk"} == {"vda", "vdb"}
        assert frozen.vtpm is not None
        assert frozen.vtpm.permanent not in files["device", "device"].read_bytes()
        freeze.release()
        assert traces(guest, freeze.directory) == []
        freeze.release()
    assert guest.console.check_itself().bad == 0


def test_a_second_freeze_is_refused_at_once_and_harms_neither(guest: Guest) -> None:
    first = Freeze.begin(guest, "first")
    first.freeze()
    second = Freeze.begin(guest, "second")
    began = time.monotonic()
    with pytest.raises(FreezeBusy):
        second.freeze()
    assert time.monotonic() - began < 2
    second.release()
    first.await_taken()
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
        "register",
        "give",
        "transaction",
        "xen-save-devices-state",
        "protect",
        "say frozen",
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


def test_killed_before_the_server_stood_still_nobody_is_needed(guest: Guest) -> None:
    freeze = Freeze.begin(guest, "killed")
    freeze_and_die(freeze, "give")
    require_going_on(guest)
    assert "the service ended before the server was frozen" in str(freeze.sources.failed_reason)
    freeze.release()
    assert traces(guest, freeze.directory) == []


@pytest.mark.parametrize("point", ["flush", "hold"])
def test_an_exporter_that_ends_before_the_server_is_frozen_harms_nobody(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    freeze = Freeze.begin(guest, "freeze")
    honest = getattr(diskfreeze, point)

    def close_then(*arguments: object) -> object:
        freeze.sources.close()
        time.sleep(0.5)
        return honest(*arguments)

    monkeypatch.setattr(diskfreeze, point, close_then)
    with pytest.raises(FreezeFailed):
        freeze.freeze()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def test_memory_that_was_not_protected_is_no_frozen_memory(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Protection.protect
    monkeypatch.setattr(
        Protection,
        "protect",
        lambda protection, start, size: honest(protection, start, max(PAGE, size - CHUNK_BYTES)),
    )
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.await_taken()
    status = freeze.sources.status()
    assert CHANGED in status["failed"]
    assert not status["whole"]
    with pytest.raises(SourceGone, match="not whole"):
        freeze.sources.sources[1].read(freeze.sources.sources[1].region.segments - 1)
    require_going_on(guest)
    freeze.release()
    assert traces(guest, freeze.directory) == []


def test_a_freeze_whose_events_libvirt_keeps_to_itself_is_one_all_the_same(
    guest: Guest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.EventTimes, "_note", lambda *_arguments: None)
    freeze = Freeze.begin(guest, "freeze")
    frozen = freeze.freeze()
    # Our own clock's, which is longer than the pause was.
    assert frozen.pause_s >= _stood_still_at_most_s(frozen)
    freeze.read_all(tmp_path)
    freeze.release()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def test_a_pause_is_told_by_qemus_clock_though_libvirt_tells_its_events_late(
    guest: Guest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = connection.EventTimes._note

    def late(*arguments: Any) -> None:
        threading.Timer(0.3, at_once, arguments).start()

    monkeypatch.setattr(connection.EventTimes, "_note", late)
    freeze = Freeze.begin(guest, "freeze")
    frozen = freeze.freeze()
    assert frozen.pause_s <= _stood_still_at_most_s(frozen)
    freeze.read_all(tmp_path)
    freeze.release()
    require_going_on(guest)


def _stood_still_at_most_s(frozen: Frozen) -> float:
    """From the first step at which it may have stood still to the end of the one in which it was seen to run."""
    steps = dict(frozen.steps)
    return sum(steps[name] for name in ("suspend", "disks", "devices", "protect", "resume"))


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
    freeze.await_taken()
    freeze.release()
    assert traces(guest, freeze.directory) == []


def test_a_server_that_ends_before_the_pause(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = diskfreeze.flush
    with running(lab, name="ends") as guest:
        freeze = Freeze.begin(guest, "ending")

        def end_then(*arguments: Any) -> None:
            guest.destroy()
            honest(*arguments)

        monkeypatch.setattr(diskfreeze, "flush", end_then)
        with pytest.raises(FreezeFailed):
            freeze.freeze()
    freeze.await_taken()
    freeze.release()
    assert list(freeze.directory.iterdir()) == []


def test_a_released_freeze_ends_in_mid_capture(guest: Guest) -> None:
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.release()
    assert traces(guest, freeze.directory) == []
    require_going_on(guest)


def test_the_guest_has_all_of_its_memory_back_when_it_is_taken(
    guest: Guest, tmp_path: pathlib.Path
) -> None:
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.await_taken()
    assert freeze.sources.status()["whole"]
    assert not any("uw" in mapping.flags for mapping in mappings(of_domain(guest.uuid).pid))
    require_going_on(guest)
    freeze.read_all(tmp_path)
    freeze.release()
    assert traces(guest, freeze.directory) == []


def test_a_server_that_was_frozen_can_still_be_migrated(guest: Guest) -> None:
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.await_taken()
    freeze.release()
    require_can_be_migrated(guest)


def require_can_be_migrated(guest: Guest) -> None:
    """Its QEMU sends all of it, and it goes on here."""
    with connection.connected(guest.host.uri) as libvirtd, open("/dev/null", "wb") as nowhere:
        domain = connection.find(libvirtd, guest.uuid)
        monitor = Monitor(domain)
        monitor.execute_with_file(nowhere.fileno(), "getfd", fdname="nowhere")
        monitor.execute("migrate", uri="fd:nowhere")
        await_true(lambda: migration_status(monitor) in ("completed", "failed"))
        assert migration_status(monitor) == "completed"
        # Where it came from it stands still afterwards.
        monitor.execute("cont")
    require_going_on(guest)


def test_the_guest_goes_on_when_the_exporter_ends(guest: Guest) -> None:
    """Nobody does anything for it: the kernel takes the protection off with the last who held it."""
    freeze = Freeze.begin(guest, "freeze")
    freeze.freeze()
    freeze.sources.close()
    require_going_on(guest)
    freeze.source.release(guest.uuid, freeze.directory)
    assert traces(guest, freeze.directory) == []
    assert guest.console.check_itself().bad == 0


def test_a_freeze_without_an_exporter_or_a_server_changes_nothing(guest: Guest) -> None:
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
    freeze.await_taken()
    freeze.release()
    assert list(freeze.directory.iterdir()) == []


def require_going_on(guest: Guest) -> None:
    """It finishes a look at its memory that it begins now, and finds no damage."""
    first = guest.console.wait_for("TICK", since=guest.console.size())
    then = guest.console.wait_for(
        "TICK", lambda line: line.number("pass") > first.number("pass"), since=first.offset
    )
    assert then["bad"] == "0"
