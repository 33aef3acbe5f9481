"""A tenant clones a server by a button, watches it, and takes the evidence home: a real browser, a real cloud.

One story after another with one browser; each begins where the one before has ended.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

import pytest
from labkit import process
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from openstack.connection import Connection
from selenium.webdriver.common.keys import Keys

from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import Clone
from tests.openstack.clones import SLOWED, held
from tests.openstack.horizon.browser import Person
from tests.openstack.tenant import Tenant

CLONE = "Clone Instance"
CLONE_LIMIT_S = 400.0
COUNT = 2
BAR = re.compile(r"\b\d+ %.*iB/s", re.DOTALL)
ZONE = "nova"
BACK = "192.168.78.0/24"


@pytest.fixture(scope="module")
def tenant(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """The same tenant at a terminal."""
    return Tenant(cloud, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def name(web: Server) -> str:
    """Of the source."""
    return str(web.shown().name)


@pytest.fixture(scope="module")
def demo_person(person: Person) -> Person:
    """Logged in as demo."""
    person.log_in("demo")
    return person


def open_form(person: Person, name: str) -> None:
    person.go("project/instances/")
    person.until(lambda: person.row("instances", name), f"the row of {name}")
    person.choose("instances", name, CLONE)
    person.see("#trusted_clone_form")


class TestTheForm:
    def test_it_opens_from_the_row_and_knows_the_server(self, demo_person: Person, name: str):
        open_form(demo_person, name)
        said = demo_person.text("#trusted_clone_form")
        assert "the project's quota has room for" in said
        assert "it holds nothing" in said
        assert "has sealed" in said
        assert "Same as the instance: lan" in said
        assert re.fullmatch(
            "[0-9a-f]{32}", demo_person.field("id_nonce").get_attribute("value") or ""
        )

    def test_the_nonce_is_made_anew_in_the_browser(self, demo_person: Person):
        field = demo_person.field("id_nonce")
        before = field.get_attribute("value")
        # By keyboard: the button comes after the field.
        field.send_keys(Keys.TAB, Keys.ENTER)
        demo_person.until(lambda: field.get_attribute("value") != before, "another nonce")
        assert re.fullmatch("[0-9a-f]{32}", field.get_attribute("value") or "")
        demo_person.picture("clone-form")

    def test_a_name_that_has_no_room_for_its_number(self, demo_person: Person, demo: Connection):
        before = len(list(demo.compute.servers()))
        demo_person.fill("id_name", "x" * 255)
        demo_person.fill("id_count", "2")
        demo_person.submit()
        errors = demo_person.until(demo_person.errors, "an error")
        assert list(errors) == ["name"]
        assert "expected at most 253" in errors["name"]
        assert len(list(demo.compute.servers())) == before

    def test_more_than_the_quota_allows(self, demo_person: Person, demo: Connection):
        before = len(list(demo.compute.servers()))
        demo_person.fill("id_name", "too-many")
        demo_person.fill("id_count", "60")
        demo_person.submit()
        errors = demo_person.until(
            lambda: demo_person.errors() if "count" in demo_person.errors() else None, "an error"
        )
        assert list(errors) == ["count"]
        assert "uota exceeded" in errors["count"]
        demo_person.picture("quota")
        assert len(list(demo.compute.servers())) == before

    def test_nothing_was_wrong_with_the_page(self, demo_person: Person):
        assert demo_person.complaints() == []


@dataclasses.dataclass
class Made:
    """What came of the request."""

    nonce: str
    clones: list[Clone]
    seen: list[str]


@pytest.fixture(scope="module")
def made(demo_person: Person, web: Server, demo: Connection, name: str) -> Iterator[Made]:
    """Two clones by the button, watched until they are complete; slowed until the bar was seen."""
    person = demo_person
    seen: list[str] = []
    api = TrustedClones(demo.compute)

    def watched() -> bool:
        for number in range(COUNT):
            row = person.row("instances", f"copy-{number + 1}")
            said = row.text if row is not None else ""
            if said and said not in seen:
                seen.append(said)
                if BAR.search(said):
                    person.picture("progress")
        rows = [person.row("instances", f"copy-{n + 1}") for n in range(COUNT)]
        return all(row is not None and "Complete" in row.text for row in rows)

    def bar() -> bool:
        return watched() or any(BAR.search(said) for said in seen)

    try:
        with held(web, SLOWED):
            open_form(person, name)
            person.fill("id_name", "copy")
            person.fill("id_count", str(COUNT))
            nonce = person.field("id_nonce").get_attribute("value") or ""
            person.submit()
            person.until(lambda: person.row("instances", "copy-1"), "the clones' rows")
            person.until(bar, "a bar with percent and rate", CLONE_LIMIT_S)
        person.until(watched, "both are complete", CLONE_LIMIT_S)
        clones = [clone for clone in api.list(web.id) if clone.name.startswith("copy-")]
        # For a later story: a guest that does not listen to its power button takes Nova a minute.
        demo.compute.stop_server(clones[1].server_id)
        yield Made(nonce, clones, seen)
    finally:
        for clone in api.list(web.id):
            dataclasses.replace(web, id=clone.server_id).delete()


class TestTheClones:
    def test_their_rows_changed_by_themselves(self, made: Made):
        """Nobody has loaded the page again: phases, percent and rate came by Horizon's refresh."""
        said = "\n".join(made.seen)
        assert BAR.search(said), said
        assert "Complete" in said

    def test_they_are_what_the_form_asked_for(self, made: Made):
        assert [clone.name for clone in made.clones] == ["copy-1", "copy-2"]
        assert {clone.nonce for clone in made.clones} == {made.nonce}
        assert {clone.phase for clone in made.clones} == {"complete"}

    def test_the_panel_lists_them(self, demo_person: Person, made: Made):
        demo_person.go("project/trusted_clones/")
        for clone in made.clones:
            assert demo_person.row("trusted_clones", clone.name) is not None
        demo_person.picture("clones")
        assert "Download Evidence" in demo_person.actions("trusted_clones", "copy-1")
        assert "Abort Clone" not in demo_person.actions("trusted_clones", "copy-1")

    def test_a_clones_page_shows_where_it_comes_from(
        self, demo_person: Person, made: Made, name: str
    ):
        self.open(demo_person, made.clones[0])
        drawn = demo_person.see("svg.trusted-clone-lineage")
        said = drawn.text
        for word in (name, "Freeze", "copy-1", "copy-2"):
            assert word in said
        demo_person.picture("overview")

    def test_its_boxes_are_reached_by_keyboard(self, demo_person: Person, made: Made):
        links = demo_person.all("svg.trusted-clone-lineage a")
        assert len(links) == 3
        demo_person.driver.execute_script("arguments[0].focus()", links[-1])
        demo_person.driver.switch_to.active_element.send_keys(Keys.ENTER)
        wanted = f"/{made.clones[1].server_id}/{made.clones[1].id}/"
        demo_person.until(lambda: wanted in demo_person.driver.current_url, "the sibling's page")

    def test_both_hosts_checks_are_shown_and_hold(self, demo_person: Person, made: Made):
        clone = made.clones[0]
        self.open(demo_person, clone, "?tab=trusted_clone_details__attestation")
        assert re.search(r"holds: all \d+ checks", demo_person.text(".alert-success"))
        panels = [one.text for one in demo_person.all(".trusted-clone-attestation .panel")]
        assert "host-" in panels[0]
        assert "host-" in panels[1]
        assert "that you gave with the request" in demo_person.text()
        demo_person.picture("attestation")

    def test_each_message_can_be_unfolded_by_keyboard(self, demo_person: Person, made: Made):
        closed = demo_person.all(".trusted-clone-attestation details:not([open]) summary")
        assert closed
        closed[0].send_keys(Keys.ENTER)
        demo_person.until(
            lambda: (
                len(demo_person.all(".trusted-clone-attestation details:not([open])")) < len(closed)
            ),
            "one more is open",
        )

    def test_another_nonce_does_not_hold(self, demo_person: Person, made: Made):
        demo_person.fill("trusted_clone_nonce", "00" * 16 + Keys.ENTER)
        said = demo_person.text(".alert-danger")
        assert "does not hold" in said
        assert "trusted-clone.evidence.nonce" in said

    def test_the_evidence_is_taken_home_and_verified_there(
        self, demo_person: Person, made: Made, tenant: Tenant
    ):
        clone = made.clones[0]
        demo_person.go("project/trusted_clones/")
        demo_person.choose("trusted_clones", clone.name, "Download Evidence")
        file = demo_person.downloads / f"trusted-clone-{clone.id}.json"
        assert process.wait_until(file.exists, 60.0, 0.2), list(demo_person.downloads.iterdir())
        self.verify(tenant, file, made.nonce, clone)

    def verify(self, tenant: Tenant, file: pathlib.Path, nonce: str, clone: Clone) -> None:
        words = ("server", "clone", "evidence", "verify", file, *tenant.operator_files)
        more = ("--source", clone.source_id, "--server", clone.server_id, "-f", "json")
        done = tenant.openstack(*words, "--nonce", nonce, *more).ok()
        assert json.loads(done.out)["holds"] is True

    def open(self, person: Person, clone: Clone, query: str = "") -> None:
        person.go(f"project/trusted_clones/{clone.server_id}/{clone.id}/{query}")

    def test_nothing_was_wrong_with_the_pages(self, demo_person: Person, made: Made):
        assert demo_person.complaints() == []


@pytest.fixture(scope="module")
def back(demo: Connection) -> Iterator[str]:
    """Another network, the tenant's own; the clones on it are gone before it is."""
    network = demo.network.create_network(name="back")
    subnet = demo.network.create_subnet(
        network_id=network.id, name="back", ip_version=4, cidr=BACK, gateway_ip=None
    )
    yield str(network.name)
    demo.network.delete_subnet(subnet)
    demo.network.delete_network(network)


class TestOtherWishes:
    def test_a_zone_a_network_and_eager_are_what_the_clone_gets(
        self, demo_person: Person, back: str, web: Server, demo: Connection, name: str
    ):
        person = demo_person
        open_form(person, name)
        person.fill("id_name", "wished")
        person.select("id_availability_zone", ZONE)
        person.select("id_network_0", back)
        person.tick("memory", "eager")
        person.submit()
        person.until(lambda: person.row("instances", "wished"), "the clone's row")
        clone = the_clone(demo, web, "wished")
        server = dataclasses.replace(web, id=clone.server_id)
        try:
            person.until(
                lambda: says(person, "wished", "Complete"), "it is complete", CLONE_LIMIT_S
            )
            shown = server.shown()
            assert the_clone(demo, web, "wished").memory == "eager"
            assert shown.availability_zone == ZONE
            assert list(shown.addresses) == [back]
            person.go(f"project/trusted_clones/{clone.server_id}/{clone.id}/")
            assert "Eager" in person.text(".detail")
        finally:
            server.delete()

    def test_a_vtpm_that_its_host_does_not_derive_is_refused_beside_the_choice(
        self, demo_person: Person, demo: Connection, name: str
    ):
        """The lab's operator has not allowed it."""
        person = demo_person
        before = len(list(demo.compute.servers()))
        open_form(person, name)
        person.fill("id_name", "derived")
        person.tick("vtpm", "derive")
        person.submit()
        errors = person.until(person.errors, "an error")
        assert list(errors) == ["vtpm"]
        assert "the policy of the server's host allows only new" in errors["vtpm"]
        assert len(list(demo.compute.servers())) == before


def the_clone(demo: Connection, web: Server, name: str) -> Clone:
    (clone,) = [one for one in TrustedClones(demo.compute).list(web.id) if one.name == name]
    return clone


def says(person: Person, name: str, word: str) -> bool:
    row = person.row("instances", name)
    return row is not None and word in row.text


class TestAbort:
    def test_a_clone_on_its_way_is_ended_by_its_button(
        self, demo_person: Person, made: Made, web: Server, demo: Connection, name: str
    ):
        """Held where nothing of it has been fetched: a quiet machine would have it complete before the page is there."""
        person = demo_person
        with held(web) as hold:
            open_form(person, name)
            person.fill("id_name", "doomed")
            person.submit()
            hold.wait()
            person.until(
                lambda: (
                    person.row("instances", "doomed") is not None
                    and "Abort Clone" in person.actions("instances", "doomed")
                ),
                "a clone on its way",
            )
            person.choose("instances", "doomed", "Abort Clone")
            person.see("#modal_wrapper .modal-footer .btn-danger").click()
            person.until(lambda: "Scheduled abort of Clone" in person.text(), "what was done")
        api = TrustedClones(demo.compute)
        (clone,) = [one for one in api.list(web.id) if one.name == "doomed"]
        assert clone.phase == "aborted"
        person.go("project/trusted_clones/")
        row = person.row("trusted_clones", "doomed")
        assert row is not None
        assert "Aborted" in row.text
        assert person.actions("trusted_clones", "doomed") == []


class TestWhoSeesWhat:
    def test_a_server_that_is_stopped_has_no_button(
        self, demo_person: Person, made: Made, demo: Connection
    ):
        clone = made.clones[1]
        demo.compute.wait_for_server(
            demo.compute.get_server(clone.server_id), status="SHUTOFF", wait=240
        )
        demo_person.go("project/instances/")
        assert CLONE not in demo_person.actions("instances", clone.name)
        assert CLONE in demo_person.actions("instances", made.clones[0].name)

    def test_the_page_of_an_instance_has_the_button(self, demo_person: Person, web: Server):
        demo_person.go(f"project/instances/{web.id}/")
        assert CLONE in (demo_person.see(".detail-actions").get_attribute("textContent") or "")

    def test_another_tenant_sees_nothing(self, person: Person, made: Made):
        person.log_in("other")
        person.go("project/trusted_clones/")
        assert "No items to display" in person.text("#trusted_clones")
        clone = made.clones[0]
        person.go(f"project/trusted_clones/{clone.server_id}/{clone.id}/")
        person.until(lambda: person.driver.current_url.endswith("/trusted_clones/"), "the list")
        assert clone.name not in person.text()

    def test_an_administrator_sees_the_clones_and_cannot_clone_what_is_anothers(
        self, person: Person, made: Made, name: str
    ):
        person.log_in("admin")
        person.go("admin/instances/")
        row = person.row("instances", made.clones[0].name)
        assert row is not None
        assert "Complete" in row.text
        assert CLONE not in person.actions("instances", name)
        person.picture("admin")
