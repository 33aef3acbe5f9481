"""QEMU's snapshot thread waits on a full connection until the guest stands still, and the drain waits with it."""

from __future__ import annotations

import os
import pathlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nova_trusted_clone.hypervisor.base import FreezeFailed
from nova_trusted_clone.hypervisor.qemu import holdback
from nova_trusted_clone.hypervisor.qemu.drain import DrainedCapture
from nova_trusted_clone.hypervisor.qemu.holdback import HeldConnection
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.qemu.stream import PAGE

from . import streams

ME = ProcessId.of(os.getpid())
STREAM = (
    streams.header({"pc.ram": PAGE})
    + streams.part(streams.page(0, bytes([7]) * PAGE, "pc.ram"))
    + streams.TAIL
)
SHORT_S = 0.1


@pytest.fixture
def capture(tmp_path: pathlib.Path) -> Iterator[DrainedCapture]:
    made = DrainedCapture(tmp_path / "drain", tmp_path)
    made.start()
    yield made
    made.close()


class Qemu(threading.Thread):
    """Writes the stream into its copy of a connection, as QEMU's snapshot thread does, under that name."""

    def __init__(self, held: HeldConnection) -> None:
        super().__init__(daemon=True)
        self.connection = socket.socket(fileno=os.dup(held.descriptor))
        self.broke = False
        self.start()

    def run(self) -> None:
        pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("bg_snapshot")
        try:
            self.connection.sendall(STREAM)
        except OSError:
            self.broke = True
        self.connection.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_nothing_of_the_stream_is_written_or_read_before_the_word(capture: DrainedCapture) -> None:
    with HeldConnection(capture.socket_path) as held:
        qemu = Qemu(held)
        qemu.join(SHORT_S)
        assert qemu.is_alive()
        assert capture.progress() == (0, 0)
        held.let_go()
    qemu.join(10)
    until(lambda: capture.ended)
    assert not qemu.broke
    assert capture.failed_reason is None
    assert capture.bytes_read == len(STREAM)
    assert capture.read("pc.ram", 0, 1) == bytes([7]) * PAGE


def test_the_drain_leaves_the_processor_to_qemu_until_the_guest_runs(
    capture: DrainedCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdback, "_RUNS_WITHIN_MS", 600_000)
    with HeldConnection(capture.socket_path) as held:
        qemu = Qemu(held)
        held.let_go()
        # All of it goes into the connection, and nobody reads.
        qemu.join(10)
        assert not qemu.is_alive()
        time.sleep(SHORT_S)
        assert capture.progress() == (0, 0)
        held.let_read()
        held.let_read()
        until(lambda: capture.bytes_read == len(STREAM))
    until(lambda: capture.ended)


def test_a_drain_that_hears_nothing_of_the_guest_reads_all_the_same(
    capture: DrainedCapture,
) -> None:
    with HeldConnection(capture.socket_path) as held:
        Qemu(held)
        held.let_go()
        until(lambda: capture.bytes_read == len(STREAM))
    until(lambda: capture.ended)


def test_a_drain_that_is_closed_in_the_pause_waits_for_nobody(
    capture: DrainedCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdback, "_RUNS_WITHIN_MS", 600_000)
    with HeldConnection(capture.socket_path) as held:
        held.let_go()
        closing = threading.Thread(target=capture.close, daemon=True)
        closing.start()
        until(lambda: not closing.is_alive())


def test_the_connection_is_as_wide_as_ever_afterwards(capture: DrainedCapture) -> None:
    with socket.socket(socket.AF_UNIX) as other, HeldConnection(capture.socket_path) as held:
        copy = socket.socket(fileno=os.dup(held.descriptor))
        held.let_go()
        wide = [s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for s in (copy, other)]
        assert wide[0] == wide[1]
        copy.sendall(STREAM)
        copy.close()
    until(lambda: capture.ended)


def test_when_the_agent_is_gone_the_snapshot_stays_held_until_it_is_cancelled(
    capture: DrainedCapture,
) -> None:
    held = HeldConnection(capture.socket_path)
    qemu = Qemu(held)
    held.close()
    until(lambda: capture.failed_reason is not None)
    assert "the service ended before the server stood still" in str(capture.failed_reason)
    qemu.join(SHORT_S)
    assert qemu.is_alive()
    assert not capture.ended
    # What QEMU does when its migration is cancelled.
    qemu.connection.shutdown(socket.SHUT_RDWR)
    qemu.join(10)
    assert qemu.broke
    until(lambda: capture.ended)


def test_a_snapshot_that_is_cancelled_before_the_word_ends_the_drain(
    capture: DrainedCapture,
) -> None:
    with HeldConnection(capture.socket_path) as held:
        qemu = Qemu(held)
        qemu.connection.shutdown(socket.SHUT_RDWR)
        until(lambda: capture.ended)
    assert "cancelled before the server stood still" in str(capture.failed_reason)


def test_a_drain_that_is_closed_before_the_word_lets_nobody_wait(capture: DrainedCapture) -> None:
    with HeldConnection(capture.socket_path) as held:
        qemu = Qemu(held)
        capture.close()
        qemu.join(10)
        assert qemu.broke
    assert capture.failed_reason is None


@pytest.mark.parametrize("word", [b"", b"\0\0", struct.pack(">Q", 1 << 40)])
def test_a_word_that_is_none_fails_the_freeze(capture: DrainedCapture, word: bytes) -> None:
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(capture.socket_path))
        socket.send_fds(connection, [b"\0"], [reading])
        os.close(reading)
        os.write(writing, word)
        os.close(writing)
        until(lambda: capture.failed_reason is not None)
    until(lambda: capture.ended)
    assert "did not begin" in str(capture.failed_reason)


def test_a_connection_that_brings_no_pipe_fails_the_freeze(capture: DrainedCapture) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(capture.socket_path))
        connection.sendall(STREAM)
        until(lambda: capture.failed_reason is not None)
    until(lambda: capture.ended)
    assert "did not begin with a pipe" in str(capture.failed_reason)


def test_a_drain_that_ends_meanwhile_fails_the_freeze_and_the_protection_is_lifted(
    capture: DrainedCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifted: list[ProcessId] = []

    def lift(process: ProcessId) -> int:
        lifted.append(process)
        return 0

    monkeypatch.setattr(holdback.rescue, "lift_protection", lift)
    with HeldConnection(capture.socket_path) as held:
        with pytest.raises(FreezeFailed, match="the drain ended"), held.answered(ME):
            assert lifted == []
            capture.close()
            until(lambda: len(lifted) > 1)
        count = len(lifted)
        time.sleep(SHORT_S)
        assert len(lifted) == count


def test_memory_that_is_protected_before_its_time_is_lifted_and_fails_the_freeze(
    capture: DrainedCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def lift(_process: ProcessId) -> int:
        looks.append(0 if len(looks) < 3 else 4)
        return looks[-1]

    monkeypatch.setattr(holdback, "_LOOK_FOR_PROTECTION_MS", 1)
    monkeypatch.setattr(holdback.rescue, "lift_protection", lift)
    with (
        HeldConnection(capture.socket_path) as held,
        pytest.raises(FreezeFailed, match="began before"),
        held.answered(ME),
    ):
        until(lambda: len(looks) > 5)


def test_what_was_let_go_is_left_protected(
    capture: DrainedCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdback, "_LOOK_FOR_PROTECTION_MS", 1)
    monkeypatch.setattr(holdback.rescue, "lift_protection", lambda _process: 1)
    with HeldConnection(capture.socket_path) as held:
        held.let_go()
        with held.answered(ME):
            time.sleep(SHORT_S)


def test_a_drain_that_goes_on_is_no_reason_to_lift_anything(capture: DrainedCapture) -> None:
    with HeldConnection(capture.socket_path) as held, held.answered(ME):
        pass
    with (
        pytest.raises(ValueError, match="mine"),
        HeldConnection(capture.socket_path) as held,
        held.answered(ME),
    ):
        raise ValueError("mine")


def test_arrival_is_seen_by_the_threads_sleep(capture: DrainedCapture) -> None:
    began = time.monotonic()
    assert not holdback.await_arrival(ME, 10)
    assert time.monotonic() - began < 5
    with HeldConnection(capture.socket_path) as held:
        qemu = Qemu(held)
        arrival = holdback.await_arrival(ME, 10)
        assert arrival
        assert qemu.is_alive()
        assert arrival.unmoved()
        held.let_go()
        qemu.join(10)
        assert not arrival.unmoved()


def test_a_thread_that_went_on_and_waits_again_has_moved(capture: DrainedCapture) -> None:
    go, end = threading.Event(), threading.Event()

    def work() -> None:
        pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("bg_snapshot")
        go.wait()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        arrival = holdback.await_arrival(ME, 10)
        assert arrival
        assert arrival.unmoved()
        go.set()
        until(lambda: not arrival.unmoved())
        assert holdback.await_arrival(ME, 10)
        assert not arrival.unmoved()
    finally:
        end.set()
        thread.join()


def test_a_thread_that_works_has_not_arrived() -> None:
    ended = threading.Event()

    def work() -> None:
        pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("bg_snapshot")
        while not ended.is_set():
            # Sleeps, but never through two looks.
            time.sleep(0.0001)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert not holdback.await_arrival(ME, SHORT_S)
    finally:
        ended.set()
        thread.join()


def test_a_process_that_is_gone_has_no_thread_to_wait_for() -> None:
    assert not holdback.await_arrival(ProcessId(2**22 + 1, 1), 10)
