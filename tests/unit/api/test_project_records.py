"""The records of a whole project, and of all."""

from __future__ import annotations

import uuid

import pytest

from nova_trusted_clone.rpc.errors import Unavailable
from tests.unit.api.fakes import STRANGER

ADMIN = {"roles": "admin,member,reader"}


def ids(reply) -> list[str]:
    return [row["id"] for row in reply.body["trusted_clones"]]


def test_a_project_sees_its_clones_of_every_server_newest_first(world):
    made = [world.conductor.record(world.server(), world.server())["id"] for _ in range(3)]
    world.conductor.record(world.server(), world.server(), project_id=STRANGER)
    reply = world.call("GET", "/trusted-clones")
    assert (reply.status, ids(reply)) == (200, made[::-1])
    assert "trusted_clones_links" not in reply.body


def test_a_clone_that_is_mine_is_seen_whatever_became_of_its_servers(world):
    """Its evidence is asked for afterwards, too."""
    record = world.conductor.record(str(uuid.uuid4()), str(uuid.uuid4()), phase="complete")
    assert ids(world.call("GET", "/trusted-clones")) == [record["id"]]


def test_strangers_have_an_empty_list(world):
    world.conductor.record(world.server(), world.server())
    reply = world.call("GET", "/trusted-clones", project=STRANGER)
    assert (reply.status, reply.body) == (200, {"trusted_clones": []})


def test_it_comes_by_pages(world):
    made = [world.conductor.record(world.server(), world.server())["id"] for _ in range(5)]
    seen, query = [], "?limit=2"
    while query:
        reply = world.call("GET", "/trusted-clones" + query)
        seen += ids(reply)
        links = reply.body.get("trusted_clones_links", [])
        query = "?" + links[0]["href"].partition("?")[2] if links else ""
        assert all("/v2.1/trusted-clones?" in link["href"] for link in links)
    assert seen == made[::-1]


def test_it_may_be_of_one_phase(world):
    world.conductor.record(world.server(), world.server())
    failed = world.conductor.record(world.server(), world.server(), phase="failed")
    assert ids(world.call("GET", "/trusted-clones?phase=failed")) == [failed["id"]]


def test_an_administrator_may_see_all_projects_with_their_hosts(world):
    made = [
        world.conductor.record(world.server(), world.server(), project_id=project, host="host-b")
        for project in (STRANGER, "3e" * 16)
    ]
    assert ids(world.call("GET", "/trusted-clones", **ADMIN)) == []
    reply = world.call("GET", "/trusted-clones?all_projects=1", **ADMIN)
    assert ids(reply) == [record["id"] for record in made[::-1]]
    assert {row["host"] for row in reply.body["trusted_clones"]} == {"host-b"}


def test_others_do_not_get_all_projects(world):
    reply = world.call("GET", "/trusted-clones?all_projects=true")
    assert reply.status == 403
    assert "index:all_projects" in reply.said


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?limit=-1", "limit"),
        ("?marker=x", "marker"),
        (f"?marker={uuid.UUID(int=7)}", "start anew without a marker"),
        ("?phase=done", "phase"),
        ("?all_projects=perhaps", "all_projects"),
        ("?project_id=x", "project_id"),
    ],
)
def test_a_wrong_query(world, query, word):
    reply = world.call("GET", "/trusted-clones" + query)
    assert reply.status == 400
    assert word in reply.said


def test_no_conductor_no_records(world):
    world.conductor.errors["list"] = [Unavailable("list: no answer")]
    assert world.call("GET", "/trusted-clones").status == 503
