"""``openstack server clone list``, ``show``, ``abort`` and ``evidence save``."""

from __future__ import annotations

import json
import pathlib
import uuid

import pytest

from tests.unit.client.cloud import Cloud
from tests.unit.client.conftest import Openstack, Recorded

ATTEMPT = {"host": "b", "reason": "PCR 4 differs", "code": "trusted-clone.x", "ended_at": "t"}


@pytest.fixture
def family(cloud: Cloud) -> list[dict]:
    """A source and two clones that are under way."""
    source = cloud.server("web")
    return [
        cloud.record(source, cloud.server("web-1"), phase="fetching", pause_us=23000),
        cloud.record(source, cloud.server("web-2"), phase="claimed", attempts=[ATTEMPT]),
    ]


class TestList:
    def test_of_a_source(self, openstack: Openstack, family: list[dict]):
        done = openstack("server", "clone", "list", family[0]["source_id"], "-f", "json")
        assert [row["ID"] for row in done.json()] == [row["id"] for row in family]
        assert done.json()[0]["Phase"] == "fetching"

    def test_of_a_clone_tells_where_it_comes_from(self, openstack: Openstack, family: list[dict]):
        done = openstack("server", "clone", "list", "web-2", "-f", "json")
        assert [row["Source ID"] for row in done.json()] == [family[1]["source_id"]]

    def test_of_a_server_without_clones_is_empty(self, cloud: Cloud, openstack: Openstack):
        cloud.server("alone")
        assert openstack("server", "clone", "list", "alone", "-f", "json").json() == []

    def test_by_phase(self, openstack: Openstack, family: list[dict]):
        source = family[0]["source_id"]
        done = openstack("server", "clone", "list", source, "--phase", "claimed", "-f", "json")
        assert [row["Name"] for row in done.json()] == ["web-2"]

    def test_long(self, openstack: Openstack, family: list[dict]):
        source = family[0]["source_id"]
        row = openstack("server", "clone", "list", source, "--long", "-f", "json").json()[0]
        assert (row["vTPM"], row["Memory"], row["Host"]) == ("new", "lazy", "")

    def test_a_server_whose_name_is_a_command(self, cloud: Cloud, openstack: Openstack):
        source = cloud.server("list")
        assert openstack("server", "clone", "--", "list").status == 0
        assert cloud.requests("POST", f"/servers/{source}/action")


class TestShow:
    @pytest.mark.parametrize("by", ["id", "name", "server_id"])
    def test_by_anything_that_names_it(self, openstack: Openstack, family: list[dict], by: str):
        source = family[0]["source_id"]
        done = openstack("server", "clone", "show", source, family[1][by], "-f", "json")
        assert done.status == 0, done.err
        assert done.json()["id"] == family[1]["id"]
        assert done.json()["attempts"] == [ATTEMPT]

    def test_a_clones_own_server_is_enough(self, openstack: Openstack, family: list[dict]):
        done = openstack("server", "clone", "show", "web-1", "-f", "json")
        assert (done.json()["id"], done.json()["pause"]) == (family[0]["id"], 23000)

    def test_for_people(self, openstack: Openstack, family: list[dict]):
        shown = openstack("server", "clone", "show", "web-2").out
        assert "t b trusted-clone.x PCR 4 differs" in shown

    def test_a_source_has_to_say_which(self, openstack: Openstack, family: list[dict]):
        done = openstack("server", "clone", "show", "web-1")
        assert done.status == 0
        done = openstack("server", "clone", "show", family[0]["source_id"])
        assert done.status == 1
        assert "say which of its clones is meant" in done.err

    def test_a_clone_of_somebody_else(self, openstack: Openstack, family: list[dict]):
        done = openstack("server", "clone", "show", "web-1", str(uuid.uuid4()))
        assert done.status == 1
        assert "has no clone" in done.err

    def test_a_name_that_two_clones_have(
        self, cloud: Cloud, openstack: Openstack, family: list[dict]
    ):
        cloud.record(family[0]["source_id"], cloud.server("web-1"))
        done = openstack("server", "clone", "show", family[0]["source_id"], "web-1")
        assert done.status == 1
        assert "several clones are meant" in done.err
        assert family[0]["id"] in done.err


class TestAbort:
    def test_several(self, cloud: Cloud, openstack: Openstack, family: list[dict]):
        done = openstack("server", "clone", "abort", family[0]["source_id"], "web-1", "web-2")
        assert done.status == 0, done.err
        assert [row["phase"] for row in cloud.records.values()] == ["aborted", "aborted"]

    def test_a_clone_by_its_own_server(self, cloud: Cloud, openstack: Openstack, family):
        assert openstack("server", "clone", "abort", "web-1").status == 0
        assert [row["phase"] for row in cloud.records.values()] == ["aborted", "claimed"]

    def test_one_that_fails_keeps_no_other(self, cloud: Cloud, openstack: Openstack, family):
        family[0]["phase"] = "complete"
        source = family[0]["source_id"]
        done = openstack("server", "clone", "abort", source, "web-1", "nobody", "web-2")
        assert done.status == 1
        assert "is complete: delete its server instead" in done.err
        assert "has no clone nobody" in done.err
        assert "2 of 3 clones were not aborted" in done.err
        assert family[1]["phase"] == "aborted"


class TestSave:
    @pytest.fixture
    def saved(self, cloud: Cloud, recorded: Recorded, family: list[dict]) -> str:
        cloud.evidence[family[0]["id"]] = recorded.evidence
        return family[0]["id"]

    def test_under_a_name_that_is_its_own(
        self, openstack: Openstack, saved: str, recorded: Recorded
    ):
        done = openstack("server", "clone", "evidence", "save", "web-1")
        assert (done.status, done.out) == (0, f"trusted-clone-{saved}.json\n")
        assert json.loads(pathlib.Path(done.out.strip()).read_text()) == recorded.evidence

    def test_under_another(
        self, openstack: Openstack, saved: str, tmp_path: pathlib.Path, family: list[dict]
    ):
        file = tmp_path / "größer.json"
        words = (family[0]["source_id"], saved, "--file", file)
        assert openstack("server", "clone", "evidence", "save", *words).status == 0
        assert file.exists()

    def test_never_over_another_file(
        self, openstack: Openstack, saved: str, tmp_path: pathlib.Path
    ):
        (tmp_path / "taken").write_text("mine")
        words = ("web-1", "--file", tmp_path / "taken")
        done = openstack("server", "clone", "evidence", "save", *words)
        assert done.status == 1
        assert "taken" in done.err
        assert (tmp_path / "taken").read_text() == "mine"

    def test_there_is_none_yet(
        self, cloud: Cloud, openstack: Openstack, family: list[dict], tmp_path: pathlib.Path
    ):
        done = openstack("server", "clone", "evidence", "save", "web-2", "--file", tmp_path / "e")
        assert done.status == 1
        assert "there is no evidence yet" in done.err
        assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("command", ["list", "show", "abort"])
def test_a_cloud_without_trusted_clones(cloud: Cloud, openstack: Openstack, command: str):
    source = cloud.server("web")
    cloud.offers_clones = False
    cloud.fail("GET", "/trusted-clones", status=404, body={"itemNotFound": {"message": "nothing"}})
    done = openstack("server", "clone", command, source)
    assert done.status == 1
    assert "this cloud has no trusted clones" in done.err
