"""What a session wants done. The driver does all of them, in order, before it feeds the next
event."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.protocol.messages import RegionRow


@dataclasses.dataclass(frozen=True)
class MakeQuote:
    """Quote ``pcrs`` of the SHA-256 bank over 32 bytes; answer with ``QuoteMade`` of the same
    purpose.

    :ivar signer: ``host``, the host's TPM, or ``vtpm``, the vTPM of the last identity that was told
    """

    purpose: str
    signer: str
    qualifying_data: bytes
    pcrs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Send:
    """Send a message to the peer. On the source, each is answered by a message."""

    data: bytes


@dataclasses.dataclass(frozen=True)
class OpenChannel:
    """The peer is proven: bulk data may flow with the end that has exactly this certificate,
    DER."""

    peer_certificate: bytes


@dataclasses.dataclass(frozen=True)
class MakeVtpm:
    """Destination: make a fresh vTPM and extend ``inherited`` (PCR, digest) in order; answer with
    ``VtpmReady``.

    :ivar mode: the order's; in mode ``derive`` a fresh one is proven first, and ``VtpmInstalled``
        tells of the derived one
    """

    mode: str
    inherited: tuple[tuple[int, bytes], ...]


@dataclasses.dataclass(frozen=True)
class Freeze:
    """Source: both the destination host and the clone's vTPM are proven; freeze and answer with
    ``FreezeDone``."""


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Destination: fetch these regions; believe only pages that ``page_key`` (Ed25519) signed for
    this freeze."""

    page_key: bytes
    freeze_id: bytes
    regions: tuple[RegionRow, ...]
    pause_us: int


@dataclasses.dataclass(frozen=True)
class Release:
    """It was ended: take everything back."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Refused:
    """A check failed: take everything back, and destroy the clone if it runs."""

    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Completed:
    """All is proven. ``evidence`` can be written as JSON and checked by anyone."""

    evidence: Mapping[str, Any]


Action = MakeQuote | Send | OpenChannel | MakeVtpm | Freeze | Fetch | Release | Refused | Completed
