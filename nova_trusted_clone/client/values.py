"""Requests and records, typed. A value that exists was checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

# The API's own limits: 16 to 128 hexadecimal digits.
LEAST_NONCE_BYTES = 8
MOST_NONCE_BYTES = 64
COMPLETE = "complete"
# Of the client's own making: the record is not there any more.
GONE = "gone"
# Nova's word for a server that it is not done with, and for one that it gave up.
BUILDING = "BUILD"
BROKEN = "ERROR"
_ENDED = (COMPLETE, "failed", "aborted", GONE)


@dataclasses.dataclass(frozen=True)
class Nic:
    """A network interface of the clones, as nova's API has it: a network or a port."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return it as the API expects it."""
        named = {"uuid": self.network_id, "port": self.port_id, "fixed_ip": self.fixed_ip}
        return {key: value for key, value in named.items() if value}


@dataclasses.dataclass(frozen=True)
class CloneRequest:
    """What to make of a server. What is None is left to the cloud.

    :ivar nonce: 8 to 64 bytes of the tenant's own; evidence that carries them was made for this
        request. Without one, the cloud's is used, which proves no freshness to anyone but the cloud
    :ivar vtpm: ``new`` or ``derive``
    :ivar memory: ``lazy`` or ``eager``
    :ivar networks: None for the source's own
    """

    name: str | None = None
    count: int = 1
    availability_zone: str | None = None
    host: str | None = None
    vtpm: str | None = None
    memory: str | None = None
    nonce: bytes | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    networks: Sequence[Nic] | None = None

    def __post_init__(self) -> None:
        """Refuse what could never be right.

        :raises ValueError: naming the field
        """
        if self.count < 1:
            raise ValueError(f"count: found {self.count}, expected at least 1")
        if self.nonce is not None and not LEAST_NONCE_BYTES <= len(self.nonce) <= MOST_NONCE_BYTES:
            raise ValueError(
                f"nonce: found {len(self.nonce)} bytes, expected {LEAST_NONCE_BYTES} to "
                f"{MOST_NONCE_BYTES}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the action's body."""
        body: dict[str, Any] = {"count": self.count}
        for key in ("name", "availability_zone", "host", "vtpm", "memory"):
            if getattr(self, key) is not None:
                body[key] = getattr(self, key)
        if self.nonce is not None:
            body["nonce"] = self.nonce.hex()
        if self.metadata:
            body["metadata"] = dict(self.metadata)
        if self.networks is not None:
            body["networks"] = [nic.to_json() for nic in self.networks]
        return {"trustedClone": body}


@dataclasses.dataclass(frozen=True)
class Progress:
    """How much of a clone has arrived and was verified."""

    pages_verified: int = 0
    pages_total: int = 0
    bytes_verified: int = 0
    bytes_total: int = 0
    rate_bytes_s: float = 0.0

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None while the total is not known."""
        if not self.bytes_total:
            return None
        return min(1.0, self.bytes_verified / self.bytes_total)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A host on which a clone did not come to be, and why."""

    host: str
    reason: str
    code: str
    ended_at: str


@dataclasses.dataclass(frozen=True)
class Clone:
    """A clone's record. Texts that the cloud left out or has not set are empty.

    :ivar id: the record's UUID
    :ivar server_id: the clone's own server
    :ivar source_id: the server that it was made from
    :ivar source_host: for administrators only, as is ``host``
    :ivar lineage: the source, the server that it was cloned from itself, and so on
    :ivar pause_us: how long the source stood still, in microseconds; None until it has
    :ivar server_status: Nova's status of the clone's own server, such as ``ACTIVE``; empty unless it was waited for
    """

    id: str
    server_id: str
    name: str = ""
    source_id: str = ""
    phase: str = "scheduling"
    reason: str = ""
    code: str = ""
    group: str = ""
    freeze_id: str = ""
    project_id: str = ""
    source_host: str = ""
    host: str = ""
    vtpm: str = ""
    memory: str = ""
    nonce: str = ""
    progress: Progress = Progress()
    pause_us: int | None = None
    attempts: tuple[Attempt, ...] = ()
    lineage: tuple[str, ...] = ()
    created_at: str = ""
    updated_at: str = ""
    completed_at: str = ""
    request_id: str = ""
    server_status: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.phase in _ENDED

    @property
    def complete(self) -> bool:
        """Whether it is whole: an ordinary server now."""
        return self.phase == COMPLETE

    @property
    def ready(self) -> bool:
        """Whether it is whole and Nova is done with its server too, which may be a moment later."""
        return self.complete and self.server_status not in ("", BUILDING)

    @property
    def broken(self) -> bool:
        """Whether it is whole, and Nova gave its server up."""
        return self.complete and self.server_status == BROKEN


@dataclasses.dataclass(frozen=True)
class Created:
    """What a request for clones brought: their records as they begin.

    :ivar nonce: the one that the evidence will carry
    """

    group: str
    nonce: bytes
    clones: tuple[Clone, ...]
