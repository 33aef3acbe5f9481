"""The cloud of these tests speaks as the API's own schemas say, and the client asks as they say."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from nova.api.validation import validators

from nova_trusted_clone.api.schemas import trusted_clone, trusted_clones, versions
from nova_trusted_clone.client import replies
from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import CloneRequest, Nic
from tests.unit.client.cloud import PHASES, Cloud
from tests.unit.client.conftest import Recorded

SCHEMAS = (
    ("POST", "/action", trusted_clone.create_response),
    ("GET", "/trusted-clones", trusted_clones.index_response),
    ("GET", "/trusted-clones/[^/]+", trusted_clones.show_response),
    ("GET", "/evidence", trusted_clones.evidence_response),
    ("DELETE", "/trusted-clones/[^/]+", trusted_clones.delete_response),
    ("GET", "/trusted-clone", versions.index_response),
)
SAMPLES = pathlib.Path(__file__).resolve().parents[3] / "doc" / "api_samples" / "trusted-clone"
UUID = "8f2bd6a1-7fd0-4d0b-8e0f-0e5a8d8f2b11"


def require(schema: dict[str, Any], body: Any) -> None:
    validators._SchemaValidator(schema).validate(body)


@pytest.mark.parametrize(
    ("sample", "parse"),
    [
        ("trusted-clone-create-resp", replies.created),
        ("trusted-clones-list-resp", replies.records),
        ("trusted-clone-show-resp", replies.record),
        ("trusted-clone-show-admin-resp", replies.record),
        ("trusted-clone-evidence-resp", replies.evidence),
    ],
)
def test_the_samples_of_the_api_reference_are_understood(sample: str, parse: Callable[..., Any]):
    assert parse((SAMPLES / f"{sample}.json").read_bytes())


def test_an_administrator_sees_hosts():
    shown = replies.record((SAMPLES / "trusted-clone-show-admin-resp.json").read_bytes())
    assert shown.host
    assert shown.source_host


@pytest.mark.parametrize(
    "request_",
    [
        CloneRequest(),
        CloneRequest(
            name="größer 猫",  # nova takes no name with a character above U+FFFF
            count=100,
            availability_zone="az",
            host="compute-1",
            vtpm="new",
            memory="eager",
            nonce=bytes(64),
            metadata={"k": "v"},
            networks=[Nic(network_id=UUID, fixed_ip="10.0.0.9"), Nic(port_id=UUID)],
        ),
        CloneRequest(vtpm="derive", memory="lazy", nonce=bytes(8)),
    ],
)
def test_what_is_asked_for_is_what_the_api_takes(request_: CloneRequest):
    require(trusted_clone.create, request_.to_json())


def test_what_the_fake_answers_is_what_the_api_answers(
    cloud: Cloud, clones: TrustedClones, recorded: Recorded
):
    source = cloud.server("web")
    cloud.page_size = 1
    cloud.next_phases = [PHASES, (*PHASES[:3], "failed")]
    first, second = clones.create(source, CloneRequest(count=2)).clones
    cloud.evidence[first.id] = recorded.evidence
    for _ in PHASES:
        clones.list(source)
        clones.page(limit=1)
        clones.show(source, first.id)
    clones.evidence(source, first.id)
    clones.abort(source, second.id)
    assert clones.supported()
    met = set()
    for method, path, body in cloud.answered:
        for verb, pattern, schema in SCHEMAS:
            if method == verb and re.search(f"{pattern}$", path):
                require(schema, body)
                met.add((verb, pattern))
    assert met == {(verb, pattern) for verb, pattern, _ in SCHEMAS}
