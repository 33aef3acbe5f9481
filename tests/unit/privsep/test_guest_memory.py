"""What the daemon with CAP_SYS_PTRACE does when it is asked; here within this process, over a program named like QEMU."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, mappings, open_memory, opened
from nova_trusted_clone.privsep import guest_memory_pctxt
from nova_trusted_clone.privsep.daemons import GuestMemory
from nova_trusted_clone.privsep.descriptors import HandOverFailed, Receiver
from nova_trusted_clone.privsep.guest_memory import NoGuest, hand_over

Start = Callable[[str], ProcessId]
PAGE = 4096
# userfaultfd(2), for user mode only: anybody may.
_OPENS_AND_CLOSES = """
import ctypes, os, time
libc = ctypes.CDLL(None)
while True:
    found = libc.syscall(323, 1)
    time.sleep(0.0002)
    os.close(found)
    time.sleep(0.001)
"""


@pytest.fixture(autouse=True)
def daemon_is_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    guest_memory_pctxt.set_client_mode(False)
    daemon = GuestMemory()
    access.use(daemon)
    # The daemon's own code opens files by its own right.
    monkeypatch.setattr(daemon, "open_files", by_own_right(daemon.open_files))
    yield
    access.use(None)
    guest_memory_pctxt.set_client_mode(True)


def by_own_right(ask: Callable[..., object]) -> Callable[..., object]:
    """In one process both sides share ``access``: it is the daemon's while the daemon is asked."""

    def asked(*arguments: object) -> object:
        daemon = access.daemon()
        access.use(None)
        try:
            return ask(*arguments)
        finally:
            access.use(daemon)

    return asked


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


@pytest.fixture
def start_python(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts a program under the name of another that opens a userfaultfd and closes it, again and again."""
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str) -> ProcessId:
        program = tmp_path / name
        shutil.copy("/usr/bin/python3", program)
        started.append(subprocess.Popen([program, "-c", _OPENS_AND_CLOSES]))
        return ProcessId.of(started[-1].pid)

    yield run
    for child in started:
        child.kill()
        child.wait()


@pytest.mark.parametrize("name", ["qemu-system-x86_64", "qemu-kvm"])
def test_a_guests_memory_is_read_through_files_that_the_daemon_opened(
    start: Start, name: str
) -> None:
    process = start(name)
    stack = next(found for found in mappings(process.pid) if found.path == "[stack]")
    last = stack.start + stack.size - PAGE
    memory, pagemap = open_memory(process)
    # Its environment and its own name stand at the end of a program's stack.
    assert name.encode() in os.pread(memory, PAGE, last)
    assert len(os.pread(pagemap, 8, last // PAGE * 8)) == 8
    os.close(memory)
    os.close(pagemap)


@pytest.mark.parametrize("name", ["sshd", "qemu-kvm-helper", "qemu-img"])
def test_nobody_elses_memory_is_opened(start: Start, name: str) -> None:
    with pytest.raises(NoGuest, match=name):
        mappings(start(name).pid)


def test_a_program_that_was_replaced_on_the_disk_is_still_a_guest(
    start: Start, tmp_path: pathlib.Path
) -> None:
    process = start("qemu-kvm")
    (tmp_path / "qemu-kvm").unlink()
    assert mappings(process.pid)


def test_a_pid_that_is_somebody_elses_by_now_is_not_opened(start: Start) -> None:
    process = start("qemu-kvm")
    stranger = ProcessId(process.pid, process.start_time + 1)
    with (
        pytest.raises(NoGuest, match="not the guest's QEMU that was meant"),
        opened(stranger, "mem"),
    ):
        pass


def test_a_process_that_has_gone_is_told_by_name() -> None:
    gone = ProcessId(4194304, 1)
    with (
        pytest.raises(HypervisorError, match="process 4194304: its mem: No such file"),
        opened(gone, "mem"),
    ):
        pass


def test_the_memory_goes_to_no_other_process(start: Start) -> None:
    process = start("qemu-kvm")
    access.use(None)
    with Receiver() as receiver, pytest.raises(HandOverFailed, match="expected"):
        hand_over(process.pid, process.start_time, receiver.name, os.getpid() + 1)


def test_a_userfaultfd_that_a_guest_opens_for_a_moment_is_taken(start_python: Start) -> None:
    """As QEMU does when it is asked whether it could protect its memory."""
    process = start_python("qemu-kvm")
    found = GuestMemory().catch_userfaultfd(process.pid, process.start_time, 20.0)
    assert str(pathlib.Path(f"/proc/self/fd/{found}").readlink()) == "anon_inode:[userfaultfd]"
    os.close(found)


def test_a_guest_that_opens_none_is_told(start: Start) -> None:
    process = start("qemu-kvm")
    with pytest.raises(HypervisorError, match="no userfaultfd of it was seen"):
        GuestMemory().catch_userfaultfd(process.pid, process.start_time, 0.1)


def test_nobody_elses_userfaultfd_is_taken(start: Start) -> None:
    process = start("sshd")
    with pytest.raises(NoGuest):
        GuestMemory().catch_userfaultfd(process.pid, process.start_time, 0.1)


def test_nobody_elses_memory_is_collapsed(start: Start) -> None:
    process = start("sshd")
    with pytest.raises(NoGuest):
        GuestMemory().collapse(process.pid, process.start_time, [(0, 1 << 21)], 1.0)
