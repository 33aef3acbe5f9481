"""The vTPM that a Xen host keeps for each of Nova's servers."""

from __future__ import annotations

import pathlib
import types
from collections.abc import Iterator
from typing import Any

import nova.conf
import pytest
from nova.virt.libvirt import driver as nova_driver

from nova_trusted_clone.conf import opts
from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms
from nova_trusted_clone.ports import VtpmBlobs
from nova_trusted_clone.virt.xen import vtpms
from nova_trusted_clone.virt.xen.driver import XenLibvirtDriver
from nova_trusted_clone.vtpm.base import VtpmError
from tests.unit.virt.novaguest import NAME, SERVER

CONF = nova.conf.CONF
opts.register(CONF)
BLOBS = VtpmBlobs(b"permanent", b"volatile")
INHERITED = ((1, bytes(32)),)


class Factory:
    """Makes vTPMs that are nothing but their state."""

    def __init__(self, error: Exception | None = None) -> None:
        self.made: list[tuple[str, Any]] = []
        self._error = error

    def new(self, name: str, inherited: Any) -> Any:
        """As ``ports.VtpmFactory``."""
        if self._error is not None:
            raise self._error
        self.made.append((name, inherited))
        return types.SimpleNamespace(hand_over=lambda: BLOBS)


def engine(factory: Factory) -> types.SimpleNamespace:
    """An engine as far as it is asked here."""
    local = types.SimpleNamespace(inherited=lambda: INHERITED)
    forgotten: list[str] = []
    destination = types.SimpleNamespace(forget=lambda uuid, _reason: forgotten.append(uuid))
    host = types.SimpleNamespace(vtpms=factory, local=local)
    return types.SimpleNamespace(host=host, destination=destination)


def server(**further: Any) -> types.SimpleNamespace:
    """A server that Nova made, no clone."""
    known = {"name": NAME, "uuid": SERVER, "host": CONF.host, "system_metadata": {}}
    return types.SimpleNamespace(**{**known, **further})


@pytest.fixture
def driver(taught: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The driver, over a Nova that does nothing."""
    CONF.set_override("state_path", str(tmp_path), group="trusted_clone")
    for name in ("spawn", "cleanup", "finish_migration", "confirm_migration"):
        monkeypatch.setattr(nova_driver.LibvirtDriver, name, lambda *_args, **_kwargs: None)
    made = XenLibvirtDriver.__new__(XenLibvirtDriver)
    made._clones = types.SimpleNamespace(engine=engine(Factory()))
    yield made
    CONF.clear_override("state_path", group="trusted_clone")


@pytest.fixture
def kept(tmp_path: pathlib.Path) -> HostVtpms:
    """Where the host keeps them."""
    return HostVtpms(tmp_path / "domain-vtpms")


def test_one_is_made_with_what_the_host_measured(kept: HostVtpms) -> None:
    factory = Factory()
    vtpms.make(kept, engine(factory).host, SERVER)
    assert factory.made == [(SERVER, INHERITED)]
    assert kept.read(SERVER) == BLOBS


def test_a_second_one_is_not(kept: HostVtpms) -> None:
    factory = Factory()
    for _ in range(2):
        vtpms.make(kept, engine(factory).host, SERVER)
    assert len(factory.made) == 1


class TestNova:
    def test_a_server_gets_one_and_takes_it_along_when_it_goes(
        self, driver: XenLibvirtDriver, kept: HostVtpms
    ) -> None:
        driver.spawn(None, server(), None, None, None, None)
        assert kept.has(SERVER)
        driver.cleanup(None, server(), None, destroy_disks=False)
        assert kept.has(SERVER)
        driver.cleanup(None, server(), None)
        assert not kept.has(SERVER)

    def test_a_server_that_moves_has_one_of_its_host(
        self, driver: XenLibvirtDriver, kept: HostVtpms
    ) -> None:
        driver.finish_migration(None, None, server())
        assert kept.has(SERVER)
        driver.confirm_migration(None, None, server(host="another"), None)
        assert not kept.has(SERVER)

    def test_a_host_that_cannot_clone_makes_none(
        self, driver: XenLibvirtDriver, kept: HostVtpms
    ) -> None:
        driver._clones = types.SimpleNamespace(engine=None)
        driver.spawn(None, server(), None, None, None, None)
        assert not kept.has(SERVER)

    def test_a_server_runs_without_and_the_log_says_why(
        self, driver: XenLibvirtDriver, kept: HostVtpms, caplog: pytest.LogCaptureFixture
    ) -> None:
        driver._clones = types.SimpleNamespace(engine=engine(Factory(VtpmError("swtpm: no"))))
        driver.spawn(None, server(), None, None, None, None)
        assert not kept.has(SERVER)
        assert "no vTPM could be made for the server: swtpm: no" in caplog.text
