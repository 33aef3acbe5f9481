"""``openstack server clone evidence verify``: offline, and by what the tenant brings alone."""

from __future__ import annotations

import json
import pathlib
import uuid
from typing import Any

import pytest

from tests.unit.client.cloud import Cloud
from tests.unit.client.conftest import Done, Openstack, Recorded


@pytest.fixture
def verify(openstack: Openstack, recorded: Recorded, tmp_path: pathlib.Path, monkeypatch):
    """``verify`` with recorded files, and nothing to reach a cloud with."""
    for name in ("OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME"):
        monkeypatch.delenv(name)
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(recorded.evidence))

    def run(*more: Any, **changes: Any) -> Done:
        options = {"ca": recorded.ca, "policy": recorded.policy, "nonce": recorded.nonce} | changes
        words = [word for key, value in options.items() for word in (f"--{key}", value) if value]
        at = options.pop("file", file)
        words = [w for w in words if w not in ("--file", at)]
        return openstack("server", "clone", "evidence", "verify", at, *words, *more)

    return run


def test_evidence_that_holds(verify, recorded: Recorded, cloud: Cloud):
    done = verify("-f", "json", source=recorded.source, server=recorded.server)
    assert done.status == 0, done.err
    told = done.json()
    assert told["holds"] is True
    assert told["checks"] > 100
    assert told["failed"] == ""
    assert told["source_server"] == recorded.source
    assert not cloud.asked


def test_every_check_is_shown_when_asked_for(verify):
    shown = verify("--long", "-f", "json").json()["every_check"].splitlines()
    assert "ok     trusted-clone.evidence.nonce" in shown


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nonce": "00" * 16}, "trusted-clone.evidence.nonce"),
        ({"source": uuid.UUID(int=1)}, "trusted-clone.evidence.expected-source"),
        ({"server": uuid.UUID(int=1)}, "trusted-clone.evidence.expected-clone"),
    ],
    ids=["nonce", "source", "clone"],
)
def test_evidence_of_something_else(verify, changes: dict[str, Any], code: str):
    done = verify("-f", "json", **changes)
    assert done.status == 1
    assert "THE EVIDENCE DOES NOT HOLD" in done.err
    told = done.json()
    assert told["holds"] is False
    assert told["failed"].startswith(code)
    assert "source_server" not in told


def test_a_changed_byte(verify, tmp_path: pathlib.Path, recorded: Recorded):
    changed = recorded.evidence | {"clone": recorded.evidence["clone"] | {"pause_us": 1}}
    (tmp_path / "changed").write_text(json.dumps(changed))
    done = verify("-f", "json", file=tmp_path / "changed")
    assert done.status == 1
    assert done.json()["failed"].startswith("trusted-clone.evidence.summary.pause_us")


def test_evidence_cannot_command_a_terminal(verify, tmp_path: pathlib.Path, recorded: Recorded):
    lies = {"source_host": "\x1b[2J the evidence holds", "\x1b[1A": 1}
    changed = recorded.evidence | {"clone": recorded.evidence["clone"] | lies}
    (tmp_path / "changed").write_text(json.dumps(changed))
    done = verify("--long", file=tmp_path / "changed")
    assert done.status == 1
    assert "\x1b" not in done.out + done.err
    assert "\ufffd[2J the evidence holds" in done.out


def test_something_that_is_no_evidence(verify, tmp_path: pathlib.Path):
    (tmp_path / "other").write_text("{}")
    done = verify(file=tmp_path / "other")
    assert done.status == 1
    assert "THE EVIDENCE DOES NOT HOLD" in done.err


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"file": "/dev/zero"}, 1, "it has more than"),
        ({"ca": "/dev/zero"}, 1, "it has more than"),
        ({"file": "missing"}, 1, "missing"),
        ({"ca": "missing"}, 1, "missing"),
        ({"ca": None}, 1, "--ca is missing"),
        ({"ca": None, "policy": None}, 1, "are needed to verify"),
        ({"nonce": None}, 2, "--nonce"),
        ({"nonce": "xyz"}, 2, "hexadecimal digits"),
        ({"server": "web"}, 2, "--server"),
    ],
)
def test_what_cannot_be_judged_never_holds(verify, changes: dict, status: int, said: str):
    done = verify(**changes)
    assert done.status == status
    assert said in done.err
    assert "True" not in done.out


def test_a_policy_that_is_none(verify, tmp_path: pathlib.Path):
    (tmp_path / "bad").write_text("{}")
    done = verify(policy=tmp_path / "bad")
    assert done.status == 1
    assert "policy.version: it is missing" in done.err
