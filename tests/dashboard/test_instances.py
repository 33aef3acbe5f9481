"""The tables of instances: who sees the button, and what they see of a clone on its way."""

from __future__ import annotations

from django.urls import reverse
from openstack_dashboard import api

from nova_trusted_clone.client import errors
from tests.dashboard.cloud import AJAX, TestCase, fetching, patched

INDEX = reverse("horizon:project:instances:index")
ADMIN = reverse("horizon:admin:instances:index")


class TheButton(TestCase):
    def button(self) -> str:
        page = self.client.get(INDEX).content.decode()
        return reverse("horizon:project:trusted_clones:clone", args=[self.server.id]) in page

    def test_it_is_in_the_row_of_an_instance_that_runs(self):
        assert self.button()

    def test_it_is_not_there_while_the_instance_does_not_run(self):
        for status in ("SHUTOFF", "PAUSED", "SUSPENDED", "ERROR", "BUILD", "SHELVED_OFFLOADED"):
            self.server.status = status
            assert not self.button(), status

    def test_it_is_not_there_while_something_is_done_with_the_instance(self):
        setattr(self.server, "OS-EXT-STS:task_state", "image_snapshot")
        assert not self.button()

    def test_it_is_not_there_while_the_instance_is_locked(self):
        self.server.locked = True
        assert not self.button()

    def test_readers_have_none(self):
        self.be("reader")
        assert not self.button()

    def test_it_is_on_the_page_of_the_instance(self):
        self.be("member", "reader")
        page = self.client.get(reverse("horizon:project:instances:detail", args=[self.server.id]))
        link = reverse("horizon:project:trusted_clones:clone", args=[self.server.id])
        assert f'href="{link}"' in page.content.decode()


class TheAdministratorsTable(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.be("admin", "member", "reader", project=self.tenant.id)
        self.server.tenant_id = self.tenant.id
        one = patched(
            api.keystone,
            tenant_list=lambda request, **more: (self.tenants.list(), False),
        )
        one.__enter__()
        self.addCleanup(one.__exit__, None, None, None)

    def page(self) -> str:
        return self.client.get(ADMIN).content.decode()

    def test_their_own_projects_instances_have_the_button(self):
        assert f"/project/trusted_clones/{self.server.id}/clone/" in self.page()

    def test_those_of_other_projects_have_none(self):
        """A clone has the memory of its source: by policy not even an administrator gets it."""
        self.server.tenant_id = "0e" * 16
        assert f"/project/trusted_clones/{self.server.id}/clone/" not in self.page()

    def test_clones_of_every_project_are_seen(self):
        self.clones.record("source", self.server.id, **fetching(42))
        assert "42 %" in self.page()


class AClonesRow(TestCase):
    def row(self) -> str:
        query = f"?action=row_update&table=instances&obj_id={self.server.id}"
        return self.client.get(INDEX + query, **AJAX).content.decode()

    def test_ordinary_instances_have_none(self):
        page = self.client.get(INDEX).content.decode()
        assert "trusted-clone-progress" not in page
        assert "Abort Clone" not in page

    def test_a_clone_on_its_way_has_a_bar_with_phase_percent_and_rate(self):
        self.clones.record("source", self.server.id, **fetching(42))
        page = self.client.get(INDEX).content.decode()
        assert "Fetching" in page
        assert "42 %" in page
        assert "12.5 MiB/s" in page
        assert 'aria-valuenow="42"' in page
        assert "Abort Clone" in page

    def test_its_row_is_looked_at_again_until_it_is_complete(self):
        """Also of an instance that is ACTIVE long since: a lazy clone runs while its memory arrives."""
        clone = self.clones.record("source", self.server.id, **fetching(42))
        assert "warning" in self.row().partition(">")[0]
        self.clones.change(clone, phase="complete")
        row = self.row()
        assert "status_up" in row.partition(">")[0]
        assert "Complete" in row
        assert "Abort Clone" not in row

    def test_one_request_is_made_for_a_page_and_one_for_a_row(self):
        self.clones.record("source", self.server.id, **fetching(42))
        self.client.get(INDEX)
        assert self.clones.calls == ["page"]
        self.clones.calls.clear()
        self.row()
        assert self.clones.calls == ["list"]

    def test_it_is_aborted(self):
        clone = self.clones.record("source", self.server.id, **fetching(42))
        action = {"action": f"instances__abort_trusted_clone__{self.server.id}"}
        self.client.post(INDEX, action)
        assert self.clones.show(clone.server_id, clone.id).phase == "aborted"

    def test_readers_do_not_abort(self):
        self.be("reader")
        clone = self.clones.record("source", self.server.id, **fetching(42))
        page = self.client.get(INDEX).content.decode()
        assert "42 %" in page
        assert "Abort Clone" not in page
        action = {"action": f"instances__abort_trusted_clone__{self.server.id}"}
        self.client.post(INDEX, action)
        assert self.clones.show(clone.server_id, clone.id).phase == "fetching"

    def test_an_api_that_is_away_costs_the_column_and_not_the_page(self):
        self.clones.errors["page"] = errors.Busy(503, "upstream is away")
        page = self.client.get(INDEX)
        assert page.status_code == 200
        assert self.server.name in page.content.decode()
        assert "Unable to retrieve trusted clones" in self.said(page)

    def test_a_cloud_without_trusted_clones_is_not_complained_about(self):
        self.clones.errors["page"] = errors.Unsupported("this cloud has no trusted clones")
        page = self.client.get(INDEX)
        assert page.status_code == 200
        assert "Unable" not in self.said(page)

    def test_texts_of_the_cloud_are_only_texts(self):
        self.clones.record(
            "source", self.server.id, phase="failed", reason='"><script>alert(1)</script>'
        )
        page = self.client.get(INDEX).content.decode()
        assert "<script>alert(1)" not in page
        assert "Failed" in page
