"""Memory that a freeze split is collapsed again, and nothing else is touched: on this process's own memory."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import pathlib
import re
import time
from collections.abc import Iterator

import pytest

from nova_trusted_clone.hypervisor.qemu import hugepages
from nova_trusted_clone.hypervisor.qemu.hugepages import HUGE, PAGE
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock

ME = ProcessId.of(os.getpid())
RANGES = 3
_MADV_HUGEPAGE, _MADV_NOHUGEPAGE = 14, 15
_libc = ctypes.CDLL(None, use_errno=True)


class Ram:
    """Three aligned ranges of 2 MiB, in small pages."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(
            -1, (RANGES + 1) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.address = -(-start // HUGE) * HUGE
        self._skipped = self.address - start
        self.advise(_MADV_NOHUGEPAGE)
        self.block = RamBlock("pc.ram", RANGES * HUGE, RANGES * HUGE, self.address)

    def advise(self, advice: int) -> None:
        where, length = ctypes.c_void_p(self.address), ctypes.c_size_t(RANGES * HUGE)
        assert _libc.madvise(where, length, advice) == 0

    def write(self, number: int, pages: range = range(HUGE // PAGE)) -> None:
        """Write pages of a range; what was written can be told from what was not."""
        for page in pages:
            self.memory[self._skipped + number * HUGE + page * PAGE] = 1 + page % 250

    def read(self, number: int, page: int) -> int:
        return self.memory[self._skipped + number * HUGE + page * PAGE]

    def settle(self) -> None:
        """Allow huge pages, as QEMU does for its RAM."""
        self.advise(_MADV_HUGEPAGE)

    def kib(self, what: str) -> int:
        """A figure of smaps for the ranges."""
        text = pathlib.Path("/proc/self/smaps").read_text()
        found = 0
        for part in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
            low, high = (int(word, 16) for word in part.split()[0].split("-"))
            if low < self.address + RANGES * HUGE and high > self.address:
                match = re.search(rf"^{what}: +(\d+) kB", part, re.MULTILINE)
                assert match
                found += int(match[1])
        return found


@pytest.fixture
def ram() -> Iterator[Ram]:
    yield Ram()


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pathlib.Path:
    """The operator's switch."""
    path = tmp_path / "enabled"
    monkeypatch.setattr(hugepages, "_SWITCH", path)
    return path


def collapsed(ram: Ram) -> int:
    """What ``collapse`` makes once the kernel has let go of the pages: it refuses those just touched."""
    deadline = time.monotonic() + 10
    while not (made := hugepages.collapse(ME, [ram.block], 10)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return made


needs_collapse = pytest.mark.skipif(
    os.geteuid() != 0
    or not hugepages._SWITCH.exists()
    or "[never]" in hugepages._SWITCH.read_text()
    or tuple(int(n) for n in os.uname().release.split(".")[:2]) < (6, 1),
    reason="needs root, Linux 6.1 and transparent huge pages",
)


# The kernel's own daemon, which heeds no such thing, may have collapsed the second range just before.
@pytest.mark.flaky(reruns=3)
@needs_collapse
def test_only_ranges_that_are_all_the_guests_own_are_collapsed(ram: Ram) -> None:
    ram.write(0)
    ram.write(1, range(HUGE // PAGE - 1))
    ram.settle()
    before = ram.kib("Anonymous")
    assert collapsed(ram) == 1
    assert ram.kib("AnonHugePages") == HUGE >> 10
    assert ram.kib("Anonymous") == before
    assert [ram.read(0, page) for page in (0, 77, 511)] == [1, 78, 12]
    assert ram.read(1, 511) == 0


@needs_collapse
def test_a_page_that_was_only_read_is_not_the_guests_own(ram: Ram) -> None:
    ram.write(0, range(1, HUGE // PAGE))
    assert ram.read(0, 0) == 0
    ram.settle()
    assert hugepages.collapse(ME, [ram.block], 10) == 0
    assert ram.kib("AnonHugePages") == 0


@needs_collapse
def test_what_is_a_huge_page_already_stays_one(ram: Ram) -> None:
    ram.write(2)
    ram.settle()
    for _ in range(2):
        assert collapsed(ram) == 1
    assert ram.kib("AnonHugePages") == HUGE >> 10


def test_a_block_in_no_known_place_is_left(ram: Ram) -> None:
    ram.write(0)
    assert hugepages.collapse(ME, [RamBlock("pc.ram", HUGE, HUGE)], 10) == 0


def test_it_ends_in_time(ram: Ram) -> None:
    ram.write(0)
    ram.settle()
    assert hugepages.collapse(ME, [ram.block], 0) == 0
    assert ram.kib("AnonHugePages") == 0


@pytest.mark.parametrize(
    ("refused", "asked"), [(errno.ENOSYS, 1), (errno.EPERM, 1), (errno.EINVAL, 2)]
)
def test_a_kernel_without_the_call_and_a_process_without_the_right_change_nothing(
    ram: Ram,
    switch: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refused: int,
    asked: int,
) -> None:
    switch.write_text("always [madvise] never\n")
    ram.write(0)
    ram.write(1)
    ram.settle()
    calls = []

    class Refusing:
        def syscall(self, *_: object) -> int:
            calls.append(1)
            ctypes.set_errno(refused)
            return -1

    monkeypatch.setattr(hugepages, "_libc", Refusing())
    with caplog.at_level("INFO"):
        assert hugepages.collapse(ME, [ram.block], 10) == 0
    assert len(calls) == asked
    assert (os.strerror(refused) in caplog.text) == (asked == 1)


def test_a_process_that_is_gone_or_another_one_is_left_alone(ram: Ram) -> None:
    ram.write(0)
    ram.settle()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert hugepages.collapse(ProcessId(child, 1), [ram.block], 10) == 0
    assert hugepages.collapse(ProcessId(os.getpid(), 1), [ram.block], 10) == 0
    assert ram.kib("AnonHugePages") == 0


def test_the_operators_never_counts(ram: Ram, switch: pathlib.Path) -> None:
    ram.write(0)
    ram.settle()
    switch.write_text("always madvise [never]\n")
    assert hugepages.collapse(ME, [ram.block], 10) == 0
    assert ram.kib("AnonHugePages") == 0
