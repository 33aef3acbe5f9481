"""The boot log: strict, bounded, and replayed as the TPM extended."""

from __future__ import annotations

import hashlib
import struct

import pytest

from nova_trusted_clone.core.attest import eventlog
from nova_trusted_clone.core.attest.eventlog import Event
from nova_trusted_clone.core.errors import MalformedInput

ONE, TWO = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
EVENTS = (Event(0, 8, ONE, b"crtm"), Event(7, 0x80000001, TWO, b"SecureBoot"), Event(0, 4, TWO))


def extended(*digests: bytes, start: bytes = bytes(32)) -> bytes:
    value = start
    for digest in digests:
        value = hashlib.sha256(value + digest).digest()
    return value


def test_what_was_built_is_parsed_and_replayed() -> None:
    assert eventlog.parse(eventlog.build(EVENTS)) == EVENTS
    assert eventlog.replay(EVENTS) == {i: bytes(32) for i in range(1, 7)} | {
        0: extended(ONE, TWO),
        7: extended(TWO),
    }


def test_measured_keeps_order_and_leaves_out_what_extends_nothing() -> None:
    with_note = (Event(3, eventlog.EV_NO_ACTION, bytes(32), b"a note"), *EVENTS)
    assert eventlog.measured(with_note, {0, 3}) == [(0, ONE), (0, TWO)]
    assert eventlog.replay(with_note) == eventlog.replay(EVENTS)


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_startup_locality_is_the_first_value_of_pcr_0(locality: int) -> None:
    events = (eventlog.startup_locality(locality), *EVENTS)
    start = bytes(31) + bytes([locality])
    assert eventlog.replay(eventlog.parse(eventlog.build(events)))[0] == extended(
        ONE, TWO, start=start
    )


@pytest.mark.parametrize(
    "events",
    [
        (eventlog.startup_locality(1),),
        (eventlog.startup_locality(3), eventlog.startup_locality(3)),
        (*EVENTS, eventlog.startup_locality(3)),
        (Event(0, 3, bytes(32), eventlog.STARTUP_LOCALITY_SIGNATURE),),
    ],
)
def test_a_strange_startup_locality_is_refused(events: tuple[Event, ...]) -> None:
    with pytest.raises(MalformedInput, match="StartupLocality"):
        eventlog.parse(eventlog.build(events))


def test_other_banks_are_skipped_by_their_declared_size() -> None:
    spec = eventlog.SPEC_ID_SIGNATURE + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
    spec += struct.pack("<IHHHHHHB", 3, 4, 20, 0xB, 32, 0x12, 17, 0)
    log = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    log += struct.pack("<III", 7, 4, 3) + struct.pack("<H", 0x12) + bytes(17)
    log += struct.pack("<H", 4) + bytes(20) + struct.pack("<H", 0xB) + ONE + struct.pack("<I", 0)
    assert eventlog.parse(log) == (Event(7, 4, ONE),)


GOOD = eventlog.build(EVENTS)
HEADER = len(eventlog.build(()))


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"", "header's PCR"),
        (GOOD[:-1], "ends after"),
        (GOOD + b"\0", "ends after"),
        (bytes(600 * 1024), "at most"),
        (GOOD[:32] + b"X" + GOOD[33:], "Spec ID"),
        (GOOD.replace(struct.pack("<HH", 0xB, 32), struct.pack("<HH", 0xB, 20)), "SHA-256"),
        (GOOD.replace(struct.pack("<HH", 0xB, 32), struct.pack("<HH", 0xC, 32)), "SHA-256"),
        (GOOD[:HEADER] + struct.pack("<I", 24) + GOOD[HEADER + 4 :], "PCR 24"),
        (GOOD[: HEADER + 8] + struct.pack("<I", 2) + GOOD[HEADER + 12 :], "digests"),
        (
            GOOD[: HEADER + 8] + struct.pack("<I", 0) + GOOD[HEADER + 12 :],
            "SHA-256 digest|ends after|PCR",
        ),
        (GOOD[: HEADER + 12] + b"\x0c\0" + GOOD[HEADER + 14 :], "undeclared"),
        (eventlog.build([Event(1, 4, ONE)] * 4097), "4096 events"),
    ],
)
def test_anything_else_is_refused_with_a_reason(log: bytes, said: str) -> None:
    with pytest.raises(MalformedInput, match=said):
        eventlog.parse(log)
