"""Two hosts for a whole run of the integration tests, and guests for each test that asks for one.

The run has a lab of its own, beside the one that ``tools/lab up`` makes. ``LAB_DIR`` names another place; what is costly to
make (the guest's boot image) is shared through ``LAB_CACHE``.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

from labkit import guests, libvirtd
from labkit.guests import Guest, Wish
from labkit.host import Host
from labkit.lab import Lab
from labkit.operator import Operator
from labkit.paths import CHECKOUT, LabPaths

from tests.integration import clonelab
from tests.integration.clonelab import CloneLab

StartGuest = Callable[..., Guest]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these need root; without it they are skipped, with the reason shown, and never on the CI."""
    if os.geteuid() == 0 or os.environ.get("CI"):
        return
    for item in items:
        item.add_marker(pytest.mark.skip(reason="needs root: namespaces, mounts, libvirt"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Both hosts, up, without guests. At the end of the run nothing of them is left, or the run fails."""
    libvirtd.quieten()
    paths = LabPaths.from_environment()
    if not os.environ.get("LAB_DIR"):
        _forget_former_runs()
        paths = LabPaths(CHECKOUT / ".lab" / f"test-{os.getpid()}", paths.cache)
    made = Lab.at(paths)
    made.up(print)
    try:
        yield made
    finally:
        made.down(print)


def _forget_former_runs() -> None:
    """Each run leaves its logs; those of runs that have ended are of no more use."""
    for place in (CHECKOUT / ".lab").glob("test-*"):
        if not pathlib.Path("/proc", place.name.removeprefix("test-")).exists():
            former = Lab.at(LabPaths(place, LabPaths.from_environment().cache))
            former.down(print)  # a run that was killed has left more than logs
            shutil.rmtree(place)


@pytest.fixture(scope="session")
def operator(lab: Lab) -> Operator:
    """The lab's operator, with both hosts enrolled and in the policy. Agents are started by who wants them.

    A guest that is to be cloned with its vTPM must be started after this: its EK certificate is then by the host's vTPM CA.
    """
    made = Operator(lab)
    for host in lab.hosts:
        made.enrol(host)
        made.learn(host)
    return made


@pytest.fixture
def start_guest(lab: Lab) -> Iterator[StartGuest]:
    """A function that starts a guest as wished, waits until it is ready, and ends it after the test.

    ``start_guest(name="web-2", vcpus=2, disks=(64, 32), video=True, on=lab.destination)``: keywords are ``Wish``'s.
    """
    started: list[Guest] = []

    def start(*, on: Host | None = None, **wished: object) -> Guest:
        guest = guests.start(on or lab.source, Wish(**wished))  # type: ignore[arg-type]
        started.append(guest)
        guest.wait_ready()
        return guest

    yield start
    for guest in started:
        guest.destroy()


@pytest.fixture
def source_guest(start_guest: StartGuest) -> Guest:
    """A guest on the source host with a vTPM, a disk, a network interface and a generation id, which checks itself."""
    return start_guest()


@pytest.fixture(scope="session")
def clones(lab: Lab, operator: Operator) -> Iterator[CloneLab]:
    """The lab for whole clones. Which agents run is each module's to say; at the end none does."""
    made = CloneLab(lab, operator)
    yield made
    made.stop_agents()


@pytest.fixture(scope="session")
def web(clones: CloneLab) -> Iterator[Guest]:
    """A guest with a vTPM, a disk and a network card, for all stories that leave it unharmed (and check that)."""
    with clonelab.running(clones.source, name="web") as guest:
        yield guest
