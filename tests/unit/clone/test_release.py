"""A server never stays frozen: what cannot be taken off now is taken off later, or by the next service."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from nova_trusted_clone.clone import freeze_job, records
from nova_trusted_clone.clone.freeze_job import FreezeJob
from nova_trusted_clone.clone.host import Limits, Place
from nova_trusted_clone.clone.source import Source

SERVER = "5f4f3b40-0000-4000-8000-000000000001"
GROUP = "ab" * 16


class Stubborn:
    """A hypervisor that releases a server only when it was asked so often."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.asked: list[str] = []

    def release(self, server_uuid: str, directory: pathlib.Path) -> None:
        assert server_uuid == SERVER
        self.asked.append(directory.name)
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("the hypervisor does not answer")


@dataclasses.dataclass
class Parts:
    """The parts of a host that a release needs."""

    place: Place
    source: Stubborn
    limits: Limits = dataclasses.field(default_factory=Limits)


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(freeze_job, "RELEASE_PAUSE_S", 0.001)
    place = Place(tmp_path, "test:///default", "127.0.0.1", 1, 2)
    place.make()
    return Parts(place, Stubborn(2))


def frozen(host: Any, phase: str) -> pathlib.Path:
    """A freeze as a killed service leaves it."""
    directory: pathlib.Path = host.place.freezes / GROUP
    (directory / "freeze").mkdir(parents=True)
    records.write(directory / "freeze.json", {"phase": phase, "server": SERVER, "pause_s": 0.025})
    return directory


def test_a_release_that_fails_is_repeated_until_it_works(host: Any) -> None:
    directory = frozen(host, "serving")
    FreezeJob(host, GROUP, SERVER)._release()
    assert host.source.asked == ["freeze"] * 3
    assert not (directory / "freeze").exists()
    assert records.read(directory / "freeze.json")["phase"] == "ended"


def test_what_was_not_released_keeps_its_record(host: Any) -> None:
    directory = frozen(host, "serving")
    with pytest.raises(RuntimeError, match="does not answer"):
        FreezeJob(host, GROUP, SERVER)._release_once()
    assert (directory / "freeze").exists()
    assert records.read(directory / "freeze.json")["phase"] == "releasing"


@pytest.mark.parametrize("phase", ["starting", "attesting", "freezing", "releasing"])
def test_the_next_service_takes_a_freeze_back(host: Any, phase: str) -> None:
    directory = frozen(host, phase)
    FreezeJob(host, GROUP, SERVER).resume()
    assert host.source.asked[-1:] == ["freeze"]
    assert records.read(directory / "freeze.json")["phase"] == "ended"
    assert records.read(directory / "freeze.json")["pause_s"] == 0.025


def test_a_clone_that_cannot_be_read_does_not_keep_the_server_frozen(host: Any) -> None:
    directory = frozen(host, "serving")
    damaged = directory / "clones" / ("cd" * 16)
    damaged.mkdir(parents=True)
    (damaged / "clone.json").write_text("{")
    FreezeJob(host, GROUP, SERVER).resume()
    assert not (directory / "freeze").exists()


def test_a_freeze_that_ended_is_left_alone(host: Any) -> None:
    frozen(host, "ended")
    FreezeJob(host, GROUP, SERVER).resume()
    assert host.source.asked == []


def test_a_freeze_without_a_record_is_not_forgotten(host: Any) -> None:
    directory = frozen(host, "serving")
    (directory / "freeze.json").unlink()
    Source(host).resume()
    assert (directory / "freeze").exists()
