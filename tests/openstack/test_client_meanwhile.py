"""What happens while a tenant waits for clones: Ctrl-C, an API that restarts, a clone that is deleted, an abort."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server

from tests.openstack.clones import Clones, held
from tests.openstack.tenant import Tenant


@pytest.fixture
def tenant(cloud: Cloud, tmp_path) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path)


@pytest.fixture(autouse=True)
def clones(tenant: Tenant, web: Server) -> Iterator[Clones]:
    """Clones of ``web``, deleted after the story."""
    made = Clones(tenant, web)
    yield made
    made.remove()


def test_ctrl_c_ends_the_waiting_and_not_the_clone(tenant: Tenant, web: Server, clones: Clones):
    running = tenant.start("server", "clone", web.id, "--name", "stopped", "--wait")
    running.wait_until_it_says("^stopped: ")
    running.interrupt()
    done = running.done()
    assert done.status == 130
    assert "You stopped waiting; the clones go on." in done.err
    assert clones.wait_for_end("stopped") == "complete"
    words = re.search(r"openstack (server clone list \S+)", done.err)
    assert words
    assert "stopped" in tenant.openstack(*words[1].split()).ok().out


def test_the_api_restarts(cloud: Cloud, tenant: Tenant, web: Server):
    words = ("server", "clone", web.id, "--name", "patient", "--wait", "-f", "json")
    with held(web) as hold:
        running = tenant.start(*words)
        hold.wait()
        cloud.service("nova-api").stop()
    cloud.service("nova-api").start()
    done = running.done().ok()
    assert [row["Phase"] for row in done.json()] == ["complete"]
    assert "the cloud answers again" in done.err


def test_one_of_two_is_deleted(tenant: Tenant, web: Server):
    words = ("server", "clone", web.id, "--name", "pair", "--count", 2, "--wait", "-f", "json")
    with held(web) as hold:
        running = tenant.start(*words)
        hold.wait()
        tenant.openstack("server", "delete", "pair-1").ok()
    done = running.done()
    assert done.status == 1
    first, second = done.json()
    assert first["Phase"] in ("failed", "aborted", "gone")
    assert second["Phase"] == "complete"
    assert "1 of 2 clones did not come to be" in done.err


def test_one_of_two_is_aborted(tenant: Tenant, web: Server):
    words = ("server", "clone", web.id, "--name", "two", "--count", 2, "--wait", "-f", "json")
    with held(web) as hold:
        running = tenant.start(*words)
        hold.wait()
        tenant.openstack("server", "clone", "abort", web.id, "two-1").ok()
    first, second = running.done().json()
    assert first["Phase"] == "aborted"
    assert first["Reason"]
    assert second["Phase"] == "complete"


def test_a_name_that_two_servers_have(
    tenant: Tenant, make_server: Callable[..., Server], web: Server
):
    name = "zwei größe"
    for _ in range(2):
        make_server(name, ready=False, flavor="plain")
    done = tenant.openstack("server", "clone", name)
    assert done.status == 1
    assert "give its ID instead of its name" in done.err


def test_a_server_that_is_not_there(tenant: Tenant):
    done = tenant.openstack("server", "clone", "nobody", "--wait")
    assert done.status == 1
    assert "nobody" in done.err
    assert "Nonce" not in done.err, "nothing was asked for"
