"""``openstack server clone`` as a tenant uses it: from the command to evidence that holds."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server

from tests.openstack.tenant import Done, Tenant


@pytest.fixture(scope="module")
def tenant(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path_factory.mktemp("demo"))


@dataclasses.dataclass(frozen=True)
class Family:
    """A source and what one command made of it."""

    source: Server
    done: Done
    clones: tuple[Server, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The command's table."""
        rows: list[dict[str, Any]] = self.done.json()
        return rows


@pytest.fixture(scope="module")
def family(tenant: Tenant, web: Server) -> Iterator[Family]:
    """Two clones of one server, by one command that waits and verifies."""
    words = ("--name", "größer", "--count", 2, "--property", "purpose=test", "--wait", "-f", "json")
    done = tenant.openstack("server", "clone", web.id, *words, *tenant.operator_files)
    made = tuple(
        dataclasses.replace(web, id=row["Server ID"]) for row in (done.json() if done.out else [])
    )
    yield Family(web, done, made)
    for clone in made:
        clone.delete()


class TestCloneAndWait:
    def test_both_are_complete_and_their_evidence_holds(self, family: Family):
        assert family.done.ok()
        assert [row["Name"] for row in family.rows] == ["größer-1", "größer-2"]
        assert {row["Phase"] for row in family.rows} == {"complete"}
        assert {row["Evidence"] for row in family.rows} == {"holds"}

    def test_the_pause_was_one_for_both(self, family: Family):
        (pause_us,) = {row["Pause"] for row in family.rows}
        assert 0 < pause_us < 10_000_000

    def test_progress_was_told(self, family: Family):
        """A small clone can be whole between two looks at it: how much has arrived need not be told on the way."""
        told = [line for line in family.done.err.splitlines() if line.startswith("größer-1: ")]
        assert told[-1] == "größer-1: complete"
        assert len(told) > 1
        on_the_way = re.compile(r"größer-1: \w+( \d+ %)?( [\d.]+ (B|.iB)/s)?")
        assert [line for line in told[:-1] if not on_the_way.fullmatch(line)] == []

    def test_they_are_servers_with_addresses_of_their_own(self, family: Family):
        addresses = {address for clone in family.clones for address in clone.addresses}
        assert len(addresses) == 2
        assert not addresses & set(family.source.addresses)
        assert all(clone.answers_ping() for clone in family.clones)
        assert family.source.answers_ping()

    def test_properties_arrive(self, family: Family):
        assert family.clones[0].shown().metadata["purpose"] == "test"


class TestLookingAfterThem:
    def test_list_by_source_and_by_clone(self, tenant: Tenant, family: Family):
        ids = {row["ID"] for row in family.rows}
        listed = tenant.openstack("server", "clone", "list", family.source.id, "-f", "json")
        assert ids <= {row["ID"] for row in listed.ok().json()}
        listed = tenant.openstack("server", "clone", "list", "größer-2", "-f", "json")
        assert [row["ID"] for row in listed.ok().json()] == [family.rows[1]["ID"]]

    def test_show(self, tenant: Tenant, family: Family):
        shown = tenant.openstack("server", "clone", "show", "größer-1", "-f", "json").ok().json()
        assert shown["id"] == family.rows[0]["ID"]
        assert shown["source_id"] == family.source.id
        assert shown["nonce"] == family.done.nonce
        assert shown["progress"]["bytes_verified"] == shown["progress"]["bytes_total"] > 0
        assert shown["host"] == "", "names of hosts are not for tenants"

    def test_a_complete_clone_cannot_be_aborted(self, tenant: Tenant, family: Family):
        done = tenant.openstack("server", "clone", "abort", "größer-1")
        assert done.status == 1
        assert "HTTP 409" in done.err
        assert family.clones[0].status == "ACTIVE"

    def test_another_project_sees_nothing(self, cloud: Cloud, family: Family, tmp_path):
        stranger = Tenant(cloud, tmp_path, user="other")
        for command in ("list", "show", "abort"):
            done = stranger.openstack("server", "clone", command, family.source.id)
            assert done.status == 1
            assert family.source.id in done.err

    def test_novaclient_sees_the_same(self, tenant: Tenant, family: Family):
        row = family.rows[0]
        shown = tenant.nova("clone-show", family.source.id, row["ID"]).ok()
        assert row["ID"] in shown.out
        assert row["ID"] in tenant.nova("clone-list", family.source.id).ok().out


class TestEvidence:
    @pytest.fixture(scope="class")
    def saved(self, tenant: Tenant, family: Family) -> pathlib.Path:
        file = tenant.directory / "evidence.json"
        save = ("server", "clone", "evidence", "save", "größer-1", "--file", file)
        tenant.openstack(*save).ok()
        return file

    def verify(self, tenant: Tenant, file: pathlib.Path, nonce: str, *more: object) -> Done:
        words = ("server", "clone", "evidence", "verify", file, *tenant.operator_files)
        return tenant.openstack(*words, "--nonce", nonce, "-f", "json", *more)

    def test_it_holds_offline(self, tenant: Tenant, family: Family, saved: pathlib.Path):
        servers = ("--source", family.source.id, "--server", family.clones[0].id)
        told = self.verify(tenant, saved, family.done.nonce, *servers).ok().json()
        assert told["holds"] is True
        assert (told["source_host"], told["destination_host"]) == (
            family.source.host.name,
            family.clones[0].host.name,
        )
        assert told["page_key_vouched_by"] == "vtpm"

    def test_of_the_sibling_it_does_not(self, tenant: Tenant, family: Family, saved: pathlib.Path):
        done = self.verify(tenant, saved, family.done.nonce, "--server", family.clones[1].id)
        assert done.status == 1
        assert "trusted-clone.evidence.expected-clone" in done.json()["failed"]

    def test_with_another_nonce_it_does_not(self, tenant: Tenant, family, saved: pathlib.Path):
        done = self.verify(tenant, saved, "00" * 16)
        assert done.status == 1
        assert "THE EVIDENCE DOES NOT HOLD" in done.err

    def test_a_changed_number_is_told(self, tenant: Tenant, family: Family, saved: pathlib.Path):
        changed = json.loads(saved.read_text())
        changed["clone"]["pause_us"] += 1
        file = tenant.directory / "changed.json"
        file.write_text(json.dumps(changed))
        done = self.verify(tenant, file, family.done.nonce)
        assert done.status == 1
        assert "trusted-clone.evidence.summary.pause_us" in done.json()["failed"]
