"""A session survives its process: what it was fed is on disk before it is acted on."""

import pytest

from nova_trusted_clone.clone.records import RecordError
from nova_trusted_clone.clone.session import EventLog, Session
from nova_trusted_clone.core.protocol import actions, events
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.ports import Quote

EVERY_EVENT = [
    events.Start(now=7, nonce=b"n" * 32),
    events.MessageReceived(data=b"\x00\xff", now=8),
    events.QuoteMade("answer", b"attest", b"signature"),
    events.FreezeDone(
        freeze_id=b"f" * 16,
        page_key=b"k" * 32,
        regions=((0, "ram", "pc.ram", 1 << 20), (1, "disk", "vda", 4096)),
        pause_us=31,
        vtpm=events.VtpmIdentity("source", (b"leaf", b"ca"), b"ak", {1: b"one", 2: b"two"}),
    ),
    events.TransferDone(b"r" * 32, Counts(segments=1, leaves=2, zero_leaves=1, bytes=8192)),
    events.Abort("enough"),
]


class Echo:
    """A machine that asks for one quote at its start and then sends what it is told."""

    def __init__(self):
        self.heard = []

    def handle(self, event):
        self.heard.append(event)
        if isinstance(event, events.Start):
            return (actions.MakeQuote("answer", "host", b"q" * 32, (0, 1)),)
        if isinstance(event, events.QuoteMade):
            return (actions.Send(event.attest),)
        return ()


def quote(qualifying_data, pcrs):
    return Quote(attest=qualifying_data + bytes(pcrs), signature=b"s")


def test_every_event_comes_back_as_it_was(tmp_path):
    log = EventLog(tmp_path / "log")
    for event in EVERY_EVENT:
        log.append(event)
    assert log.read() == EVERY_EVENT


def test_a_torn_last_event_was_never_acted_on(tmp_path):
    log = EventLog(tmp_path / "log")
    for event in EVERY_EVENT:
        log.append(event)
    raw = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(raw[:-3])
    assert log.read() == EVERY_EVENT[:-1]


@pytest.mark.parametrize(
    "damage", [b"\x00\x00\x00\x02\xff\xff", b"\xff" * 8, b"\x00\x00\x00\x01\xa0"]
)
def test_damage_is_named(tmp_path, damage):
    (tmp_path / "log").write_bytes(damage)
    with pytest.raises(RecordError, match="log"):
        EventLog(tmp_path / "log").read()


def test_quotes_are_made_and_everything_else_is_handed_on(tmp_path):
    session = Session(Echo(), tmp_path / "log", {"host": quote})
    left = session.feed(EVERY_EVENT[0])
    assert left == [actions.Send(b"q" * 32 + b"\x00\x01")]


def test_a_restart_brings_the_machine_to_the_same_place(tmp_path):
    before = Echo()
    Session(before, tmp_path / "log", {"host": quote}).feed(EVERY_EVENT[0])
    after = Echo()
    _session, stood = Session.resume(after, tmp_path / "log", {"host": quote})
    assert after.heard == before.heard
    assert stood.heard == tuple(before.heard)


def test_what_the_last_event_asked_for_is_done_after_a_restart(tmp_path):
    session = Session(Echo(), tmp_path / "log", {"host": quote})
    left = session.feed(EVERY_EVENT[0])
    _session, stood = Session.resume(Echo(), tmp_path / "log", {"host": quote})
    assert list(stood.left) == left


def test_a_quote_that_was_not_made_before_the_end_is_made_after_it(tmp_path):
    EventLog(tmp_path / "log").append(EVERY_EVENT[0])
    after = Echo()
    _session, stood = Session.resume(after, tmp_path / "log", {"host": quote})
    assert list(stood.left) == [actions.Send(b"q" * 32 + b"\x00\x01")]
    assert EventLog(tmp_path / "log").read() == after.heard


def test_a_restart_knows_what_was_heard(tmp_path):
    log = EventLog(tmp_path / "log")
    for event in EVERY_EVENT[1:]:
        log.append(event)
    _session, stood = Session.resume(Echo(), tmp_path / "log", {"host": quote})
    assert stood.last_message == b"\x00\xff"
    assert stood.heard_a(events.TransferDone)
    assert not stood.heard_a(events.VtpmReady)


def test_the_log_is_private(tmp_path):
    EventLog(tmp_path / "log").append(EVERY_EVENT[0])
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
