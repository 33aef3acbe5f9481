"""The samples of the API reference are what the API takes and gives.

Each run tells one story; ids that differ from run to run are replaced in the order in which they come. To write the
samples anew: ``GENERATE_SAMPLES=1 pytest tests/unit/api/test_samples.py``, as in nova.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import uuid
from typing import Any

import pytest
from nova.api.validation import validators

from nova_trusted_clone.api.schemas import trusted_clone, trusted_clones, versions
from nova_trusted_clone.core.protocol.evidence import NAMES
from tests.unit.api.fakes import PROJECT

DOC = pathlib.Path(__file__).resolve().parents[3] / "doc"
SAMPLES = DOC / "api_samples" / "trusted-clone"
ID = re.compile(r"req-[0-9a-f-]{36}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
KEPT = frozenset((PROJECT, "7d8bf2ac3bd5f5e8b3f8f0a1c2d4e6f8"))
NETWORK = "e1882e38-38c2-4239-ade7-35d644cb963a"
EVIDENCE = {
    "format": "trusted-clone-evidence/1",
    "clone": {
        "source_host": "host-a",
        "destination_host": "host-b",
        "tenant_nonce": "7d8bf2ac3bd5f5e8b3f8f0a1c2d4e6f8",
        "vtpm_mode": "new",
        "memory_mode": "lazy",
    },
    "messages": dict.fromkeys(NAMES, "omFsZm9yaWxsdXN0cmF0aW9u"),
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "trusted-clone-create-req": trusted_clone.create,
    "trusted-clone-create-all-req": trusted_clone.create,
    "trusted-clone-create-resp": trusted_clone.create_response,
    "trusted-clones-list-resp": trusted_clones.index_response,
    "trusted-clone-show-resp": trusted_clones.show_response,
    "trusted-clone-show-admin-resp": trusted_clones.show_response,
    "trusted-clone-evidence-resp": trusted_clones.evidence_response,
    "versions-resp": versions.index_response,
}


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


def steady(body: Any, seen: dict[str, str]) -> Any:
    """The same body with ids that are the same in each run."""

    def other(found: re.Match[str]) -> str:
        text = found[0]
        if text in KEPT:
            return text
        number = uuid.uuid5(uuid.NAMESPACE_OID, str(len(seen)))
        prefix = "req-" if text.startswith("req-") else ""
        fresh = prefix + (str(number) if "-" in text else number.hex)
        return seen.setdefault(text, fresh)

    return json.loads(ID.sub(other, json.dumps(body)))


def told(world) -> dict[str, Any]:
    """One story: a server is cloned twice, one clone completes, its evidence is fetched."""
    source = world.server()
    asked = sample("trusted-clone-create-req")
    bodies = {
        "trusted-clone-create-resp": world.call("POST", f"/servers/{source}/action", asked).body
    }
    for number, record in enumerate(world.conductor.records):
        record |= {"phase": "fetching" if number else "complete", "host": "host-b"}
        record |= {
            "freeze_id": "6f" * 16,
            "pause_us": 31250,
            "updated_at": "2026-11-24T21:00:09Z",
            "completed_at": None if number else "2026-11-24T21:00:09Z",
            "progress": {
                "pages_verified": 8192 if number else 32768,
                "pages_total": 32768,
                "bytes_verified": (8192 if number else 32768) * 4096,
                "bytes_total": 32768 * 4096,
                "rate_bytes_s": 52428800,
            },
        }
    clone = world.conductor.records[0]["id"]
    world.conductor.records[0]["attempts"] = [
        {
            "attempt_id": "cd" * 16,
            "host": "host-c",
            "reason": "PCR 4: found another value than the policy has for this class of host",
            "code": "trusted-clone.quote.pcr",
            "ended_at": "2026-11-24T21:00:04Z",
        }
    ]
    world.conductor.evidences[clone] = EVIDENCE
    records = f"/servers/{source}/trusted-clones"
    bodies["trusted-clones-list-resp"] = world.call("GET", f"{records}?limit=1").body
    bodies["trusted-clone-show-resp"] = world.call("GET", f"{records}/{clone}").body
    bodies["trusted-clone-show-admin-resp"] = world.call(
        "GET", f"{records}/{clone}", roles="admin,member,reader"
    ).body
    bodies["trusted-clone-evidence-resp"] = world.call("GET", f"{records}/{clone}/evidence").body
    bodies["versions-resp"] = world.call("GET", "/trusted-clone").body
    seen: dict[str, str] = {}
    return {name: steady(body, seen) for name, body in bodies.items()}


def test_what_the_api_gives_is_what_the_samples_show(world):
    bodies = told(world)
    if os.environ.get("GENERATE_SAMPLES"):
        for name, body in bodies.items():
            (SAMPLES / f"{name}.json").write_text(json.dumps(body, indent=4) + "\n")
    assert {name: sample(name) for name in bodies} == bodies


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_samples_fit_their_schemas(name):
    validators._SchemaValidator(SCHEMAS[name]).validate(sample(name))


def test_a_request_with_everything_is_accepted(world):
    assert world.neutron.network(id=NETWORK) == NETWORK
    body = sample("trusted-clone-create-all-req")
    reply = world.call(
        "POST", f"/servers/{world.server()}/action", body, roles="admin,member,reader"
    )
    assert reply.status == 202, reply.body


def test_the_reference_shows_every_sample_and_names_every_field():
    reference = (DOC / "source" / "api-ref.rst").read_text()
    files = {path.stem for path in SAMPLES.glob("*.json")}
    assert files == set(SCHEMAS)
    assert files == set(re.findall(r"api_samples/trusted-clone/([\w-]+)\.json", reference))
    asked = trusted_clone.create["properties"]["trustedClone"]["properties"]
    shown = trusted_clones.show_response["properties"]["trusted_clone"]["properties"]
    for field in (*asked, *shown, *trusted_clones.index_query["properties"]):
        assert f"``{field}``" in reference, field
