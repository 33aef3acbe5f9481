"""Disks that are copied before the freeze, while the source goes on writing to them."""

import pytest
from labkit.guests import Guest

from tests.integration.clonelab import CloneLab, failed, kill, until

pytestmark = pytest.mark.integration
EARLY_LIMIT_S = "60"


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """They copy early."""
    clones.start_agents(early_disk_limit_s=EARLY_LIMIT_S)


def phase_of_freeze(clones: CloneLab, group: str) -> str:
    status = clones.operator.agent(clones.source).admin.call("freeze_status", group=group)
    return str(status["phase"])


def test_what_the_source_writes_during_the_copy_is_in_the_clone(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web)
        (clone,) = cloning.clones
        promoted = 0
        while not (now := cloning.poll()[0]).ended:
            told = clones.operator.agent(clones.destination).admin.call(
                "clone_status", clone_id=clone.clone_id
            )
            promoted = max(promoted, told.get("transfer", {}).get("promoted_pages", 0))
        assert now.phase == "complete", now
        # Most of the disk was there before the freeze, and was believed only after the frozen manifests said so.
        assert promoted > 0
        console = clones.console(clone)
        assert console.check_itself().bad == 0
        console.wait_for("DISKCHECK", lambda line: line.number("bad") == 0, since=console.size())
        clones.destroy(clone)


def test_an_exporter_that_dies_during_the_copy_leaves_the_source_free(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web)
        until(
            "the early copy", lambda: phase_of_freeze(clones, cloning.group) == "copying early", 60
        )
        kill(clones.exporter(cloning))
        assert "exporter" in failed(cloning).reason


def test_an_agent_that_dies_during_the_copy_takes_it_back(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web)
        until(
            "the early copy", lambda: phase_of_freeze(clones, cloning.group) == "copying early", 60
        )
        clones.kill_agent(clones.source)
        clones.start_agent(clones.source, early_disk_limit_s=EARLY_LIMIT_S)
        clones.ended(cloning)
