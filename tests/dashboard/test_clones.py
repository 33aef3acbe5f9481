"""The panel: the list, a clone's page, its picture, and what is read of its evidence."""

from __future__ import annotations

import json
import pathlib
import re
import tempfile
import xml.etree.ElementTree as ET
from typing import Any

from django.conf import settings
from django.test import override_settings
from django.urls import reverse

from nova_trusted_clone.client import errors
from nova_trusted_clone.dashboard import lineage
from tests.dashboard.cloud import AJAX, TestCase, fetching, recorded

INDEX = reverse("horizon:project:trusted_clones:index")


def page_of(clone: Any) -> str:
    return reverse("horizon:project:trusted_clones:detail", args=(clone.server_id, clone.id))


class TheList(TestCase):
    def page(self, query: str = "") -> str:
        more = AJAX if "row_update" in query else {}
        return self.client.get(INDEX + query, **more).content.decode()

    def test_it_has_a_row_for_each_newest_first(self):
        made = [self.clones.record(self.server.id, phase="complete") for _ in range(3)]
        page = self.page()
        at = [page.index(page_of(clone)) for clone in made]
        assert at == sorted(at, reverse=True)

    @override_settings(API_RESULT_PAGE_SIZE=2)
    def test_it_comes_by_pages(self):
        made = [self.clones.record(self.server.id) for _ in range(3)]
        page = self.page()
        assert page_of(made[0]) not in page
        marker = re.search(r"trusted_clones_marker=([0-9a-f-]+)", page)
        assert marker
        assert marker[1] == made[1].id
        assert page_of(made[0]) in self.page(f"?trusted_clones_marker={marker[1]}")

    def test_rows_on_their_way_are_looked_at_again(self):
        clone = self.clones.record(self.server.id, **fetching(10))
        query = f"?action=row_update&table=trusted_clones&obj_id={clone.server_id}_{clone.id}"
        assert "10 %" in self.page(query)
        self.clones.change(clone, phase="complete")
        row = self.page(query)
        assert "status_up" in row.partition(">")[0]
        assert "Download Evidence" in row

    def test_a_row_that_is_gone_goes(self):
        query = f"?action=row_update&table=trusted_clones&obj_id={self.server.id}_{self.server.id}"
        assert self.client.get(INDEX + query, **AJAX).status_code == 404

    def test_only_what_is_on_its_way_can_be_aborted(self):
        going = self.clones.record(self.server.id, **fetching(10))
        done = self.clones.record(self.server.id, phase="complete")
        for clone in (going, done):
            action = f"trusted_clones__abort_trusted_clone__{clone.server_id}_{clone.id}"
            self.client.post(INDEX, {"action": action})
        assert [one.phase for one in self.clones.records] == ["complete", "aborted"]

    def test_without_the_right_there_is_no_panel(self):
        self.be("nobody")
        assert (
            f'href="{INDEX}"'
            not in self.client.get(reverse("horizon:project:instances:index")).content.decode()
        )

    def test_an_api_that_is_away_is_told(self):
        self.clones.errors["page"] = errors.Busy(503, "upstream is away")
        reply = self.client.get(INDEX)
        assert reply.status_code == 200
        assert "Unable to retrieve trusted clones" in self.said(reply)


class TheOverview(TestCase):
    def page(self, clone: Any) -> str:
        return self.client.get(page_of(clone)).content.decode()

    def test_it_tells_the_record(self):
        clone = self.clones.record(self.server.id, phase="complete", pause_us=31250)
        page = self.page(clone)
        for text in (
            clone.id,
            clone.server_id,
            clone.freeze_id,
            clone.nonce,
            "31.2 ms",
            "Complete",
        ):
            assert text in page

    def test_a_failure_is_told_with_its_attempts(self):
        from nova_trusted_clone.client.values import Attempt

        attempt = Attempt("", "PCR 4 <of> host", "trusted-clone.quote.pcr", "2026-11-24T21:00:05Z")
        clone = self.clones.record(
            self.server.id, phase="failed", reason="no host", code="x.y", attempts=(attempt,)
        )
        page = self.page(clone)
        assert "no host (x.y)" in page
        assert "PCR 4 &lt;of&gt; host (trusted-clone.quote.pcr)" in page

    def test_an_unknown_clone_leads_back_to_the_list(self):
        url = reverse("horizon:project:trusted_clones:detail", args=(self.server.id,) * 2)
        reply = self.client.get(url)
        assert (reply.status_code, reply["location"]) == (302, INDEX)

    def test_the_picture_has_source_freeze_and_siblings_as_links(self):
        one, two = (self.clones.record(self.server.id, phase="complete") for _ in range(2))
        self.clones.record(self.server.id, freeze_id="77" * 16, name="of-another-freeze")
        page = self.page(one)
        drawn = re.search(r"<svg.*?</svg>", page, re.S)
        assert drawn
        picture = ET.fromstring(drawn[0])
        links = [a.get("href") for a in picture.iter("{http://www.w3.org/2000/svg}a")]
        assert links == [
            reverse("horizon:project:instances:detail", args=(self.server.id,)),
            page_of(one),
            page_of(two),
        ]
        assert self.server.name in drawn[0]
        assert "of-another-freeze" not in drawn[0]
        assert "script" not in drawn[0]

    def test_a_picture_stays_readable(self):
        """However many there are, and whatever their names."""
        clones = [self.clones.record(self.server.id, name=f"<{n}>" + "x" * 200) for n in range(30)]
        clone = self.clones.change(clones[0], lineage=tuple(f"{n:08}" for n in range(9)))
        picture = lineage.picture(clone, self.clones.records, {})
        assert len(picture.boxes) <= lineage.MOST_SIBLINGS + lineage.MOST_ANCESTORS + 3
        for box in picture.boxes:
            assert len(box.title) <= lineage.MOST_TITLE
            assert 0 <= box.x <= picture.width - box.width
            assert 0 <= box.y <= picture.height - box.height
        assert [box.kind for box in picture.boxes].count("this") == 1
        ET.fromstring(re.search(r"<svg.*?</svg>", self.page(clone), re.S)[0])


class TheAttestation(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.raw = recorded()
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.files = {}
        for name in ("anchors", "policy"):
            self.files[name] = pathlib.Path(place.name, name)
            self.files[name].write_text(self.raw[name])
        told = self.raw["evidence"]["clone"]
        self.clone = self.clones.record(
            told["source_server"],
            told["destination_server"],
            phase="complete",
            nonce=self.raw["tenant_nonce"],
        )
        self.store(self.raw["evidence"])

    def store(self, evidence: Any) -> None:
        self.clones.evidences[self.clone.id] = json.dumps(evidence).encode()

    def get(self, **query: str) -> Any:
        with override_settings(
            TRUSTED_CLONE_ANCHORS_FILE=str(self.files["anchors"]),
            TRUSTED_CLONE_POLICY_FILES=[str(self.files["policy"])],
        ):
            tab = {"tab": "trusted_clone_details__attestation"}
            return self.client.get(page_of(self.clone), tab | query).content.decode()

    def test_it_holds_and_every_check_is_shown_beside_whom_it_is_about(self):
        page = self.get()
        assert re.search(r"The evidence holds: all \d+ checks", page)
        source, _, rest = page.partition("Destination host")
        assert source.count("trusted-clone.quote.pcrs") >= 1 or "trusted-clone.quote" in source
        assert "trusted-clone.vtpm.pcr-1" in rest
        assert "trusted-clone.vtpm.pcr-1" not in source
        assert "Does not hold" not in page

    def test_who_they_are(self):
        told = self.raw["evidence"]["clone"]
        page = self.get()
        for text in (
            told["source_ak_name"],
            told["destination_ak_name"],
            told["clone_ek_certificate_sha256"],
            told["manifest_root"],
            told["page_key"],
        ):
            assert text in page

    def test_the_nonce_is_the_tenants(self):
        assert "from the cloud" in self.get()
        assert "that you entered" in self.get(nonce=self.raw["tenant_nonce"])
        session = self.client.session
        session["trusted_clone_nonces"] = {self.clone.id: self.raw["tenant_nonce"]}
        session.save()
        self.client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
        assert "in this session" in self.get()

    def test_the_form_is_one_that_angular_lets_be_sent(self):
        form = re.search(r'<form class="form-inline trusted-clone-nonce-form"[^>]*>', self.get())
        assert form
        assert f'action="{page_of(self.clone)}"' in form[0]

    def test_with_another_nonce_it_does_not_hold(self):
        page = self.get(nonce="00" * 16)
        assert "The evidence does not hold" in page
        assert "trusted-clone.evidence.nonce" in page
        assert "It is not proven" in page

    def test_a_nonce_that_is_none_is_told(self):
        assert "hexadecimal digits are expected" in self.get(nonce="<script>")
        assert "<script>alert" not in self.get(nonce='"><script>alert(1)</script>')

    def test_changed_evidence_does_not_hold(self):
        changed = json.loads(json.dumps(self.raw["evidence"]))
        changed["clone"]["memory_bytes"] += 1
        self.store(changed)
        page = self.get()
        assert "The evidence does not hold" in page
        assert "trusted-clone.evidence.summary.memory_bytes" in page

    def test_evidence_of_another_clone_does_not_hold(self):
        self.clone = self.clones.record(self.server.id, phase="complete", nonce=self.clone.nonce)
        self.store(self.raw["evidence"])
        page = self.get()
        assert "trusted-clone.evidence.expected-clone" in page
        assert "The evidence does not hold" in page

    def test_what_is_no_evidence_at_all(self):
        self.clones.evidences[self.clone.id] = b'{"format": "<blink>"}'
        page = self.get()
        assert "The evidence cannot be read" in page
        assert "<blink>" not in page

    def test_the_policy_is_the_one_of_the_order(self):
        """Operators change theirs; clones of before have to hold all the same."""
        later = json.loads(self.raw["policy"])
        later["max_order_seconds"] = later.get("max_order_seconds", 600) - 1
        file = self.files["policy"].with_name("later")
        file.write_text(json.dumps(later))
        with override_settings(
            TRUSTED_CLONE_ANCHORS_FILE=str(self.files["anchors"]),
            TRUSTED_CLONE_POLICY_FILES=[str(file), str(self.files["policy"])],
        ):
            page = self.client.get(
                page_of(self.clone), {"tab": "trusted_clone_details__attestation"}
            ).content.decode()
        assert "The evidence holds" in page

    def test_without_the_operators_files_nothing_is_claimed(self):
        tab = {"tab": "trusted_clone_details__attestation"}
        page = self.client.get(page_of(self.clone), tab).content.decode()
        assert "no certificates and policy" in page
        assert "The evidence holds" not in page
        assert "It is not proven" in page
        assert self.raw["evidence"]["clone"]["manifest_root"] in page

    def test_with_files_that_are_missing_nothing_is_claimed(self):
        self.files["anchors"].unlink()
        page = self.get()
        assert "cannot be read" in page
        assert "The evidence holds" not in page

    def test_a_clone_that_is_not_complete_has_none(self):
        self.clone = self.clones.change(self.clone, phase="provisional")
        assert "of complete clones only" in self.get()

    def test_the_file_is_what_is_stored(self):
        url = reverse(
            "horizon:project:trusted_clones:evidence",
            args=(self.clone.server_id, self.clone.id),
        )
        reply = self.client.get(url)
        assert reply.content == self.clones.evidences[self.clone.id]
        assert f"trusted-clone-{self.clone.id}.json" in reply["Content-Disposition"]

    def test_a_file_that_is_not_there(self):
        self.clones.evidences.clear()
        url = reverse(
            "horizon:project:trusted_clones:evidence",
            args=(self.clone.server_id, self.clone.id),
        )
        assert self.client.get(url)["location"] == INDEX
