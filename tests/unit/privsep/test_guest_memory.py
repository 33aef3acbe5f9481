"""What the daemon with CAP_SYS_PTRACE does when it is asked; here within this process, over a program named like QEMU."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.privsep import guest_memory_pctxt
from nova_trusted_clone.privsep.daemons import GuestMemory
from nova_trusted_clone.privsep.descriptors import HandOverFailed, Receiver
from nova_trusted_clone.privsep.guest_memory import NoGuest, hand_over

Start = Callable[[str], ProcessId]
PAGE = 4096


@pytest.fixture(autouse=True)
def daemon_is_here() -> Iterator[None]:
    guest_memory_pctxt.set_client_mode(False)
    yield
    guest_memory_pctxt.set_client_mode(True)


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts a program that sleeps, under the name of another."""
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str) -> ProcessId:
        program = tmp_path / name
        shutil.copy("/bin/sleep", program)
        started.append(subprocess.Popen([program, "60"]))
        return ProcessId.of(started[-1].pid)

    yield run
    for child in started:
        child.kill()
        child.wait()


@pytest.mark.parametrize("name", ["qemu-system-x86_64", "qemu-kvm"])
def test_a_guests_memory_can_be_read_through_the_window(start: Start, name: str) -> None:
    process = start(name)
    with GuestMemory().open(process) as window:
        stack = next(found for found in window.mappings() if found.path == "[stack]")
        last = stack.start + stack.size - PAGE
        # Its environment and its own name stand at the end of a program's stack.
        assert name.encode() in os.pread(window.memory, PAGE, last)
        assert len(os.pread(window.pagemap, 8, last // PAGE * 8)) == 8


def test_a_window_on_a_guest_that_ended_says_so(start: Start) -> None:
    process = start("qemu-kvm")
    with GuestMemory().open(process) as window:
        os.kill(process.pid, 9)
        os.waitpid(process.pid, 0)
        with pytest.raises(HypervisorError, match="cannot read its mappings"):
            window.mappings()


@pytest.mark.parametrize("name", ["sshd", "qemu-kvm-helper", "qemu-img"])
def test_nobody_elses_memory_is_opened(start: Start, name: str) -> None:
    with pytest.raises(NoGuest, match=name):
        GuestMemory().open(start(name))


def test_a_program_that_was_replaced_on_the_disk_is_still_a_guest(
    start: Start, tmp_path: pathlib.Path
) -> None:
    process = start("qemu-kvm")
    (tmp_path / "qemu-kvm").unlink()
    GuestMemory().open(process).close()


def test_a_pid_that_is_somebody_elses_by_now_is_not_opened(start: Start) -> None:
    process = start("qemu-kvm")
    with pytest.raises(HypervisorError, match="not the one"):
        GuestMemory().open(ProcessId(process.pid, process.start_time + 1))


def test_a_process_that_has_gone_is_told_by_name() -> None:
    with pytest.raises(HypervisorError, match="process 4194304: its mem: No such file"):
        GuestMemory().open(ProcessId(4194304, 1))


def test_the_memory_goes_to_no_other_process(start: Start) -> None:
    process = start("qemu-kvm")
    with Receiver() as receiver, pytest.raises(HandOverFailed, match="expected"):
        hand_over(process.pid, process.start_time, receiver.name, os.getpid() + 1)


def test_a_guest_without_protection_needs_no_mending(start: Start) -> None:
    assert GuestMemory().lift_protection(start("qemu-kvm")) == 0


def test_nobody_elses_memory_is_mended(start: Start) -> None:
    with pytest.raises(NoGuest):
        GuestMemory().lift_protection(start("sshd"))
