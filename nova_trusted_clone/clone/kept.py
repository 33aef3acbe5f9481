"""What a destination keeps of a clone: how far it is, why it ended, who it is. A restarted service has all of it."""

from __future__ import annotations

import dataclasses
import enum
import logging
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.clone import records
from nova_trusted_clone.core.protocol.order import Order, SignedOrder
from nova_trusted_clone.ports import HostSide, Identity, NicIdentity

LOG = logging.getLogger(__name__)


class Phase(enum.StrEnum):
    """How far a clone is, as its destination sees it."""

    PREPARED = "prepared"
    ATTESTING = "attesting"
    FETCHING = "fetching"
    RESTORING = "restoring"
    PROVISIONAL = "provisional"
    COMPLETE = "complete"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens."""
        return self in (Phase.COMPLETE, Phase.FAILED)


class Rejected(Exception):
    """The destination does not go on; the source is told the reason."""


class KeptClone:
    """The record of one clone, in its directory.

    :ivar code: stable, for programs; empty where there is none
    :ivar fetched: everything is here and verified
    :ivar settled: its disks need the store no longer
    :ivar pause_us: how long the source stood still, as it says; 0 while that is not known
    """

    def __init__(
        self, directory: pathlib.Path, signed: SignedOrder, order: Order, identity: Identity
    ) -> None:
        self.order = order
        self.clone_id = order.clone_id.hex()
        self.identity = identity
        self.phase = Phase.PREPARED
        self.reason = ""
        self.code = ""
        self.fetched = False
        self.settled = False
        self.pause_us = 0
        self._directory = directory
        self._signed = signed
        self._saving = threading.RLock()
        self._regions: list[dict[str, Any]] = []
        # The digest of the last message and the answer to it: the source repeats what it got no answer to.
        self._last = (b"", b"")

    def save(self) -> None:
        """Write down what a restarted service needs."""
        # What is written last must be what is the case: several threads enter phases.
        with self._saving:
            self._write(self.phase, self.reason)

    def _write(self, phase: Phase, reason: str) -> None:
        record = {
            "clone_id": self.clone_id,
            "order": self._signed.encode().hex(),
            "identity": identity_to_record(self.identity),
            "phase": phase.value,
            "reason": reason,
            "code": self.code,
            "settled": self.settled,
            "pause_us": self.pause_us,
            "regions": self._regions,
            "last": [part.hex() for part in self._last],
        }
        records.write(self._directory / "clone.json", record)

    def _take_record(self, record: Mapping[str, Any]) -> None:
        """Be what was written down."""
        self.phase, self.reason = Phase(record["phase"]), str(record["reason"])
        self.code, self.settled = str(record["code"]), bool(record["settled"])
        self.pause_us = int(record["pause_us"])
        self._regions = list(record["regions"])
        digest, answer = (bytes.fromhex(part) for part in record["last"])
        self._last = (digest, answer)

    def enter(self, phase: Phase, reason: str = "") -> None:
        """Go to a phase and make that last.

        :raises Rejected: when the clone has ended meanwhile: nothing brings it back
        """
        with self._saving:
            if self.phase.ended:
                raise Rejected(f"the clone has ended: {self.reason or self.phase.value}")
            LOG.info("clone %s: %s%s", self.clone_id, phase, f": {reason}" if reason else "")
            try:
                # Told to others only when it lasts.
                self._write(phase, reason)
            finally:
                self.phase, self.reason = phase, reason

    def status(self) -> dict[str, Any]:
        """How far it is."""
        found: dict[str, Any] = {
            "clone_id": self.clone_id,
            "server": self.identity.uuid,
            "phase": self.phase.value,
            "reason": self.reason,
            "code": self.code,
            "fetched": self.fetched,
            "settled": self.settled,
        }
        if self.pause_us:
            found["pause_us"] = self.pause_us
        return found


def identity_to_record(identity: Identity) -> dict[str, Any]:
    """As it stands in a record."""
    return dataclasses.asdict(identity)


def identity_from_record(raw: Mapping[str, Any]) -> Identity:
    """What :func:`identity_to_record` gave.

    :raises KeyError: when it is not
    :raises TypeError: likewise
    """
    side: dict[str, Any] | None = raw["host_side"]
    if side is not None:
        side = {name: tuple(v) if isinstance(v, list) else v for name, v in side.items()}
    return Identity(
        raw["name"],
        raw["uuid"],
        tuple(NicIdentity(nic["mac"], nic["bridge"]) for nic in raw["nics"]),
        None if side is None else HostSide(**side),
    )
