"""A server whose disks are served by an I/O thread of its QEMU: that must survive every end of whoever reads them.

A QEMU 7.2 as Debian mends it (CVE-2024-7409) ends itself when an NBD client leaves such a disk.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labkit.guests import Guest

from tests.integration import clonelab
from tests.integration.clonelab import CloneLab, kill, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The source's exporters do as they are told."""
    clones.start_evil_agent(clones.source)
    clones.start_agent(clones.destination)


@pytest.fixture(scope="module")
def threaded(clones: CloneLab) -> Iterator[Guest]:
    """One guest for all stories, of which each must leave it unharmed."""
    with clonelab.running(clones.source, name="threaded", io_thread=True, disks=(16, 24)) as guest:
        yield guest


def test_it_is_cloned_and_goes_on(clones: CloneLab, threaded: Guest) -> None:
    with clones.nothing_left(threaded):
        cloning = clones.complete(threaded)
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])


def test_it_outlives_an_exporter_that_is_killed_while_it_reads_the_disks(
    clones: CloneLab, threaded: Guest
) -> None:
    with clones.nothing_left(threaded):
        clones.wish(clones.source, exporter={"fault": "slow", "seconds": 0.3})
        cloning = clones.order(threaded)
        until("pages of it", lambda: cloning.poll()[0].pages_verified > 0, 60)
        kill(clones.exporter(cloning))
        there, _here = clones.ended(cloning, 60)
        assert "exporter process ended" in there


def test_it_is_cloned_again(clones: CloneLab, threaded: Guest) -> None:
    test_it_is_cloned_and_goes_on(clones, threaded)
