"""No room left on either host: the clone ends with that reason, the source runs on, nothing stays."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import pytest
from labkit import process
from labkit.guests import Guest
from labkit.ordering import Cloning

from tests.integration import clonelab
from tests.integration.clonelab import CloneLab, until

pytestmark = pytest.mark.integration
FULL = "No space left on device"


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The product's."""
    clones.start_agents()


@contextlib.contextmanager
def small(directory: pathlib.Path, size: str) -> Iterator[None]:
    """A directory with little room. It is mounted outside and shows inside the host."""
    process.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "ntc-small", directory])
    try:
        yield
    finally:
        process.run(["umount", "--lazy", directory])


@pytest.mark.parametrize("memory_mode", ["lazy", "eager"])
def test_no_room_for_pages_at_the_destination(
    clones: CloneLab, web: Guest, memory_mode: str
) -> None:
    with small(clones.destination.state_path / "stores", "24m"), clones.nothing_left(web):
        cloning = clones.order(web, memory_mode=memory_mode)
        ended = clonelab.failed(cloning)
        assert "verified pages cannot be kept" in ended.reason
        there, here = clones.ended(cloning)
        assert FULL in there
        assert FULL in here


def test_no_room_for_the_clones_own_files_at_the_destination(clones: CloneLab, web: Guest) -> None:
    with small(clones.destination.state_path / "clones", "1m"), clones.nothing_left(web):
        ended = clonelab.failed(clones.order(web))
        assert FULL in ended.reason


def test_no_room_for_the_captured_memory_at_the_source(clones: CloneLab, web: Guest) -> None:
    with small(clones.source.state_path / "freezes", "300m"), clones.nothing_left(web):
        cloning = clones.order(web)
        ended = clonelab.failed(cloning)
        assert "256 are needed so that the server's own writes never fail" in ended.reason
        assert cloning.pause_s() > 0
        require_ended(clones, cloning)


def test_too_little_room_at_the_source_is_told_before_the_pause(
    clones: CloneLab, web: Guest
) -> None:
    with small(clones.source.state_path / "freezes", "24m"), clones.nothing_left(web):
        cloning = clones.order(web)
        ended = clonelab.failed(cloning)
        assert FULL in ended.reason
        assert cloning.pause_s() == 0
        require_ended(clones, cloning)


def require_ended(clones: CloneLab, cloning: Cloning) -> None:
    """The directory may go only when nothing is in it that a release needs."""
    admin = clones.operator.agent(clones.source).admin
    until(
        "the end of the freeze",
        lambda: admin.call("freeze_status", group=cloning.group)["phase"] == "ended",
        60,
    )


def test_with_room_again_the_server_is_cloned(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        cloning = clones.complete(web)
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])
