"""The messages, in their order.

=====  =================  ======================  ==============================================================
no.    message            direction               what it carries, and the receiver requires
=====  =================  ======================  ==============================================================
1      challenge          source → destination    the order; the source host's certificate, boot log, quote on t1
2      answer             destination → source    the same of the destination host, quote on t2
3      confirmation       source → destination    a second quote of the source host, on t2 and n3
4      vtpm-statement     destination → source    the clone's vTPM: certificate, the host's link, its quote
4      no-vtpm            destination → source    for an order without a vTPM: the host's quote that says so
5      page-key-…         source → destination    the page key, vouched for by the source's vTPM or its host
.      accepted           destination → source    the freeze that is being fetched
6      final              source → destination    a last quote on root and counts, same boot as before
7      receipt            destination → source    the same by the destination; the vTPM that was installed
=====  =================  ======================  ==============================================================

Pages travel beside these, signed by the page key. A message's version is part of its label; an
unknown label is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from nova_trusted_clone.core.attest.quote import VTPM_PCRS
from nova_trusted_clone.core.protocol.transcript import PREFIX
from nova_trusted_clone.core.protocol.wire import Message, Nested, Record
from nova_trusted_clone.core.protocol.wiretypes import Many, Octets, PcrValues, Row, Text, Uint

MAX_REGIONS = 1024  # a server has a few dozen RAM blocks and disks
MAX_REGION_BYTES = 1 << 56  # more than a file system can have
Certificate = Octets(1, 4096)
Chain = Many(Certificate, 1, 3)
RegionRow = tuple[int, str, str, int]
Regions = Many(
    Row(
        (
            Uint(1, (1 << 32) - 1),
            Text("[a-z][a-z0-9-]*", 16),
            Text("[!-~]+", 255),
            Uint(1, MAX_REGION_BYTES),
        )
    ),
    1,
    MAX_REGIONS,
)


@dataclasses.dataclass(frozen=True)
class SignedQuote(Record):
    """A TPM2_Quote: the TPMS_ATTEST, exactly the signed bytes, and the TPMT_SIGNATURE."""

    attest: Annotated[bytes, Octets(1, 2048)]
    signature: Annotated[bytes, Octets(1, 600)]


@dataclasses.dataclass(frozen=True)
class Counts(Record):
    """What a whole freeze holds; ``bytes`` is the sum of the regions' sizes."""

    segments: Annotated[int, Uint(1)]
    leaves: Annotated[int, Uint(1)]
    zero_leaves: Annotated[int, Uint()]
    bytes: Annotated[int, Uint(1)]

    def row(self) -> list[int]:
        """Return the numbers in order."""
        return [self.segments, self.leaves, self.zero_leaves, self.bytes]


@dataclasses.dataclass(frozen=True)
class Challenge(Message):
    """Message 1.

    :ivar order: the signed order
    :ivar channel_certificate: the exporter's ephemeral TLS certificate, DER
    """

    LABEL: ClassVar[str] = PREFIX + "challenge"
    order: Annotated[bytes, Octets(1, 65536)]
    nonce: Annotated[bytes, Octets(32)]
    channel_certificate: Annotated[bytes, Octets(1, 2048)]
    ak_chain: Annotated[tuple[bytes, ...], Chain]
    ak_public: Annotated[bytes, Octets(1, 1024)]
    event_log: Annotated[bytes, Octets(1, 512 * 1024)]
    quote: Annotated[SignedQuote, Nested(SignedQuote)]


@dataclasses.dataclass(frozen=True)
class Answer(Message):
    """Message 2. ``channel_certificate`` is the store's ephemeral TLS certificate, DER."""

    LABEL: ClassVar[str] = PREFIX + "answer"
    nonce: Annotated[bytes, Octets(32)]
    channel_certificate: Annotated[bytes, Octets(1, 2048)]
    ak_chain: Annotated[tuple[bytes, ...], Chain]
    ak_public: Annotated[bytes, Octets(1, 1024)]
    event_log: Annotated[bytes, Octets(1, 512 * 1024)]
    quote: Annotated[SignedQuote, Nested(SignedQuote)]


@dataclasses.dataclass(frozen=True)
class Confirmation(Message):
    """Message 3."""

    LABEL: ClassVar[str] = PREFIX + "confirmation"
    nonce: Annotated[bytes, Octets(32)]
    quote: Annotated[SignedQuote, Nested(SignedQuote)]


@dataclasses.dataclass(frozen=True)
class VtpmProof(Record):
    """A vTPM: its EK certificate chain, its AK, its PCR 1–7, its host's link quote and its own
    quote."""

    ek_chain: Annotated[tuple[bytes, ...], Chain]
    ak_public: Annotated[bytes, Octets(1, 1024)]
    pcr_values: Annotated[dict[int, bytes], PcrValues(VTPM_PCRS)]
    link: Annotated[SignedQuote, Nested(SignedQuote)]
    quote: Annotated[SignedQuote, Nested(SignedQuote)]


@dataclasses.dataclass(frozen=True)
class VtpmStatement(Message):
    """Message 4: the vTPM that was made for the clone."""

    LABEL: ClassVar[str] = PREFIX + "vtpm-statement"
    vtpm: Annotated[VtpmProof, Nested(VtpmProof)]


@dataclasses.dataclass(frozen=True)
class NoVtpm(Message):
    """Message 4 of a clone that has no vTPM, as the order says: the host says so."""

    LABEL: ClassVar[str] = PREFIX + "no-vtpm"
    quote: Annotated[SignedQuote, Nested(SignedQuote)]


@dataclasses.dataclass(frozen=True)
class PageKey(Message):
    """Message 5, what is common to both of its kinds.

    :ivar page_key: Ed25519 public key
    :ivar regions: (id, kind, name, size in bytes) of every region
    :ivar pause_us: how long the source server stood still, in microseconds
    :ivar vouched_by: whose quote vouches for the key, ``vtpm`` or ``host``
    """

    freeze_id: Annotated[bytes, Octets(16)]
    page_key: Annotated[bytes, Octets(32)]
    regions: Annotated[tuple[RegionRow, ...], Regions]
    pause_us: Annotated[int, Uint()]

    vouched_by: ClassVar[str] = ""


@dataclasses.dataclass(frozen=True)
class PageKeyByVtpm(PageKey):
    """Message 5, vouched for by the frozen server's vTPM."""

    LABEL: ClassVar[str] = PREFIX + "page-key-by-vtpm"
    vouched_by: ClassVar[str] = "vtpm"
    vtpm: Annotated[VtpmProof, Nested(VtpmProof)]


@dataclasses.dataclass(frozen=True)
class PageKeyByHost(PageKey):
    """Message 5 of a server without a certified vTPM, vouched for by the source host's AK."""

    LABEL: ClassVar[str] = PREFIX + "page-key-by-host"
    vouched_by: ClassVar[str] = "host"
    quote: Annotated[SignedQuote, Nested(SignedQuote)]


@dataclasses.dataclass(frozen=True)
class Accepted(Message):
    """The destination took the page key and fetches; it carries no claim."""

    LABEL: ClassVar[str] = PREFIX + "accepted"
    freeze_id: Annotated[bytes, Octets(16)]


@dataclasses.dataclass(frozen=True)
class Final(Message):
    """The source's last statement."""

    LABEL: ClassVar[str] = PREFIX + "final"
    manifest_root: Annotated[bytes, Octets(32)]
    counts: Annotated[Counts, Nested(Counts)]
    quote: Annotated[SignedQuote, Nested(SignedQuote)]


@dataclasses.dataclass(frozen=True)
class DerivedVtpm(Message):
    """Within a receipt: the derived vTPM that the clone runs with. Its PCRs are those of the frozen
    server's."""

    LABEL: ClassVar[str] = PREFIX + "derived-vtpm"
    vtpm: Annotated[VtpmProof, Nested(VtpmProof)]


@dataclasses.dataclass(frozen=True)
class Receipt(Message):
    """The destination's last statement.

    :ivar installed: the vTPM of the clone: message 4 itself, or a derived-vtpm where the order says
        ``derive``
    """

    LABEL: ClassVar[str] = PREFIX + "receipt"
    manifest_root: Annotated[bytes, Octets(32)]
    counts: Annotated[Counts, Nested(Counts)]
    installed: Annotated[bytes, Octets(1, 32768)]
    quote: Annotated[SignedQuote, Nested(SignedQuote)]
