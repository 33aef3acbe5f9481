"""The records of clones: who sees which, and what of them."""

from __future__ import annotations

import uuid

import pytest

from nova_trusted_clone.rpc.errors import Unavailable
from tests.unit.api import world as worlds
from tests.unit.api.fakes import STRANGER

ADMIN = {"roles": "admin,member,reader"}
READER = {"roles": "reader"}
ATTEMPT = {
    "attempt_id": "cd" * 16,
    "host": "host-b",
    "reason": "PCR 4 of host-b is not as it should be",
    "code": "trusted-clone.quote.pcr",
    "ended_at": "2026-11-24T21:00:05Z",
}
EVIDENCE = {"format": "trusted-clone-evidence/1", "clone": {"clone_id": "00"}, "messages": {}}


@pytest.fixture
def pair(world):
    """A server, its clone, and the record that both have."""
    source, clone = world.server(), world.server(display_name="copy")
    record = world.conductor.record(source, clone, host="host-b", attempts=[ATTEMPT])
    return source, clone, record


def of(server: str, *parts: str) -> str:
    return "/".join((f"/servers/{server}/trusted-clones", *parts))


# -- list -------------------------------------------------------------------------------------------------------------


def test_source_and_clone_have_the_same_record(world, pair):
    source, clone, record = pair
    world.conductor.record(world.server(), world.server())
    for server in (source, clone):
        reply = world.call("GET", of(server))
        assert reply.status == 200
        assert [row["id"] for row in reply.body["trusted_clones"]] == [record["id"]]
        assert "trusted_clones_links" not in reply.body


def test_a_server_without_clones_has_an_empty_list(world):
    assert world.call("GET", of(world.server())).body == {"trusted_clones": []}


def test_long_lists_come_by_pages(world):
    source = world.server()
    ids = [world.conductor.record(source, world.server())["id"] for _ in range(5)][::-1]
    seen, query = [], "?limit=2"
    while query:
        reply = world.call("GET", of(source) + query)
        seen += [row["id"] for row in reply.body["trusted_clones"]]
        links = reply.body.get("trusted_clones_links", [])
        query = "?" + links[0]["href"].partition("?")[2] if links else ""
        assert all(of(source) in link["href"] and link["rel"] == "next" for link in links)
    assert seen == ids


def test_a_list_may_have_no_room(world, pair):
    assert world.call("GET", of(pair[0]) + "?limit=0").body == {"trusted_clones": []}


def test_a_list_may_be_of_one_phase(world, pair):
    source, _, record = pair
    failed = world.conductor.record(source, world.server(), phase="failed")
    for phase, found in (("failed", failed), ("scheduling", record)):
        reply = world.call("GET", of(source) + f"?phase={phase}")
        assert [row["id"] for row in reply.body["trusted_clones"]] == [found["id"]]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?limit=-1", "limit"),
        ("?limit=x", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?marker=x", "marker"),
        (f"?marker={uuid.UUID(int=7)}", "start anew without a marker"),
        ("?phase=done", "phase"),
        ("?colour=red", "colour"),
    ],
)
def test_a_wrong_query(world, pair, query, word):
    reply = world.call("GET", of(pair[0]) + query)
    assert reply.status == 400
    assert word in reply.said


# -- show -------------------------------------------------------------------------------------------------------------


def test_a_record_tells_everything_but_whose_and_where(world, pair):
    source, clone, record = pair
    reply = world.call("GET", of(source, record["id"]))
    assert reply.status == 200
    shown = reply.body["trusted_clone"]
    assert (shown["source_id"], shown["server_id"]) == (source, clone)
    assert shown["phase"] == "scheduling"
    assert shown["lineage"] == [source]
    assert shown["attempts"] == [{key: ATTEMPT[key] for key in ("reason", "code", "ended_at")}]
    assert not {"user_id", "attempt_id", "host", "source_host"} & set(shown)


def test_an_administrator_sees_where(world, pair):
    source, _, record = pair
    shown = world.call("GET", of(source, record["id"]), **ADMIN).body["trusted_clone"]
    assert (shown["source_host"], shown["host"]) == ("host-a", "host-b")
    assert shown["attempts"][0]["host"] == "host-b"
    listed = world.call("GET", of(source), **ADMIN).body["trusted_clones"]
    assert listed == [shown]


def test_operators_may_let_tenants_see_where(world, pair):
    source, _, record = pair
    with world.policy({"os_compute_api:trusted-clone:show:hosts": "rule:project_reader_api"}):
        shown = world.call("GET", of(source, record["id"]), **READER).body["trusted_clone"]
    assert shown["host"] == "host-b"


def test_readers_read(world, pair):
    source, _, record = pair
    world.conductor.evidences[record["id"]] = EVIDENCE
    for path in (of(source), of(source, record["id"]), of(source, record["id"], "evidence")):
        assert world.call("GET", path, **READER).status == 200


@pytest.mark.parametrize("clone", ["x", str(uuid.UUID(int=7)), "../action"])
def test_an_unknown_clone(world, pair, clone):
    reply = world.call("GET", of(pair[0], clone))
    assert reply.status == 404


def test_a_record_is_only_seen_by_way_of_its_servers(world, pair):
    """Otherwise anyone's would be seen by way of one's own."""
    _, _, record = pair
    other = world.server()
    for method, path in (
        ("GET", of(other, record["id"])),
        ("GET", of(other, record["id"], "evidence")),
        ("DELETE", of(other, record["id"])),
    ):
        reply = world.call(method, path)
        assert reply.status == 404
        assert "has no trusted clone" in reply.said
    assert not world.conductor.aborted


def test_strangers_find_nothing(world, pair):
    source, _, record = pair
    for method, path in (
        ("GET", of(source)),
        ("GET", of(source, record["id"])),
        ("GET", of(source, record["id"], "evidence")),
        ("DELETE", of(source, record["id"])),
    ):
        assert world.call(method, path, project=STRANGER).status == 404


def test_an_administrator_sees_those_of_every_project(world):
    source = world.server(project=STRANGER)
    record = world.conductor.record(source, world.server(project=STRANGER))
    assert world.call("GET", of(source, record["id"]), **ADMIN).status == 200


def test_the_records_of_a_deleted_server_are_still_there(world, pair):
    """Evidence is asked for afterwards, too."""
    source, clone, record = pair
    world.conductor.evidences[record["id"]] = EVIDENCE
    worlds.delete(clone)
    assert world.call("GET", f"/servers/{clone}").status == 404
    for path in (of(clone), of(clone, record["id"]), of(clone, record["id"], "evidence")):
        assert world.call("GET", path).status == 200
    assert world.call("DELETE", of(clone, record["id"])).status == 404
    assert world.call("DELETE", of(source, record["id"])).status == 202


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_evidence_comes_as_it_was_recorded(world, pair):
    _, clone, record = pair
    world.conductor.evidences[record["id"]] = EVIDENCE
    reply = world.call("GET", of(clone, record["id"], "evidence"))
    assert (reply.status, reply.body) == (200, {"evidence": EVIDENCE})


def test_a_clone_that_is_not_complete_has_no_evidence(world, pair):
    source, _, record = pair
    reply = world.call("GET", of(source, record["id"], "evidence"))
    assert reply.status == 409
    assert "is not complete" in reply.said and "trusted-clone.evidence.none" in reply.said


# -- abort ------------------------------------------------------------------------------------------------------------


def test_a_clone_is_ended(world, pair):
    source, _, record = pair
    reply = world.call("DELETE", of(source, record["id"]))
    assert (reply.status, reply.body) == (202, None)
    assert world.conductor.aborted[record["id"]].startswith("aborted by request req-")
    assert world.events(source) == ["trusted_clone_abort"]


def test_a_clone_that_has_no_host_yet_is_ended(world):
    made = world.clone(world.server()).body["trusted_clones"]["clones"][0]
    assert world.call("DELETE", of(made["server_id"], made["id"])).status == 202


def test_a_complete_clone_is_deleted_not_aborted(world, pair):
    source, _, record = pair
    record["phase"] = "complete"
    reply = world.call("DELETE", of(source, record["id"]))
    assert reply.status == 409
    assert "delete the server to end it" in reply.said
    assert world.events(source) == []


def test_readers_do_not_abort(world, pair):
    source, _, record = pair
    reply = world.call("DELETE", of(source, record["id"]), **READER)
    assert reply.status == 403
    assert not world.conductor.aborted


# -- the conductor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "called", "parts"),
    [
        ("GET", "list", ()),
        ("GET", "get", ("{id}",)),
        ("GET", "evidence", ("{id}", "evidence")),
        ("DELETE", "abort", ("{id}",)),
    ],
)
def test_no_conductor_no_records(world, pair, method, called, parts):
    source, _, record = pair
    world.conductor.errors[called] = [Unavailable("get on trusted_clone_conductor: no answer")]
    path = of(source, *(part.format(id=record["id"]) for part in parts))
    reply = world.call(method, path)
    assert reply.status == 503
    assert "does not answer" in reply.said and "Try again" in reply.said
    assert "serviceUnavailable" in reply.body


def test_what_the_conductor_says_is_checked(world, pair):
    source, _, record = pair
    record["phase"] = "elated"
    assert world.call("GET", of(source, record["id"])).status == 503
