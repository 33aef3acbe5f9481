"""What happens to clones when what controls them dies in mid clone: the conductor, the broker, the database."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from labkit import process
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server

from tests.openstack.killing import kill
from tests.openstack.tenant import LIMIT_S, Running, Tenant

ENDED = ("complete", "failed", "aborted")
CONDUCTOR = "trusted-clone-conductor"


@pytest.fixture
def tenant(cloud: Cloud, tmp_path: pathlib.Path) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path)


@pytest.fixture(autouse=True)
def no_clone_left(tenant: Tenant, web: Server) -> Iterator[None]:
    """Every server that a story made of ``web`` is deleted after it."""
    before = {record["Server ID"] for record in records(tenant, web)}
    yield
    for record in records(tenant, web):
        if record["Server ID"] not in before:
            Server(web.cloud, web.client, web.admin, record["Server ID"]).delete()


def records(tenant: Tenant, web: Server) -> list[dict]:
    return tenant.openstack("server", "clone", "list", web.id, "-f", "json").ok().json()


def cloning(tenant: Tenant, web: Server, name: str) -> Running:
    """A clone that somebody waits for, once it has begun."""
    words = ("server", "clone", web.id, "--name", name, "--wait", "-f", "json")
    running = tenant.start(*words)
    running.wait_until_it_says(f"^{name}: ")
    return running


def is_complete(running: Running) -> bool:
    done = running.done()
    assert [row["Phase"] for row in done.json()] == ["complete"], done.err
    return True


def test_the_conductor_is_killed_and_comes_back(cloud: Cloud, tenant: Tenant, web: Server):
    running = cloning(tenant, web, "survivor")
    kill(cloud.service(CONDUCTOR))
    cloud.service(CONDUCTOR).start()
    assert is_complete(running)


def test_the_broker_is_restarted(cloud: Cloud, tenant: Tenant, web: Server):
    running = cloning(tenant, web, "patient")
    cloud.service("rabbitmq").restart()
    assert is_complete(running)


def test_the_database_is_restarted(cloud: Cloud, tenant: Tenant, web: Server):
    running = cloning(tenant, web, "lasting")
    cloud.service("mariadb").restart()
    running.done()
    # What the tenant's client makes of an API without a database is its own story; the clone goes on.
    assert process.wait_until(lambda: phase_of(tenant, web, "lasting") in ENDED, LIMIT_S, 2.0)
    assert phase_of(tenant, web, "lasting") == "complete"


def phase_of(tenant: Tenant, web: Server, name: str) -> str:
    (found,) = [record for record in records(tenant, web) if record["Name"] == name]
    return found["Phase"]
