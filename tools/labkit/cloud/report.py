"""The table at the end of the demo, from plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from labkit.display import seconds_text, size_text


@dataclasses.dataclass(frozen=True)
class ServerRow:
    """A server at the end: where it is, who it says that it is, what it found when it checked itself.

    :ivar self_check: in words, as ``11839 pages, 379 blocks, 0 bad``
    :ivar answers: whether it answers at its own address
    """

    name: str
    host: str
    uuid: str
    address: str
    answers: bool
    mac: str
    genid: str
    ek_sha256: str
    self_check: str


@dataclasses.dataclass(frozen=True)
class CloneRow:
    """A clone at the end.

    :ivar active_s: from the request to ACTIVE, as Nova has both
    :ivar complete_s: from the request to the verified evidence
    :ivar evidence: the verdict of the offline verifier, in words
    """

    server: ServerRow
    pause_ms: float | None
    active_s: float | None
    complete_s: float | None
    pages_verified: int
    bytes_verified: int
    evidence: str


def rows(source: ServerRow, clones: Sequence[CloneRow]) -> list[tuple[str, ...]]:
    """A title, the source's cell, a cell for each clone."""
    servers = [source, *(clone.server for clone in clones)]

    def own(title: str, cells: Sequence[str]) -> tuple[str, ...]:
        return (title, *cells)

    def of_clones(title: str, cells: Sequence[str]) -> tuple[str, ...]:
        return (title, "", *cells)

    return [
        own("host", [server.host for server in servers]),
        own("UUID", [server.uuid for server in servers]),
        own("address", [_address(server) for server in servers]),
        own("MAC", [server.mac for server in servers]),
        own("generation id", [server.genid for server in servers]),
        own("EK certificate (SHA-256)", [server.ek_sha256[:16] or "none" for server in servers]),
        own("its own check", [server.self_check for server in servers]),
        of_clones("source stood still", [_pause(clone.pause_ms) for clone in clones]),
        of_clones("ACTIVE after", [seconds_text(clone.active_s) for clone in clones]),
        of_clones("complete after", [seconds_text(clone.complete_s) for clone in clones]),
        of_clones("pages verified", [str(clone.pages_verified) for clone in clones]),
        of_clones("bytes verified", [size_text(clone.bytes_verified) for clone in clones]),
        of_clones("evidence", [clone.evidence for clone in clones]),
    ]


def _address(server: ServerRow) -> str:
    return f"{server.address}, {'answers' if server.answers else 'DOES NOT ANSWER'}"


def _pause(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} ms"
