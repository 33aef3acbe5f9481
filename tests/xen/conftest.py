"""Two Xen hosts, enrolled and with agents, for a whole run of these tests; a guest for each story."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

from labkit.paths import CHECKOUT, LabPaths
from labkit.xen import guests
from labkit.xen.fleet import Fleet
from labkit.xen.guests import Wish, XenGuest
from labkit.xen.hosts import XenHosts

StartGuest = Callable[[Wish], XenGuest]
# As much as a guest writes to: the rest of a disk costs time, and nothing of it is looked at.
DISK_MIB = 16


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runs", type=int, default=1, help="how often each kind of guest is cloned")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``run`` counts the runs."""
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", range(1, 1 + metafunc.config.getoption("runs")))


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Both hosts and their operator."""
    paths = LabPaths.from_environment()
    if not os.environ.get("LAB_DIR"):
        paths = LabPaths(CHECKOUT / ".lab" / f"test-xen-{os.getpid()}", paths.cache)
    hosts = XenHosts.at(paths)
    hosts.up(print)
    try:
        made = Fleet(hosts)
        made.prepare(require_generation_id=False, allow_without_vtpm=True)
        yield made
    finally:
        hosts.down()


@contextlib.contextmanager
def starting(fleet: Fleet) -> Iterator[StartGuest]:
    """Start guests on the source host; they end with the block."""
    started: list[XenGuest] = []
    guests.share_boot_files(fleet.hosts.destination, fleet.hosts.paths.cache)

    def start(wish: Wish) -> XenGuest:
        guest = guests.boot(fleet.hosts.source, fleet.hosts.paths.cache, wish)
        started.append(guest)
        if wish.vtpm:
            fleet.make_vtpm(guest.host, guest.uuid)
        return guest

    try:
        yield start
    finally:
        for guest in started:
            if guest.runs:
                guest.destroy()


@pytest.fixture
def start_guest(fleet: Fleet) -> Iterator[StartGuest]:
    """Start guests on the source host; they end with the story."""
    with starting(fleet) as start:
        yield start
