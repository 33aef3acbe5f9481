"""One clone as its source host sees it: the handshake, the offer of a freeze, the finish, or the reason why not."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import pathlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.clone import records
from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.session import Session, Signer
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol import actions, events
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.core.protocol.order import Order, SignedOrder
from nova_trusted_clone.core.protocol.source import SourceSession
from nova_trusted_clone.ports import PeerError, PeerUnreachable

LOG = logging.getLogger(__name__)
NONCE_BYTES = 32
# How far a clone is, is answered at once and asked all the time. An answer can be lost: by a broker that is started anew, by a
# network that is away. Who waits for it as long as for a message would count as silence what was none, or not see that it is.
STATUS_LIMIT_S = 5.0


class Phase(enum.StrEnum):
    """How far a clone is, as its source sees it."""

    STARTING = "starting"
    ATTESTING = "attesting"
    PROVEN = "proven"
    FREEZING = "freezing"
    SERVING = "serving"
    FINISHING = "finishing"
    COMPLETE = "complete"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens."""
        return self in (Phase.COMPLETE, Phase.FAILED)


# The destination is not what the policy asks for: another host may be.
HOST_REFUSED = "trusted-clone.host.refused"


class CloneFailed(Exception):
    """This clone cannot go on; others of the same freeze may.

    :ivar code: stable, for programs; empty where there is none
    """

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Serving:
    """Where the exporter of a freeze serves. Untrusted too: both ends of the channel are pinned."""

    address: str
    port: int


class Outgoing:
    """One clone of one freeze, on its source host."""

    def __init__(
        self,
        host: Host,
        directory: pathlib.Path,
        signed: SignedOrder,
        order: Order,
        destination: str,
        ground: Ground,
    ) -> None:
        self.order = order
        self.ground = ground
        self.clone_id = order.clone_id.hex()
        self.phase = Phase.STARTING
        self.reason = ""
        self.store_certificate: bytes = b""
        self.remote: Mapping[str, Any] = {}
        self._host = host
        self._signed = signed
        self._directory = directory
        self._destination = destination
        self._session: Session | None = None
        self._signers: dict[str, Signer] = {"host": host.quote}
        self._peer = host.peers(destination)
        self._last_answer = time.monotonic()
        self._freeze_wanted = False
        self._unfinished: Sequence[Any] | None = None
        self._saving = threading.RLock()

    # -- what is kept -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write down what a restarted service needs."""
        # What is written last must be what is the case: several threads enter phases.
        with self._saving:
            self._write(self.phase, self.reason)

    def _write(self, phase: Phase, reason: str) -> None:
        record = {
            "clone_id": self.clone_id,
            "order": self._signed.encode().hex(),
            "destination": self._destination,
            "phase": phase.value,
            "reason": reason,
            "store_certificate": self.store_certificate.hex(),
        }
        records.write(self._directory / "clone.json", record)

    def enter(self, phase: Phase, reason: str = "") -> None:
        """Go to a phase and make that last.

        :raises CloneFailed: when the clone has ended meanwhile: nothing brings it back
        """
        with self._saving:
            if self.phase.ended:
                raise CloneFailed(f"the clone has ended: {self.reason or self.phase.value}")
            LOG.info("clone %s: %s%s", self.clone_id, phase, f": {reason}" if reason else "")
            try:
                # Told to others only when it lasts.
                self._write(phase, reason)
            finally:
                self.phase, self.reason = phase, reason

    def resume(self, exporter_certificate: bytes) -> None:
        """Bring the session back to where the log ends.

        :raises CloneFailed: when the log does not hold
        """
        try:
            self._session, stood = Session.resume(
                self._machine(exporter_certificate), self._directory / "session.log", self._signers
            )
        except (CoreError, records.RecordError) as error:
            raise CloneFailed(f"after a restart: {error}") from error
        if stood.heard_a(events.TransferDone):
            # The last two quotes were under way: they go on from where they were.
            self._unfinished = stood.left

    # -- the steps ----------------------------------------------------------------------------------------------------

    def attest(self, exporter_certificate: bytes) -> None:
        """Prove this host to the destination and have the destination prove itself.

        :raises CloneFailed: with every failed check
        """
        self.enter(Phase.ATTESTING)
        self._session = Session(
            self._machine(exporter_certificate), self._directory / "session.log", self._signers
        )
        self._drive(events.Start(now=self._host.now(), nonce=self._host.random(NONCE_BYTES)))
        if not (self.store_certificate and self._freeze_wanted):
            raise CloneFailed("the destination was not proven")
        self.enter(Phase.PROVEN)

    def begin_early(self, disks: Sequence[str], serving: Serving) -> None:
        """Have the destination's store copy disks as they are before the freeze."""
        try:
            self._peer.call(
                "early",
                clone_id=self.clone_id,
                disks=list(disks),
                bulk=dataclasses.asdict(serving),
            )
        except PeerError as error:
            raise CloneFailed(f"the destination: {error}") from error

    @property
    def has_early_copy(self) -> bool:
        """Whether the store says that it has been over the disks once. A hint."""
        transfer = self.remote.get("transfer")
        passes = transfer.get("early_passes") if isinstance(transfer, dict) else None
        return isinstance(passes, int) and passes > 0

    def offer(self, event: events.FreezeDone, vtpm: Signer | None, serving: Serving) -> None:
        """Offer the frozen server: its page key, vouched for, and where the exporter serves."""
        if vtpm is not None:
            self._signers["vtpm"] = vtpm
        try:
            self._drive(event, bulk=dataclasses.asdict(serving))
        finally:
            self._signers.pop("vtpm", None)
        self.enter(Phase.SERVING)

    def finish(self, root: bytes, counts: Counts) -> Mapping[str, Any]:
        """Exchange the last two quotes; return the evidence.

        :raises CloneFailed: when the destination did not get what was sent, or changed meanwhile
        """
        self.enter(Phase.FINISHING)
        if self._unfinished is None:
            left = self._drive(events.TransferDone(manifest_root=root, counts=counts))
        else:
            left = self._carry_out(list(self._unfinished), {})
        for action in left:
            if isinstance(action, actions.Completed):
                records.write(self._directory / "evidence.json", action.evidence)
                self.enter(Phase.COMPLETE)
                return action.evidence
        raise CloneFailed("the destination gave no receipt")

    def poll(self) -> None:
        """Ask the destination how far it is.

        :raises CloneFailed: when it has failed, or has not answered for the network limit
        """
        try:
            self.remote = self._peer.call("status", limit_s=STATUS_LIMIT_S, clone_id=self.clone_id)
        except PeerUnreachable as error:
            silent_s = time.monotonic() - self._last_answer
            if silent_s > self._host.limits.network_limit_s:
                raise CloneFailed(
                    f"the destination has not answered for {silent_s:.0f} s: {error}"
                ) from error
            return
        except PeerError as error:
            raise CloneFailed(f"the destination: {error}") from error
        self._last_answer = time.monotonic()
        if self.remote.get("phase") == "failed":
            raise CloneFailed(f"the destination: {str(self.remote.get('reason', ''))[:4096]}")

    @property
    def fetched(self) -> bool:
        """Whether the destination says that it has everything. A hint: the receipt proves it."""
        return self.remote.get("fetched") is True

    def fail(self, reason: str, code: str = "") -> None:
        """End this clone here and, where it can be reached, there."""
        with self._saving:
            if self.phase.ended:
                return
            try:
                self.enter(Phase.FAILED, reason)
            except OSError as error:  # a full disk must not keep the server frozen
                LOG.error("clone %s: its record cannot be written: %s", self.clone_id, error)
        # It will find out by itself when its exporter is gone.
        with contextlib.suppress(PeerError):
            self._peer.call("end", clone_id=self.clone_id, reason=reason[:1024], code=code)

    # -- the conversation ---------------------------------------------------------------------------------------------

    def _machine(self, exporter_certificate: bytes) -> SourceSession:
        return SourceSession(
            self._host.local,
            self.ground.anchors,
            self.ground.policy,
            self._signed,
            exporter_certificate,
        )

    def _drive(self, event: Any, **hints: Any) -> Sequence[Any]:
        """Feed an event, send what the session says, feed the answers, until nothing is left to send."""
        return self._carry_out(self._feed(event), hints)

    def _carry_out(self, pending: list[Any], hints: Mapping[str, Any]) -> Sequence[Any]:
        left: list[Any] = []
        while pending:
            action = pending.pop(0)
            if isinstance(action, actions.Send):
                pending.extend(self._exchange(action.data, hints))
            elif isinstance(action, actions.OpenChannel):
                self.store_certificate = action.peer_certificate
            elif isinstance(action, actions.Freeze):
                self._freeze_wanted = True
            elif isinstance(action, actions.Refused):
                raise CloneFailed(f"refused: {action.verdict}", HOST_REFUSED)
            else:
                left.append(action)
        return left

    def _feed(self, event: Any) -> list[Any]:
        assert self._session is not None
        try:
            return self._session.feed(event)
        except CoreError as error:
            raise CloneFailed(str(error)) from error

    def _exchange(self, data: bytes, hints: Mapping[str, Any]) -> list[Any]:
        """Send a message until it is answered or the limit is reached; the destination answers a repeated one alike."""
        deadline = time.monotonic() + self._host.limits.network_limit_s
        while True:
            try:
                reply = self._peer.call("message", clone_id=self.clone_id, data=data, **hints)
                break
            except PeerUnreachable as error:
                if time.monotonic() > deadline:
                    raise CloneFailed(str(error)) from error
                time.sleep(0.2)
            except PeerError as error:
                raise CloneFailed(f"the destination: {error}") from error
        self._last_answer = time.monotonic()
        answer = reply.get("data")
        if not isinstance(answer, bytes):
            raise CloneFailed("the destination answered without a message")
        return self._feed(events.MessageReceived(data=answer, now=self._host.now()))
