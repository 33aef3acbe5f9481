"""What a session is told. Each is a value; feeding a new session the same events brings it to the
same state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.messages import Counts, RegionRow


@dataclasses.dataclass(frozen=True)
class VtpmIdentity:
    """A vTPM, as its host sees it.

    :ivar mode: how it came to be: ``new``, ``derive``, or ``source`` for the frozen server's
    :ivar ek_chain: EK certificate and intermediates, DER, without the root
    :ivar ak_public: the AK's TPMT_PUBLIC
    :ivar pcr_values: its PCR 1–7, SHA-256
    """

    mode: str
    ek_chain: tuple[bytes, ...]
    ak_public: bytes
    pcr_values: Mapping[int, bytes]

    def __post_init__(self) -> None:
        """Refuse one without an EK certificate; raises :class:`MalformedInput`."""
        if not self.ek_chain:
            raise MalformedInput(f"{self.mode} vTPM: it has no EK certificate")


@dataclasses.dataclass(frozen=True)
class Start:
    """Begin. ``nonce``: 32 fresh bytes of the host's TPM, told to nobody else; ``now``: seconds
    since 1970."""

    now: int
    nonce: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class MessageReceived:
    """The peer's message came."""

    data: bytes
    now: int


@dataclasses.dataclass(frozen=True)
class QuoteMade:
    """The quote that was asked for under ``purpose``."""

    purpose: str
    attest: bytes
    signature: bytes


@dataclasses.dataclass(frozen=True)
class FreezeDone:
    """Source: the server is frozen. ``vtpm`` is None when it has none that is certified."""

    freeze_id: bytes
    page_key: bytes
    regions: tuple[RegionRow, ...]
    pause_us: int
    vtpm: VtpmIdentity | None = None


@dataclasses.dataclass(frozen=True)
class VtpmReady:
    """Destination: the vTPM that ``MakeVtpm`` asked for is there, and can quote."""

    vtpm: VtpmIdentity


@dataclasses.dataclass(frozen=True)
class VtpmInstalled:
    """Destination, mode ``derive``: the derived vTPM is there, can quote, and is not the guest's
    yet."""

    vtpm: VtpmIdentity


@dataclasses.dataclass(frozen=True)
class TransferDone:
    """Source: everything was signed and fetched. Destination: everything was fetched and
    verified."""

    manifest_root: bytes
    counts: Counts


@dataclasses.dataclass(frozen=True)
class Abort:
    """Somebody ended it."""

    reason: str


Event = (
    Start
    | MessageReceived
    | QuoteMade
    | FreezeDone
    | VtpmReady
    | VtpmInstalled
    | TransferDone
    | Abort
)
