"""Notifications as their consumers see them: the samples in doc/notification_samples are what is sent."""

import dataclasses
import datetime
import json
import pathlib

import pytest
from nova import rpc
from oslo_config import cfg
from oslo_serialization import jsonutils

from nova_trusted_clone.conductor.contexts import tenant
from nova_trusted_clone.notifications.clone import notify
from nova_trusted_clone.objects.clone import Clone, Phase

SAMPLES = pathlib.Path(__file__).parents[3] / "doc" / "notification_samples"
WHEN = datetime.datetime(2026, 11, 24, 20, 15, 0)
CLONE = Clone(
    id="0b7b1d1e-3c51-4f0e-9a55-0d0f6f3c2a11",
    group_id="5f2b9e6c1d7a4c0f8e3b6a9d2c1f4e7b",
    name="web-1-clone-1",
    server_id="a1b2c3d4-9d3a-4a53-8f0e-2f6f1a7d3e01",
    source_id="11111111-2222-4333-8444-555555555555",
    project_id="6f70656e737461636b20342065766572",
    user_id="fake",
    source_host="compute-1",
    phase=Phase.CLAIMED,
    vtpm="new",
    memory="lazy",
    nonce="00112233445566778899aabbccddeeff",
    lineage=("11111111-2222-4333-8444-555555555555",),
    created_at=WHEN,
    updated_at=WHEN,
    heard_at=WHEN,
    host="compute-2",
    request_id="req-5b6c791d-5709-4f36-8fbe-c3e02869e35d",
)
ORDERED = dataclasses.replace(
    CLONE, phase=Phase.ORDERED, freeze_id="9c1e5a7b3d2f4c6e8a0b1d3f5e7c9a2b"
)
COMPLETE = dataclasses.replace(
    ORDERED, phase=Phase.COMPLETE, pause_us=23000, completed_at=WHEN + datetime.timedelta(seconds=9)
)
FAILED = dataclasses.replace(
    ORDERED,
    phase=Phase.FAILED,
    reason="PCR 4 of compute-2 is 9f…, expected one of class r650's 2",
    code="trusted-clone.policy.pcr-4",
)
MOVES = {
    "start": (CLONE, ORDERED),
    "end": (dataclasses.replace(ORDERED, phase=Phase.PROVISIONAL), COMPLETE),
    "error": (ORDERED, FAILED),
}


class Wire:
    """Nova's notifier, which keeps what it is given."""

    def __init__(self):
        self.sent = []
        self.publisher_id = ""

    def is_enabled(self):
        return True

    def prepare(self, publisher_id):
        self.publisher_id = publisher_id
        return self

    def _keep(self, priority, event_type, payload):
        self.sent.append(
            {
                "priority": priority.upper(),
                "payload": jsonutils.to_primitive(payload),
                "event_type": event_type,
                "publisher_id": self.publisher_id,
            }
        )

    def info(self, context, event_type, payload):
        self._keep("info", event_type, payload)

    def error(self, context, event_type, payload):
        self._keep("error", event_type, payload)


@pytest.fixture
def wire(monkeypatch):
    import nova.conf

    cfg.CONF([], project="nova", default_config_files=[])
    nova.conf.CONF.set_override("notification_format", "versioned", group="notifications")
    kept = Wire()
    monkeypatch.setattr(rpc, "NOTIFIER", kept)
    yield kept
    nova.conf.CONF.clear_override("notification_format", group="notifications")


def send(before, after):
    notify(tenant("fake", "project", "req-1"), "control-1", before, after)


@pytest.mark.parametrize("phase", MOVES)
def test_the_sample_is_what_is_sent(wire, phase):
    send(*MOVES[phase])
    sample = json.loads((SAMPLES / f"trusted_clone-create-{phase}.json").read_text())
    assert wire.sent == [sample]


def test_nothing_is_sent_of_what_lies_between(wire):
    for phase in (Phase.ATTESTING, Phase.FETCHING, Phase.RESTORING, Phase.PROVISIONAL):
        send(ORDERED, dataclasses.replace(ORDERED, phase=phase))
    send(CLONE, CLONE)
    assert wire.sent == []


def test_an_abort_is_an_error_to_whoever_listens(wire):
    send(ORDERED, dataclasses.replace(ORDERED, phase=Phase.ABORTED, reason="aborted"))
    assert [one["event_type"] for one in wire.sent] == ["trusted_clone.create.error"]


def test_no_secret_is_told(wire):
    for move in MOVES.values():
        send(*move)
    assert CLONE.nonce not in json.dumps(wire.sent)


def test_nothing_is_sent_where_nova_sends_none(wire):
    import nova.conf

    nova.conf.CONF.set_override("notification_format", "unversioned", group="notifications")
    send(*MOVES["end"])
    assert wire.sent == []


def test_a_broker_that_takes_no_notification_stops_no_clone(wire, monkeypatch):
    def broken(*args):
        raise ConnectionError("no broker")

    monkeypatch.setattr(wire, "_keep", broken)
    send(*MOVES["end"])
