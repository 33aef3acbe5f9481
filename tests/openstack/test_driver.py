"""The compute driver on running services: what a clone is afterwards, and what dies or is deleted in mid clone."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator

import pytest
from labkit import process
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server

from tests.openstack.conftest import MakeServer
from tests.openstack.tenant import LIMIT_S, Running, Tenant

NAME = "twin"


@pytest.fixture
def tenant(cloud: Cloud, tmp_path: pathlib.Path) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path)


@pytest.fixture
def source(make_server: MakeServer) -> Server:
    """A running server of this story alone."""
    return make_server()


@pytest.fixture(autouse=True)
def no_clone_left(tenant: Tenant, source: Server) -> Iterator[None]:
    """The clones go after the story, the source after them."""
    yield
    for record in records(tenant, source):
        clone_of(source, record).delete()


def records(tenant: Tenant, source: Server) -> list[dict]:
    """The source's clones, as its owner sees them."""
    listed = tenant.openstack("server", "clone", "list", source.id, "-f", "json")
    return listed.json() if listed.status == 0 else []  # it may be deleted by now


def clone_of(source: Server, record: dict) -> Server:
    return Server(source.cloud, source.client, source.admin, record["Server ID"])


def the_clone(tenant: Tenant, source: Server) -> Server:
    (record,) = records(tenant, source)
    return clone_of(source, record)


def cloning(tenant: Tenant, source: Server) -> Running:
    """A clone that is being attested or fetched."""
    words = ("server", "clone", source.id, "--name", NAME, "--wait", "-f", "json")
    running = tenant.start(*words)
    running.wait_until_it_says(f"^{NAME}: (attesting|fetching|restoring|provisional)")
    return running


def ended_in(running: Running) -> str:
    (row,) = running.done().json()
    return str(row["Phase"])


def cut_off(cloud: Cloud, host: str) -> None:
    """Kill a host's nova-compute with no word to it, and start it anew; its helper processes live on."""
    service = cloud.service(f"nova-compute-{host}")
    assert service.process is not None
    os.kill(service.process.pid, signal.SIGKILL)
    assert process.wait_until(lambda: service.process is None, 10)
    service.start()


def test_a_clone_is_an_ordinary_server_afterwards(
    tenant: Tenant, source: Server, nothing_left
) -> None:
    """Paused, rebooted, stopped, started and deleted; its source notices nothing of all that."""
    with nothing_left():
        assert ended_in(cloning(tenant, source)) == "complete"
        clone = the_clone(tenant, source)
        assert clone.says_address() and clone.answers_ping()
        assert clone.addresses != source.addresses
        for word, status in (
            ("pause", "PAUSED"),
            ("unpause", "ACTIVE"),
            ("stop", "SHUTOFF"),
            ("start", "ACTIVE"),
        ):
            tenant.openstack("server", word, clone.id).ok()
            clone.wait_for_status(status)
        clone.wait_ready()
        tenant.openstack("server", "reboot", "--hard", "--wait", clone.id).ok()
        clone.wait_ready()
        assert clone.answers_ping()
        clone.delete()
    assert source.answers_ping()


@pytest.mark.parametrize("side", ["source", "destination"])
def test_nova_compute_is_killed_in_mid_clone(
    cloud: Cloud, tenant: Tenant, source: Server, side: str
) -> None:
    """Whatever it was doing is taken over by the next one."""
    running = cloning(tenant, source)
    killed = source if side == "source" else the_clone(tenant, source)
    cut_off(cloud, killed.host.name)
    assert ended_in(running) == "complete"
    clone = the_clone(tenant, source)
    clone.wait_for_status("ACTIVE")
    assert clone.says_address()
    assert source.answers_ping()


def test_the_source_is_deleted_in_mid_clone(tenant: Tenant, source: Server) -> None:
    """Nova waits until the clone has what it needs."""
    running = cloning(tenant, source)
    clone = the_clone(tenant, source)
    source.delete(LIMIT_S)
    running.done()  # what it says of a source that is gone is the client's own story
    clone.wait_for_status("ACTIVE")
    assert clone.says_address()
    clone.delete()


def test_the_clone_is_deleted_in_mid_clone(tenant: Tenant, source: Server, nothing_left) -> None:
    with nothing_left():
        running = cloning(tenant, source)
        the_clone(tenant, source).delete()
        running.done()
    assert source.answers_ping()
