"""One clone as its destination host sees it: proven, fetched, restored, complete; or ended with a reason."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nova_trusted_clone.clone import records, restoring
from nova_trusted_clone.clone.clone_vtpm import CloneVtpm
from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.clone.helpers import decode, remove, unpack_vtpm
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.kept import KeptClone, Phase, Rejected
from nova_trusted_clone.clone.pace import Pace
from nova_trusted_clone.clone.session import Session, Signer
from nova_trusted_clone.clone.settling import Settling
from nova_trusted_clone.clone.stores import Store, StoreFailed
from nova_trusted_clone.clone.used import ReplayedUses, UsedIds
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol import actions, events
from nova_trusted_clone.core.protocol.destination import DestinationSession
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.core.protocol.order import Order, SignedOrder
from nova_trusted_clone.ports import Identity

__all__ = ("Incoming", "Phase", "Rejected")

LOG = logging.getLogger(__name__)
POLL_S = 0.1


class Incoming(KeptClone):
    """One clone on its destination host."""

    def __init__(
        self,
        host: Host,
        directory: pathlib.Path,
        signed: SignedOrder,
        order: Order,
        identity: Identity,
        ground: Ground,
        changed: Callable[[Incoming], None] = lambda _clone: None,
    ) -> None:
        """:param changed: told of every new phase, and when the disks have settled"""
        super().__init__(directory, signed, order, identity)
        self.store = Store(host.place.stores / order.freeze_group.hex())
        self._host = host
        self._ground = ground
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._final = threading.Event()
        self._session: Session | None = None
        self._vtpm = CloneVtpm(host, directory, identity, derives=order.vtpm_mode == "derive")
        self._signers: dict[str, Signer] = {"host": host.quote, "vtpm": self._vtpm.quote}
        self._source_certificate = b""
        self._unclean = False
        self._settling = Settling(self.clone_id, host.destination, identity, directory)
        self._changed = changed

    def enter(self, phase: Phase, reason: str = "") -> None:
        """Go to a phase, make that last, and tell it.

        :raises Rejected: when the clone has ended meanwhile: nothing brings it back
        """
        super().enter(phase, reason)
        self._changed(self)

    def resume(self, record: Mapping[str, Any]) -> None:
        """After a restart: go on where that is safe, else take everything back."""
        self._take_record(record)
        if self.phase is Phase.FAILED:
            self._clean_or_remember()  # the end may have come before all was removed
        if self.phase.ended:
            return
        if self.phase not in (Phase.FETCHING, Phase.PROVISIONAL) or not self.store.alive:
            self.fail(f"the service ended while the clone was {self.phase.value}; order it anew")
            return
        try:
            self._resume_session()
        except (CoreError, records.RecordError, StoreFailed, Rejected) as error:
            self.fail(f"after a restart: {error}")
            return
        self._start_running()

    def _resume_session(self) -> None:
        """Bring the session to where it stood, and do what was left to do."""
        self._session, stood = Session.resume(
            self._machine(replayed=True), self._directory / "session.log", self._signers
        )
        self.fetched = stood.heard_a(events.TransferDone)
        for action in stood.left:
            if isinstance(action, actions.Send):
                # The source did not get this answer, and repeats its message.
                self._last = (hashlib.sha256(stood.last_message).digest(), action.data)
            elif isinstance(action, actions.Completed):
                self._complete(action.evidence)
            elif isinstance(action, actions.Refused):
                raise Rejected(f"refused: {action.verdict}")
        if (self._directory / "evidence.json").exists():
            self._final.set()
        self.save()

    def expect(self) -> None:
        """Start the store already: it takes a moment, and has it before the source's first message."""
        threading.Thread(target=self._start_store, name="store-start", daemon=True).start()

    def _start_store(self) -> None:
        try:
            with self._lock:
                if not self.phase.ended:
                    self.store.start()
        except StoreFailed as error:
            self.fail(str(error))

    def expire(self) -> None:
        """End a clone whose source did not begin while the order was in force."""
        if self.phase is Phase.PREPARED and self._host.now() > self.order.expires_at:
            self.fail("the source did not begin while the order was in force; order the clone anew")

    def status(self) -> dict[str, Any]:
        """How far it is; progress comes from the store."""
        found = super().status()
        if not self.phase.ended and self.store.alive:
            with contextlib.suppress(StoreFailed):  # it ended just now: the watching thread says so
                found["transfer"] = self.store.status()
        return found

    # -- the conversation ---------------------------------------------------------------------------------------------

    def message(self, data: bytes, hints: Mapping[str, Any]) -> bytes:
        """Take a message of the source and return the answer. A repeated message gets the same answer.

        :raises Rejected: with the reason; the clone has ended then
        """
        with self._lock:
            digest = hashlib.sha256(data).digest()
            if digest == self._last[0]:
                return self._last[1]
            if self.phase.ended:
                raise Rejected(f"the clone has ended: {self.reason or self.phase.value}")
            try:
                answer = self._drive(data, hints)
            except (CoreError, StoreFailed, Rejected, OSError) as error:
                self.fail(str(error))
                raise Rejected(str(error)) from error
            except Exception:
                self.fail("an error on the destination host; its log has the reason")
                raise
            self._last = (digest, answer)
            self.save()
            return answer

    def _drive(self, data: bytes, hints: Mapping[str, Any]) -> bytes:
        if self._session is None:
            self._open()
        assert self._session is not None
        answer = b""
        pending = self._feed(events.MessageReceived(data=data, now=self._host.now()))
        while pending:
            action = pending.pop(0)
            if isinstance(action, actions.Send):
                answer = action.data
            elif isinstance(action, actions.MakeVtpm):
                with self._vtpm.made(action.inherited) as vtpm:
                    pending.extend(self._feed(events.VtpmReady(vtpm=vtpm)))
            elif isinstance(action, actions.OpenChannel):
                self._source_certificate = action.peer_certificate
            elif isinstance(action, actions.Fetch):
                self._fetch(action, hints)
            elif isinstance(action, actions.Refused):
                raise Rejected(f"refused: {action.verdict}")
            elif isinstance(action, actions.Completed):
                self._complete(action.evidence)
        return answer

    def _complete(self, evidence: Mapping[str, Any]) -> None:
        records.write(self._directory / "evidence.json", evidence)
        self._final.set()

    def _open(self) -> None:
        self.enter(Phase.ATTESTING)
        self.store.start()
        self._session = Session(
            self._machine(replayed=False), self._directory / "session.log", self._signers
        )
        self._feed(events.Start(now=self._host.now(), nonce=self._host.random(32)))

    def _machine(self, replayed: bool) -> DestinationSession:
        guard = ReplayedUses() if replayed else UsedIds(self._host.place.used)
        return DestinationSession(
            self._host.local,
            self._ground.anchors,
            self._ground.policy,
            self._signed,
            self.store.certificate(),
            guard,
        )

    def _feed(self, event: Any) -> list[Any]:
        assert self._session is not None
        return self._session.feed(event)

    # -- fetching and running -----------------------------------------------------------------------------------------

    def begin_early(self, disks: Sequence[str], hints: Mapping[str, Any]) -> None:
        """Copy disks as they are before the freeze: only from a proven source, only disks of the order.

        :raises Rejected: otherwise
        """
        sizes = dict(self.order.disks)
        with self._lock:
            if self.phase is not Phase.ATTESTING or not self._source_certificate:
                raise Rejected("the source is not proven, or the freeze is there already")
            if len(set(disks)) != len(disks) or not set(disks) <= sizes.keys():
                raise Rejected(f"disks: some of {', '.join(sizes)} expected")
            address, port = _bulk_address(hints)
            self.store.copy_early(
                address=address,
                port=port,
                certificate=self._source_certificate,
                freeze_id=self.order.freeze_group,
                regions=[
                    {"id": number, "kind": "disk", "name": name, "size_bytes": sizes[name]}
                    for number, name in enumerate(disks, 1)
                ],
            )

    def _fetch(self, action: actions.Fetch, hints: Mapping[str, Any]) -> None:
        """Have the store fetch; siblings on this host share it, and must have been offered the very same freeze."""
        address, port = _bulk_address(hints)
        self.pause_us = action.pause_us
        self._regions = [
            {"id": id_, "kind": kind, "name": name, "size_bytes": size}
            for id_, kind, name, size in action.regions
        ]
        self.store.fetch(
            address=address,
            port=port,
            certificate=self._source_certificate,
            freeze_id=action.freeze_id,
            page_key=action.page_key,
            regions=self._regions,
            mode=self.order.memory_mode,
            limit_s=self._host.limits.network_limit_s,
        )
        self.enter(Phase.FETCHING)
        self._start_running()

    def _start_running(self) -> None:
        threading.Thread(target=self._run, name=f"clone-{self.clone_id[:8]}", daemon=True).start()

    def _run(self) -> None:
        """From the first verified page to the settled clone."""
        try:
            if self.phase is Phase.FETCHING and self._vtpm.derives and self._vtpm.kept() is None:
                self._derive_vtpm()
            if self.phase is Phase.FETCHING and self.order.memory_mode == "lazy":
                self._restore()
                self.enter(Phase.PROVISIONAL)
            self._await_everything()
            self._await_final()
            if self.phase is Phase.FETCHING:
                self._restore()
            self.enter(Phase.COMPLETE)
        except Exception as error:
            if not self._stopped.is_set():
                LOG.exception("clone %s", self.clone_id)
                self.fail(self._why(error))
            return
        self.settle()

    def settle(self) -> None:
        """Make a complete clone's disks independent of the store, whether it runs or not. Repeated until it is done."""
        if self.phase is not Phase.COMPLETE or self.settled:
            return
        if self._settling.attempt(self._note_settled, removed=self._stopped.is_set):
            self._changed(self)

    def _note_settled(self) -> None:
        with self._saving:
            self.settled = True
            self.save()

    @property
    def process_exists(self) -> bool:
        """Whether the process that was restored is there: its memory is the store's."""
        return self._host.destination.exists(self.identity.uuid, self._directory)

    def _why(self, error: Exception) -> str:
        """A guest that waits for a page which never comes dies of that: the store's reason is then the reason."""
        try:
            self.store.status()
        except StoreFailed as failed:
            return str(failed)
        return str(error)

    def _restore(self) -> None:
        self.enter(Phase.RESTORING)
        self.store.add_clone(self.identity.name)
        plan = restoring.plan(
            self.store, self._regions, self.identity, self._directory, self._vtpm.kept()
        )
        with self._lock:
            if self._stopped.is_set():
                raise Rejected("ended before it was restored")
            self._host.destination.restore(plan)
        self._vtpm.forget()

    def _derive_vtpm(self) -> None:
        state = restoring.region_path(self.store, self._regions, "vtpm").read_bytes()
        with self._vtpm.derived(unpack_vtpm(state)) as vtpm, self._lock:
            self._require_done(self._feed(events.VtpmInstalled(vtpm=vtpm)))

    def _await_everything(self) -> None:
        pace = Pace(POLL_S)
        while not self.fetched:
            self._pause(pace)
            status = self.store.status()
            if status.get("root") is None or not status.get("complete"):
                continue
            self._feed_transfer_done(decode(status["root"]), Counts(**status["counts"]))
            self.fetched = True

    def _feed_transfer_done(self, root: bytes, counts: Counts) -> None:
        with self._lock:
            self._require_done(self._feed(events.TransferDone(manifest_root=root, counts=counts)))

    @staticmethod
    def _require_done(left: Sequence[Any]) -> None:
        """Nothing may be left to do but to hear why not."""
        for action in left:
            raise Rejected(f"refused: {getattr(action, 'verdict', action)}")

    def _await_final(self) -> None:
        pace = Pace(POLL_S)
        while not self._final.is_set():
            self._pause(pace)
            self.store.status()

    def _pause(self, pace: Pace) -> None:
        if self._stopped.wait(pace.pause_s):
            raise Rejected(self.reason)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def fail(self, reason: str, code: str = "") -> None:
        """End the clone and remove everything of it; its record stays.

        :param code: stable, for programs; empty where there is none
        """
        with self._lock:
            if self.phase.ended:
                return
            self.code = code
            self._stopped.set()
            try:
                self.enter(Phase.FAILED, reason)
            except OSError as error:  # a full disk must not keep what is on it
                LOG.error("clone %s: its record cannot be written: %s", self.clone_id, error)
            self._clean_or_remember()

    def _clean_or_remember(self) -> None:
        try:
            self.clean()
            self._unclean = False
        except Exception:
            LOG.exception("clone %s: not all of it is removed yet", self.clone_id)
            self._unclean = True

    def forget(self, reason: str) -> None:
        """Its server is no more, or not here any more: end it if it has not ended, and remove its record."""
        self.fail(reason)
        self._stopped.set()
        with self._lock:
            self._clean_or_remember()
            if self._unclean:
                raise Rejected(f"clone {self.clone_id}: not all of it could be removed")
            remove(self._directory)

    def clean_again(self) -> None:
        """Try again to remove what could not be removed."""
        with self._lock:
            if self._unclean:
                self._clean_or_remember()

    def clean(self) -> None:
        """Remove the clone, its vTPM's state and whatever else it had here. Each part is tried even if another fails."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._vtpm.forget)
            stack.callback(self._host.destination.destroy, self.identity.uuid, self._directory)
            stack.callback(self._vtpm.discard)


def _bulk_address(hints: Mapping[str, Any]) -> tuple[str, int]:
    """Where the exporter serves. Only a hint: who answers there must have the proven source's certificate.

    :raises Rejected: when there is none
    """
    bulk = hints.get("bulk")
    if not isinstance(bulk, dict):
        raise Rejected("bulk: the exporter's address is missing")
    address, port = bulk.get("address"), bulk.get("port")
    if not isinstance(address, str) or not isinstance(port, int) or not 0 < port < 1 << 16:
        raise Rejected("bulk: an address and a port expected")
    return address, port
