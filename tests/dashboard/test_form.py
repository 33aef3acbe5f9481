"""The form: what it knows, what it asks for, and where an error appears."""

from __future__ import annotations

import re
from typing import Any

from django.urls import reverse

from nova_trusted_clone.client import errors
from nova_trusted_clone.dashboard import faults
from tests.dashboard.cloud import TestCase

NONCE = "0c5a94c91d2fce18"


class Form(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.addresses = {
            "net1": [
                {
                    "addr": "10.0.0.7",
                    "version": 4,
                    "OS-EXT-IPS:type": "fixed",
                    "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
                },
                {
                    "addr": "198.51.100.7",
                    "version": 4,
                    "OS-EXT-IPS:type": "floating",
                    "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
                },
            ],
        }
        self.url = reverse("horizon:project:trusted_clones:clone", args=[self.server.id])

    def page(self) -> Any:
        return self.client.get(self.url)

    def send(self, **more: Any) -> Any:
        data = {"name": "copy", "count": "2", "vtpm": "new", "memory": "lazy", "nonce": NONCE}
        return self.client.post(self.url, data | more)

    def errors_of(self, reply: Any) -> dict[str, str]:
        return {
            field: " ".join(map(str, found))
            for field, found in reply.context["form"].errors.items()
        }


class WhatItShows(Form):
    def test_every_field(self):
        form = self.page().context["form"]
        assert list(form.fields) == [
            "name",
            "count",
            "availability_zone",
            "vtpm",
            "memory",
            "network_0",
            "nonce",
        ]

    def test_the_remainder_of_the_quota(self):
        """Of instances there are three left, and memory for more."""
        page = self.page()
        assert "has room for 3" in page.content.decode()
        assert "7 of 10 used" in page.content.decode()

    def test_the_scarcest_quota_counts(self):
        self.limits_now["totalRAMUsed"] = 10000 - self.flavors.list()[0].ram
        assert "has room for 1)" in self.page().content.decode()

    def test_no_limit_no_remainder(self):
        self.limits_now.clear()
        page = self.page().content.decode()
        assert "has room" not in page

    def test_a_line_for_each_kind_of_vtpm_and_memory(self):
        page = self.page().content.decode()
        for text in ("holds nothing", "has sealed", "runs at once", "has been verified"):
            assert text in page

    def test_a_server_without_a_vtpm_is_not_asked_for_one(self):
        self.extra_specs = {}
        assert "vtpm" not in self.page().context["form"].fields

    def test_each_nonce_is_another(self):
        first, second = (self.page().context["form"]["nonce"].value() for _ in range(2))
        assert re.fullmatch("[0-9a-f]{32}", first)
        assert first != second

    def test_the_button_of_the_nonce_needs_no_script_in_the_page(self):
        page = self.page().content.decode()
        assert 'data-trusted-clone-nonce="id_nonce"' in page
        form = page.partition('id="trusted_clone_form"')[2].partition("</form>")[0]
        assert "<script" not in form
        assert not re.search(r"\son\w+=", form)

    def test_interfaces_with_their_network_and_address(self):
        label = str(self.page().context["form"].fields["network_0"].label)
        assert "fa:16:3e:00:00:01" in label
        assert "10.0.0.7" in label


class WhatIsAskedFor(Form):
    def test_everything(self):
        zone = self.availability_zones.list()[0]
        network = self.networks.list()[1]
        reply = self.send(vtpm="derive", memory="eager", network_0=network.id)
        assert reply.status_code == 302, self.errors_of(reply)
        ((server, request),) = self.clones.asked
        assert server == self.server.id
        assert (request.name, request.count) == ("copy", 2)
        assert (request.vtpm, request.memory) == ("derive", "eager")
        assert request.nonce == bytes.fromhex(NONCE)
        assert request.networks is not None
        assert [nic.network_id for nic in request.networks] == [network.id]
        assert zone is not None

    def test_what_is_left_alone_is_left_to_the_cloud(self):
        assert self.send(name="").status_code == 302
        ((_server, request),) = self.clones.asked
        assert request.name is None
        assert request.availability_zone is None
        assert request.networks is None

    def test_the_nonce_is_told_and_kept_for_the_session(self):
        self.send()
        kept = self.client.session["trusted_clone_nonces"]
        assert set(kept.values()) == {NONCE}
        assert set(kept) == {clone.id for clone in self.clones.records}


class WhereErrorsAppear(Form):
    def refused(self, error: errors.ClientError, **more: Any) -> dict[str, str]:
        self.clones.errors["create"] = error
        reply = self.send(**more)
        assert reply.status_code == 200
        return self.errors_of(reply)

    def test_what_can_be_known_beforehand(self):
        for field, value in (
            ("name", "x" * 256),
            ("count", "0"),
            ("count", "101"),
            ("nonce", "abc"),
            ("nonce", "00" * 7),
            ("vtpm", "used"),
            ("memory", ""),
            ("availability_zone", "elsewhere"),
        ):
            reply = self.send(**{field: value})
            assert list(self.errors_of(reply)) == [field], field
            assert not self.clones.asked

    def test_of_the_api_beside_its_field(self):
        for said, kind, field in (
            (
                "name: found 255 characters, expected at most 253, since each of 2 clones has its",
                errors.BadRequest,
                "name",
            ),
            (
                "Invalid input for field/attribute count. Value: 200. 200 is greater",
                errors.BadRequest,
                "count",
            ),
            (
                "Quota exceeded for instances: Requested 2, but already used 10 of 10",
                errors.Forbidden,
                "count",
            ),
            (
                "vtpm: found derive, but the policy of the server's host allows only new.",
                errors.Conflict,
                "vtpm",
            ),
            (
                "The requested availability zone is not available",
                errors.BadRequest,
                "availability_zone",
            ),
            ("networks: found 1, expected 2: the clone goes on", errors.BadRequest, "network_0"),
            ("networks[0]: expected uuid (of a network) or port", errors.BadRequest, "network_0"),
            ("Network 1234 could not be found.", errors.BadRequest, "network_0"),
        ):
            found = self.refused(kind(400, said))
            assert list(found) == [field], said
            assert said in found[field]

    def test_of_the_server_above_the_form(self):
        said = "The server is being cloned already: clone 1 is fetching."
        assert self.refused(errors.Conflict(409, said)) == {"__all__": said}

    def test_of_a_field_that_is_not_there_above_the_form(self):
        assert faults.placed(errors.Conflict(409, "vtpm: it has none"), ["name"])[0] is None

    def test_when_nobody_knows_what_became_of_it_that_is_said(self):
        for error in (errors.Unreachable("timed out"), errors.Busy(503, "away")):
            assert "is not known" in self.refused(error)["__all__"]

    def test_a_session_that_has_ended_is_told_as_horizon_tells_it(self):
        self.clones.errors["create"] = errors.Unauthorized(401, "The token has expired")
        reply = self.send()
        assert reply.status_code == 403
        assert "not_authorized.html" in [template.name for template in reply.templates]

    def test_in_the_page_it_stands_under_the_field(self):
        self.clones.errors["create"] = errors.Forbidden(403, "Quota exceeded for instances: <b>")
        page = self.send().content.decode()
        group = page.partition('id="id_count"')[2].partition("form-group")[0]
        assert "Quota exceeded for instances: &lt;b&gt;" in group
