"""The TCG measured-boot log, crypto-agile format (TCG PC Client Platform Firmware Profile 1.05,
10).

A log is not signed: it is believed only as far as its replay gives the PCR values that a quote
vouches for. So the parser has only to be strict and bounded, and the replay exact. Little-endian,
unlike the TPM's own structures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Collection, Iterable, Sequence

from nova_trusted_clone.core.errors import MalformedInput

MAX_LOG_BYTES = (
    512 * 1024
)  # a machine with large signature lists in its Secure Boot variables writes about 150 KiB
MAX_EVENTS = 4096
MAX_BANKS = 8
EV_NO_ACTION = 0x00000003
EV_SEPARATOR = 0x00000004
ALG_SHA256 = 0x000B
PCR_COUNT = 24
# 17–22 belong to a dynamic launch, start with other values and are reset by it: not in a boot log's
# replay.
REPLAYED = frozenset((*range(17), 23))

SPEC_ID_SIGNATURE = b"Spec ID Event03\0"
STARTUP_LOCALITY_SIGNATURE = b"StartupLocality\0"


@dataclasses.dataclass(frozen=True)
class Event:
    """One measurement: PCR index, event type, SHA-256 digest that was extended, and what it is
    about."""

    pcr: int
    event_type: int
    digest: bytes
    data: bytes = b""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, count: int, field: str) -> bytes:
        value = self._data[self.offset : self.offset + count]
        if len(value) != count:
            raise MalformedInput(
                f"event log: {field} at byte {self.offset} ends after {len(value)} of {count} bytes"
            )
        self.offset += count
        return value

    def uint(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "little")

    @property
    def done(self) -> bool:
        return self.offset == len(self._data)


def parse(log: bytes) -> tuple[Event, ...]:
    """Return the log's events in order, without the header.

    :raises MalformedInput: if it is longer than the limits, not exactly a crypto-agile log, or has
        no SHA-256 bank
    """
    if not isinstance(log, bytes) or len(log) > MAX_LOG_BYTES:
        raise MalformedInput(f"event log: expected at most {MAX_LOG_BYTES} bytes")
    reader = _Reader(log)
    sizes = _header(reader)
    events: list[Event] = []
    while not reader.done:
        if len(events) == MAX_EVENTS:
            raise MalformedInput(f"event log: found more than {MAX_EVENTS} events")
        events.append(_event(reader, sizes))
    _initial_pcr0(events)
    return tuple(events)


def _header(reader: _Reader) -> dict[int, int]:
    """Read the TCG_PCClientPCREvent with the TCG_EfiSpecIDEvent; return each bank's digest size."""
    pcr, kind = reader.uint(4, "header's PCR"), reader.uint(4, "header's type")
    reader.take(20, "header's digest")
    body = _Reader(reader.take(reader.uint(4, "header's length"), "header"))
    if pcr != 0 or kind != EV_NO_ACTION or body.take(16, "signature") != SPEC_ID_SIGNATURE:
        raise MalformedInput(
            "event log: it does not begin with a Spec ID Event03; only crypto-agile logs are read"
        )
    body.take(8, "platform class and versions")
    count = body.uint(4, "number of banks")
    if not 1 <= count <= MAX_BANKS:
        raise MalformedInput(f"event log: found {count} banks, expected 1–{MAX_BANKS}")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = body.uint(2, "bank"), body.uint(2, "digest size")
        if algorithm in sizes or not 1 <= size <= 64:
            raise MalformedInput(
                f"event log: bank {algorithm:#x} of {size}-byte digests is repeated or too long"
            )
        sizes[algorithm] = size
    body.take(body.uint(1, "vendor information's length"), "vendor information")
    if not body.done:
        raise MalformedInput("event log: bytes follow the header's vendor information")
    if sizes.get(ALG_SHA256) != 32:
        raise MalformedInput("event log: it has no SHA-256 bank; enable it in the firmware")
    return sizes


def _event(reader: _Reader, sizes: dict[int, int]) -> Event:
    """Read one TCG_PCR_EVENT2."""
    start = reader.offset
    pcr, kind = reader.uint(4, "PCR"), reader.uint(4, "event type")
    if kind != EV_NO_ACTION and pcr >= PCR_COUNT:
        raise MalformedInput(f"event log: found PCR {pcr} at byte {start}, expected 0–23")
    count = reader.uint(4, "number of digests")
    if count > len(sizes):
        raise MalformedInput(
            f"event log: found {count} digests at byte {start}, expected at most {len(sizes)}"
        )
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.uint(2, "digest's algorithm")
        if algorithm not in sizes or algorithm in digests:
            raise MalformedInput(
                f"event log: digest of {algorithm:#x} at byte {start} is undeclared or repeated"
            )
        digests[algorithm] = reader.take(sizes[algorithm], "digest")
    data = reader.take(reader.uint(4, "event's length"), "event")
    if ALG_SHA256 not in digests:
        raise MalformedInput(f"event log: the event at byte {start} has no SHA-256 digest")
    return Event(pcr, kind, digests[ALG_SHA256], data)


def _initial_pcr0(events: Sequence[Event]) -> int:
    """Return the locality of TPM2_Startup, which is the last byte of PCR 0's first value (profile,
    10.4.5.3).

    :raises MalformedInput: if it is said twice, after a measurement into PCR 0, or is not 0, 3 or 4
    """
    found: int | None = None
    measured = False
    for event in events:
        if event.event_type != EV_NO_ACTION:
            measured = measured or event.pcr == 0
        elif event.data.startswith(STARTUP_LOCALITY_SIGNATURE):
            value = event.data[len(STARTUP_LOCALITY_SIGNATURE) :]
            if found is not None or measured or value not in (b"\0", b"\3", b"\4"):
                raise MalformedInput(
                    "event log: StartupLocality is repeated, late, or not one of 0, 3 and 4"
                )
            found = value[0]
    return found or 0


def replay(events: Sequence[Event]) -> dict[int, bytes]:
    """Return the SHA-256 bank after the log: PCR 0–7 always, others of 8–16 and 23 when they were
    extended."""
    values = {index: bytes(32) for index in range(8)}
    values[0] = bytes(31) + bytes([_initial_pcr0(events)])
    for pcr, digest in measured(events, REPLAYED):
        values[pcr] = extend(values.get(pcr, bytes(32)), digest)
    return values


def extend(value: bytes, digest: bytes) -> bytes:
    """Return a PCR's value after TPM2_PCR_Extend."""
    return hashlib.sha256(value + digest).digest()


def measured(events: Iterable[Event], pcrs: Collection[int]) -> list[tuple[int, bytes]]:
    """Return what was extended into ``pcrs``, (index, digest), in the log's order; EV_NO_ACTION
    extends nothing."""
    return [
        (event.pcr, event.digest)
        for event in events
        if event.event_type != EV_NO_ACTION and event.pcr in pcrs
    ]


def startup_locality(locality: int) -> Event:
    """Return the event that says from which locality the TPM was started."""
    return Event(0, EV_NO_ACTION, bytes(32), STARTUP_LOCALITY_SIGNATURE + bytes([locality]))


def build(events: Iterable[Event]) -> bytes:
    """Return a log of ``events`` with the SHA-256 bank alone, as :func:`parse` reads it."""
    # Platform class client, specification 2.0 errata 0 (as version 1.05 numbers itself), uintn of 8
    # bytes, one bank.
    spec = SPEC_ID_SIGNATURE + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, ALG_SHA256, 32, 0)
    parts = [struct.pack("<II20sI", 0, EV_NO_ACTION, bytes(20), len(spec)), spec]
    for event in events:
        parts.append(struct.pack("<IIIH", event.pcr, event.event_type, 1, ALG_SHA256))
        parts.append(event.digest + struct.pack("<I", len(event.data)) + event.data)
    return b"".join(parts)
