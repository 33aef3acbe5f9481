"""The destination's use case: every clone that this host receives, and the stores that serve them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.clone import records
from nova_trusted_clone.clone.ground import ANCHORS, POLICY, Ground
from nova_trusted_clone.clone.helpers import remove
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.incoming import Incoming, Phase, Rejected
from nova_trusted_clone.clone.stores import Store, StoreFailed
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol.order import SignedOrder, verify_order
from nova_trusted_clone.ports import Identity, NicIdentity

LOG = logging.getLogger(__name__)
WATCH_S = 1.0
BEFORE_RESTORE = frozenset(("clone.json", "session.log", ANCHORS, POLICY))


class Destination:
    """Every clone of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._clones: dict[str, Incoming] = {}
        self._closing = threading.Event()

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
                clone = Incoming(self._host, directory, signed, order, identity, ground)
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

    def end(self, clone_id: str, reason: str) -> None:
        """End a clone that is not complete. A complete one is an ordinary server: end it as such."""
        self._clone(clone_id).fail(reason)

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

    def start_watching(self) -> None:
        """Stop stores whose clones are gone, from now on; and have the hypervisor ready for the first clone."""
        threading.Thread(target=self._watch, name="stores", daemon=True).start()
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

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
        raw = record["identity"]
        identity = Identity(
            raw["name"],
            raw["uuid"],
            tuple(NicIdentity(nic["mac"], nic["bridge"]) for nic in raw["nics"]),
        )
        clone = Incoming(
            self._host, directory, signed, signed.order(), identity, Ground.load(directory)
        )
        return clone, record

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_S):
            try:
                for clone in list(self._clones.values()):
                    clone.expire()
                    clone.clean_again()
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

    def _uses_store(self, clone: Incoming) -> bool:
        if not clone.phase.ended:
            return True
        return clone.phase is Phase.COMPLETE and self._host.destination.exists(clone.identity.uuid)

    def _clone(self, clone_id: str) -> Incoming:
        clone = self._clones.get(clone_id)
        if clone is None:
            raise Rejected(f"no clone {clone_id[:64]!r} is expected here")
        return clone
