"""Many at once: two sources, more clones than hosts have room for, two requests at the same moment."""

from __future__ import annotations

import concurrent.futures
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from labkit import netns, process
from labkit.cloud import clients
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server

from tests.openstack import configured
from tests.openstack.clones import Clones, held, phases
from tests.openstack.conftest import MakeServer
from tests.openstack.tenant import LIMIT_S, Tenant

AT_ONCE = 4
CROWD = ("crowd-1", "crowd-2", "crowd-3")


@pytest.fixture
def tenant(cloud: Cloud, tmp_path: pathlib.Path) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path)


@pytest.fixture
def clones(tenant: Tenant, web: Server) -> Iterator[Clones]:
    """Clones of ``web``, deleted after the story."""
    made = Clones(tenant, web)
    yield made
    made.remove()


def test_two_sources_at_once(tenant: Tenant, clones: Clones, make_server: MakeServer) -> None:
    """Each clone is of its own source, and works."""
    others = Clones(tenant, make_server())
    both = [clones.begin("of-one"), others.begin("of-the-other")]
    try:
        assert [phases(one.done()) for one in both] == [["complete"], ["complete"]]
        for made, name in ((clones, "of-one"), (others, "of-the-other")):
            clone = made.server(name)
            clone.wait_for_status()
            assert clone.says_address() and clone.answers_ping()
            assert clone.console.check_itself().bad == 0
    finally:
        others.remove()


def ask_at_once(cloud: Cloud, source: Server) -> list[Any]:
    """The replies to as many requests for clones of one server, each of a client of its own."""
    barrier = threading.Barrier(AT_ONCE)

    def ask(number: int) -> Any:
        with netns.inside(cloud.control.sandbox.holder.pid):
            client = clients.connect(cloud.control, "demo")
            client.authorize()
            barrier.wait()
            wish = {"trustedClone": {"name": f"racer-{number}"}}
            return client.compute.post(f"/servers/{source.id}/action", json=wish, raise_exc=False)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, range(AT_ONCE)))


def test_of_requests_at_the_same_moment_one_is_taken(cloud: Cloud, clones: Clones) -> None:
    """The others are told by which clone the server is occupied; the same request later is another one."""
    replies = ask_at_once(cloud, clones.source)
    assert sorted(one.status_code for one in replies) == [202, *[409] * (AT_ONCE - 1)]
    for one in replies:
        if one.status_code == 409:
            assert "being cloned already" in one.text
            assert "trusted-clone.source.busy" in one.text
    (record,) = [one for one in clones.records() if one["name"].startswith("racer-")]
    assert clones.wait_for_end(record["name"]) == "complete"
    again = clones.source.client.compute.post(
        f"/servers/{clones.source.id}/action", json={"trustedClone": {"name": "again"}}
    )
    assert again.status_code == 202
    assert clones.wait_for_end("again") == "complete"


def test_a_host_receives_so_many_and_no_more(cloud: Cloud, clones: Clones) -> None:
    """One too many for each host to have one ends with that reason, and the others do not notice.

    Of servers that are scheduled together Nova takes no host that one of them was given as an alternative for another: with
    as many clones as hosts, none has another one to go to.
    """
    with (
        configured.computes(cloud, max_clones=1, network_limit_s=300),
        held(clones.source) as hold,
    ):
        running = clones.begin("crowd", "--count", 3)
        hold.wait()

        def refused() -> list[dict[str, Any]]:
            crowd = [one for one in clones.records(clones.source.admin) if one["name"] in CROWD]
            return [one for one in crowd if one["phase"] == "failed"]

        assert process.wait_until(lambda: bool(refused()), LIMIT_S, 1.0)
        hold.let_go()
        assert sorted(phases(running.done())) == ["complete", "complete", "failed"]
        (one,) = refused()
        assert "this host receives 1 clones already, its limit" in one["reason"]
        records = [one for one in clones.records(clones.source.admin) if one["name"] in CROWD]
        complete = [one for one in records if one["phase"] == "complete"]
        assert len({one["host"] for one in complete}) == 2
        assert len({one["freeze_id"] for one in complete}) == 1
