"""A memory is taken as it was at the freeze while its process goes on writing to it; by the kernel's own protection."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import time
from collections.abc import Iterator

import pytest

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.capture import Capture, RamSource
from nova_trusted_clone.hypervisor.qemu.frozen import CHANGED
from nova_trusted_clone.hypervisor.qemu.handover import Handing
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock
from nova_trusted_clone.hypervisor.qemu.userfault import Protection

from .guestlike import PAGE, PAGES, Guestlike, close_all, expected, started

pytestmark = pytest.mark.timeout(60)
LIMIT_S = 20.0
BLOCK_BYTES = PAGES * PAGE


@dataclasses.dataclass
class Freeze:
    """A capture and the end that freezes."""

    guest: Guestlike
    capture: Capture
    handing: Handing

    def freeze(self) -> None:
        """The pause; the guest stands still for it, as it is told nothing to write."""
        self.handing.protect()
        self.handing.say_frozen()

    @property
    def source(self) -> RamSource:
        return RamSource(Region(1, "ram", "pc.ram", BLOCK_BYTES), self.capture)

    def read(self, page: int) -> bytes:
        """The first bytes of a frozen page."""
        segment, offset = divmod(page * PAGE, SEGMENT_BYTES)
        return self.source.read(segment)[offset : offset + 4]

    def await_end(self) -> None:
        """Nothing is protected any more."""
        deadline = time.monotonic() + LIMIT_S
        while not self.capture.ended:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def guest() -> Iterator[Guestlike]:
    with started() as made:
        yield made
        close_all(made)


@pytest.fixture
def freeze(guest: Guestlike, tmp_path: pathlib.Path) -> Iterator[Freeze]:
    """Handed over, not frozen yet."""
    capture = Capture(tmp_path / "sock", tmp_path)
    capture.start()
    protection = Protection(os.dup(guest.descriptors[0]))
    protection.register(guest.address, BLOCK_BYTES)
    with Handing(capture.socket_path) as handing:
        handing.give(
            guest.process,
            [RamBlock("pc.ram", BLOCK_BYTES, BLOCK_BYTES, guest.address)],
            guest.descriptors,
        )
        close_all(guest)
        protection.close()
        yield Freeze(guest, capture, handing)
    capture.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_after_the_freeze_is_not_in_it(freeze: Freeze) -> None:
    freeze.freeze()
    for page in (0, 1, 700, PAGES - 1):
        freeze.guest.begin_write(page)
        freeze.guest.await_written()
        assert freeze.guest.now(page)[0] == 0xEE
        assert freeze.read(page) == expected(page)
    assert freeze.capture.faults > 0


def test_what_is_written_before_the_freeze_is(freeze: Freeze) -> None:
    freeze.guest.begin_write(5)
    freeze.guest.await_written()
    freeze.freeze()
    assert freeze.read(5)[0] == 0xEE


def test_the_sweep_takes_all_of_it_and_gives_it_back(freeze: Freeze) -> None:
    freeze.freeze()
    freeze.capture.sweep()
    freeze.await_end()
    assert freeze.capture.whole
    assert freeze.capture.progress() == (PAGES, PAGES)
    faults = freeze.capture.faults
    freeze.guest.begin_write(9)
    freeze.guest.await_written()
    assert freeze.capture.faults == faults
    data = b"".join(freeze.source.read(index) for index in range(BLOCK_BYTES // SEGMENT_BYTES))
    assert all(data[page * PAGE :][:4] == expected(page) for page in range(PAGES))


def test_a_service_that_ends_before_the_pause_is_over_leaves_nothing_protected(
    freeze: Freeze,
) -> None:
    freeze.handing.protect()
    freeze.handing.__exit__()
    freeze.await_end()
    assert freeze.capture.failed_reason == "the service ended before the server was frozen"
    freeze.guest.begin_write(3)
    freeze.guest.await_written()
    with pytest.raises(SourceGone, match="not whole"):
        freeze.read(3)


def test_a_capture_that_ends_gives_everything_back(freeze: Freeze) -> None:
    freeze.freeze()
    freeze.capture.close()
    freeze.guest.begin_write(3)
    freeze.guest.await_written()
    with pytest.raises(SourceGone, match="released"):
        freeze.read(3)
    with pytest.raises(HypervisorError, match="exporter"):
        freeze.handing.protect()


def test_a_page_that_is_not_protected_when_it_is_taken_is_no_frozen_page(freeze: Freeze) -> None:
    freeze.freeze()
    memory = freeze.capture._memory
    assert memory is not None
    memory.protection.lift(freeze.guest.address + 100 * PAGE, PAGE)
    with pytest.raises(SourceGone, match=CHANGED):
        freeze.read(100)
    freeze.await_end()
    assert not freeze.capture.whole


def test_without_room_the_freeze_fails_and_the_server_goes_on(
    freeze: Freeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    freeze.freeze()
    monkeypatch.setattr(os, "pwrite", full)
    freeze.guest.begin_write(1)
    freeze.guest.await_written()
    freeze.await_end()
    assert "block pc.ram: " in str(freeze.capture.failed_reason)
    assert "No space left" in str(freeze.capture.failed_reason)


def test_a_server_that_ends_is_told(freeze: Freeze) -> None:
    freeze.freeze()
    freeze.guest.running.kill()
    freeze.guest.running.wait()
    freeze.capture.sweep()
    freeze.await_end()
    assert "frozen server" in str(freeze.capture.failed_reason)


def test_other_blocks_than_were_handed_over_are_not_the_freeze(freeze: Freeze) -> None:
    freeze.capture.require_blocks({"pc.ram": BLOCK_BYTES})
    with pytest.raises(HypervisorError, match="captured are the blocks"):
        freeze.capture.require_blocks({"pc.ram": BLOCK_BYTES, "vga.vram": 4096})
    with pytest.raises(SourceGone, match="released"):
        freeze.capture.read("vga.vram", 0, 4096)
    with pytest.raises(SourceGone, match="no segment"):
        freeze.source.read(BLOCK_BYTES // SEGMENT_BYTES)
