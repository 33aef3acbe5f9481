"""The destination's use case: every clone that this host receives, and the stores that serve them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from nova_trusted_clone.clone import records
from nova_trusted_clone.clone.ground import ANCHORS, POLICY, Ground
from nova_trusted_clone.clone.helpers import remove
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.incoming import Incoming
from nova_trusted_clone.clone.kept import Phase, Rejected, identity_from_record
from nova_trusted_clone.clone.stores import Store, StoreFailed
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol.order import SignedOrder, verify_order
from nova_trusted_clone.ports import Identity

LOG = logging.getLogger(__name__)
WATCH_S = 1.0
SETTLE_AGAIN_S = 10.0
Listener = Callable[[dict[str, Any]], None]
BEFORE_RESTORE = frozenset(("clone.json", "session.log", ANCHORS, POLICY))


class Destination:
    """Every clone of this host."""

    def __init__(self, host: Host, listener: Listener | None = None) -> None:
        """:param listener: told a clone's status at each change, by a thread of its own, in order"""
        self._host = host
        self._listener = listener
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._changes = threading.Condition()
        self._lock = threading.Lock()
        self._clones: dict[str, Incoming] = {}
        self._closing = threading.Event()
        self._settle_at: dict[str, float] = {}

    def prepare(self, raw_order: bytes, identity: Identity) -> str:
        """Expect a clone: the control plane's word comes before the source's.

        :returns: the clone's id
        :raises Rejected: when the order does not hold here, or the host is full
        """
        try:
            signed = SignedOrder.decode(raw_order)
        except CoreError as error:
            raise Rejected(f"order: {error}") from error
        ground = self._host.ground()
        verdict, order = verify_order(
            signed,
            ground.anchors,
            ground.policy,
            self._host.now(),
            self._host.local.host_id,
            "destination",
        )
        if order is None or not verdict.ok:
            raise Rejected(f"order: {verdict}")
        if identity.uuid.replace("-", "") != order.destination_server.hex():
            raise Rejected(
                f"the order is for server {order.destination_server.hex()}, not {identity.uuid}"
            )
        with self._lock:
            running = [clone for clone in self._clones.values() if not clone.phase.ended]
            if len(running) >= self._host.limits.max_clones:
                raise Rejected(f"this host receives {len(running)} clones already, its limit")
            directory = self._host.place.clones / order.clone_id.hex()
            if directory.exists():
                raise Rejected(f"clone {order.clone_id.hex()} was prepared before")
            directory.mkdir(mode=0o700)
            try:
                ground.save(directory)
                clone = Incoming(
                    self._host, directory, signed, order, identity, ground, self._changed
                )
                clone.save()
            except BaseException:
                remove(directory)  # nothing has begun: the same order may come again
                raise
            self._clones[clone.clone_id] = clone
        clone.expect()
        return clone.clone_id

    def message(self, clone_id: str, data: bytes, hints: Mapping[str, Any]) -> bytes:
        """A message of a source for one clone.

        :raises Rejected: with the reason
        """
        return self._clone(clone_id).message(data, hints)

    def begin_early(self, clone_id: str, disks: Sequence[str], hints: Mapping[str, Any]) -> None:
        """Copy disks before the freeze.

        :raises Rejected: with the reason
        """
        clone = self._clone(clone_id)
        try:
            clone.begin_early(disks, hints)
        except StoreFailed as error:
            raise Rejected(str(error)) from error

    def status(self, clone_id: str) -> dict[str, Any]:
        """How far a clone is.

        :raises Rejected: when there is none of that id
        """
        return self._clone(clone_id).status()

    def clones(self) -> list[dict[str, Any]]:
        """The status of every clone that has a record here, the oldest order first."""
        return [clone.status() for clone in self._by_age()]

    def of_server(self, server_uuid: str) -> dict[str, Any] | None:
        """The status of a server's newest clone here, if it has one."""
        clone = self._newest(server_uuid)
        return None if clone is None else clone.status()

    def wait(self, clone_id: str, until: Container[str], timeout_s: float) -> dict[str, Any]:
        """Wait until a clone is in one of some phases, or has ended; its status then, or when the time is over.

        :raises Rejected: when there is none of that id
        """
        clone = self._clone(clone_id)
        with self._changes:
            self._changes.wait_for(
                lambda: clone.phase.value in until or clone.phase.ended, timeout_s
            )
        return clone.status()

    def finish(self, server_uuid: str, wait_s: float) -> bool:
        """Wait until a server needs neither its source nor its store any more, its memory aside; whether that is so.

        A server that is no clone, or whose clone failed, needs neither.
        """
        clone = self._newest(server_uuid)
        if clone is None:
            return True
        with self._changes:
            return self._changes.wait_for(
                lambda: clone.settled or clone.phase is Phase.FAILED, wait_s
            )

    def end(self, clone_id: str, reason: str, code: str = "") -> None:
        """End a clone that is not complete. A complete one is an ordinary server: end it as such."""
        self._clone(clone_id).fail(reason, code)

    def forget(self, server_uuid: str, reason: str) -> None:
        """A server is no more, or lives on elsewhere: end its clones here and remove their records; repeatable.

        :raises Rejected: when something could not be removed yet
        """
        for clone in self._by_age():
            if clone.identity.uuid == server_uuid:
                clone.forget(reason)
                with self._lock:
                    self._clones.pop(clone.clone_id, None)

    def resume(self) -> None:
        """Take over, or back, what a former service left."""
        for directory in sorted(self._host.place.clones.iterdir()):
            try:
                clone, record = self._load(directory)
            except (records.RecordError, CoreError, KeyError, ValueError) as error:
                # It may hold the disks of a server that runs: only what was never more than records goes.
                begun = any(path.name not in BEFORE_RESTORE for path in directory.iterdir())
                LOG.warning(
                    "clone directory %s is %s: %s", directory, "kept" if begun else "removed", error
                )
                if not begun:
                    remove(directory)
                continue
            self._clones[clone.clone_id] = clone
            clone.resume(record)
            if self._listener is not None and clone.phase.ended:
                self._news.put(clone.status())

    def start_watching(self) -> None:
        """Stop stores whose clones are gone, from now on; and have the hypervisor ready for the first clone."""
        threading.Thread(target=self._watch, name="stores", daemon=True).start()
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
        if self._listener is not None:
            threading.Thread(target=self._tell, args=(self._listener,), daemon=True).start()

    def _warm_up(self) -> None:
        try:
            self._host.destination.warm_up()
        except Exception:
            # The first clone will say it again, as its own reason.
            LOG.exception("the hypervisor is not ready")

    def close(self) -> None:
        """Watch no more; clones and stores go on by themselves."""
        self._closing.set()

    # -- within -------------------------------------------------------------------------------------------------------

    def _load(self, directory: Any) -> tuple[Incoming, dict[str, Any]]:
        record = records.read(directory / "clone.json")
        signed = SignedOrder.decode(bytes.fromhex(record["order"]))
        clone = Incoming(
            self._host,
            directory,
            signed,
            signed.order(),
            identity_from_record(record["identity"]),
            Ground.load(directory),
            self._changed,
        )
        return clone, record

    def _changed(self, clone: Incoming) -> None:
        with self._changes:
            self._changes.notify_all()
        if self._listener is not None:
            # A copy of now: what is told late must not tell of another phase.
            self._news.put(clone.status())

    def _tell(self, listener: Listener) -> None:
        while True:
            status = self._news.get()
            try:
                listener(status)
            except Exception:
                LOG.exception("telling of clone %s", status["clone_id"])

    def _by_age(self) -> list[Incoming]:
        with self._lock:
            clones = list(self._clones.values())
        return sorted(clones, key=lambda clone: clone.order.issued_at)

    def _newest(self, server_uuid: str) -> Incoming | None:
        found = [clone for clone in self._by_age() if clone.identity.uuid == server_uuid]
        return found[-1] if found else None

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_S):
            try:
                for clone in list(self._clones.values()):
                    clone.expire()
                    clone.clean_again()
                self._settle_again()
                self._stop_unused_stores()
            except Exception:
                LOG.exception("watching the stores")

    def _stop_unused_stores(self) -> None:
        """A store lives as long as a clone reads its RAM from it, or still may."""
        for directory in list(self._host.place.stores.iterdir()):
            users = [
                clone for clone in list(self._clones.values()) if clone.store.directory == directory
            ]
            if any(self._uses_store(clone) for clone in users):
                continue
            LOG.info("store %s: no clone uses it any more", directory.name)
            Store(directory).stop()

    def _settle_again(self) -> None:
        """Disks that still need the store: tried again, each in a thread of its own, as one may take its time."""
        now = time.monotonic()
        for clone in list(self._clones.values()):
            waiting = clone.phase is Phase.COMPLETE and not clone.settled
            if waiting and now >= self._settle_at.get(clone.clone_id, 0.0):
                self._settle_at[clone.clone_id] = now + SETTLE_AGAIN_S
                threading.Thread(target=clone.settle, name="settle", daemon=True).start()

    def _uses_store(self, clone: Incoming) -> bool:
        if not clone.phase.ended:
            return True
        if clone.phase is not Phase.COMPLETE:
            return False
        return not clone.settled or clone.process_exists

    def _clone(self, clone_id: str) -> Incoming:
        clone = self._clones.get(clone_id)
        if clone is None:
            raise Rejected(f"no clone {clone_id[:64]!r} is expected here")
        return clone
