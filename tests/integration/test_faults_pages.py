"""An exporter that lies, on whole clones: no page that it changed is ever served, the clone ends, the source runs on."""

from __future__ import annotations

import pytest
from labkit.guests import Guest

from tests.integration import clonelab
from tests.integration.clonelab import CloneLab

pytestmark = pytest.mark.integration
MEMORY = {"kind": "ram", "name": "pc.ram"}
DISK = {"kind": "disk", "name": "vda"}


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The source's exporters are the tests' own."""
    clones.start_evil_agent(clones.source)
    clones.start_agent(clones.destination)


@pytest.mark.parametrize(
    ("fault", "region", "reason"),
    [
        ("flip", MEMORY, "is not what the source signed"),
        ("flip", DISK, "is not what the source signed"),
        ("swap", MEMORY, "is not what the source signed"),
        ("truncate", DISK, "bytes of leaves, expected"),
        ("move", MEMORY, ": index "),
        ("replay", DISK, ": freeze 00000000"),
        ("stale", MEMORY, ": epoch 7, expected"),
        ("forge", MEMORY, "the signature is not the page key's"),
        ("flip-signature", DISK, "the signature is not the page key's"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else value.split()[-1],
)
def test_what_was_changed_is_never_served(
    clones: CloneLab, web: Guest, fault: str, region: dict[str, str], reason: str
) -> None:
    with clones.nothing_left(web):
        clones.wish(clones.source, exporter={"fault": fault, "after": 2, **region})
        cloning = clones.order(web)
        ended = clonelab.failed(cloning)
        assert reason in ended.reason
        there, here = clones.ended(cloning)
        assert reason in here
        assert reason in there
    assert not (
        clones.destination.state_path / "clones" / cloning.clones[0].clone_id / "evidence.json"
    ).exists()


def test_an_eager_clone_of_a_lying_exporter_never_starts(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        clones.wish(clones.source, exporter={"fault": "flip", "after": 10, **MEMORY})
        cloning = clones.order(web, memory_mode="eager")
        assert "is not what the source signed" in clonelab.failed(cloning).reason
        directory = clones.destination.state_path / "clones" / cloning.clones[0].clone_id
        assert not list(directory.glob("*.qcow2"))


def test_the_same_server_is_cloned_well_afterwards(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        cloning = clones.complete(web)
        assert clones.console(cloning.clones[0]).check_itself().bad == 0
        clones.destroy(cloning.clones[0])
