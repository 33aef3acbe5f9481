"""The clones of one freeze: each succeeds or fails alone."""

from __future__ import annotations

import concurrent.futures
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from nova_trusted_clone.clone import records
from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.outgoing import CloneFailed, Outgoing, Phase
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol.order import Order, SignedOrder

LOG = logging.getLogger(__name__)


class FreezeFailed(Exception):
    """No clone of this freeze can go on."""


class Batch:
    """Clones that are made from one freeze.

    :ivar clones: in the order of their orders; ended ones too
    """

    def __init__(
        self, host: Host, directory: pathlib.Path, failed: Callable[[Outgoing], None]
    ) -> None:
        """:param failed: told of a clone that failed after it had been let in"""
        self.clones: list[Outgoing] = []
        self._host = host
        self._directory = directory
        self._failed = failed

    def admit(self, signed: SignedOrder, order: Order, destination: str) -> None:
        """Add a clone."""
        directory = self._directory / order.clone_id.hex()
        if directory.exists():
            raise FreezeFailed(f"clone {order.clone_id.hex()} is ordered twice")
        directory.mkdir(mode=0o700, parents=True)
        ground = self._host.ground()
        ground.save(directory)
        clone = Outgoing(self._host, directory, signed, order, destination, ground)
        clone.save()
        self.clones.append(clone)

    def load(self) -> None:
        """Take over what a former service admitted."""
        for path in sorted(self._directory.glob("*/clone.json")):
            try:
                self.clones.append(self._load(path))
            except (records.RecordError, CoreError, KeyError, TypeError, ValueError) as error:
                # It cannot go on; the server must not stay frozen for that.
                LOG.error("clone %s cannot be taken over: %s", path.parent.name, error)

    def _load(self, path: pathlib.Path) -> Outgoing:
        record = records.read(path)
        signed = SignedOrder.decode(bytes.fromhex(record["order"]))
        clone = Outgoing(
            self._host,
            path.parent,
            signed,
            signed.order(),
            str(record["destination"]),
            Ground.load(path.parent),
        )
        clone.phase, clone.reason = Phase(record["phase"]), str(record["reason"])
        clone.store_certificate = bytes.fromhex(record["store_certificate"])
        return clone

    @property
    def first(self) -> Outgoing:
        """Any one, for what is the same in all of their orders."""
        return self.clones[0]

    @property
    def running(self) -> list[Outgoing]:
        """Those that have not ended."""
        return [clone for clone in self.clones if not clone.phase.ended]

    def require_some(self) -> None:
        """Go on only while there is somebody to go on for."""
        if not self.running:
            raise FreezeFailed("no clone of this freeze is left")

    def each(self, step: Any, clones: Sequence[Outgoing] | None = None, workers: int = 8) -> None:
        """Do a step for every clone; a clone that fails in it ends alone.

        :param clones: only these; by default all that run, and one must be left then
        :raises FreezeFailed: when none is left
        """
        targets = self.running if clones is None else clones

        def one(clone: Outgoing) -> None:
            try:
                step(clone)
            except CloneFailed as error:
                self.fail(clone, str(error), error.code)

        with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
            for future in [pool.submit(one, clone) for clone in targets]:
                future.result()
        if clones is None:
            self.require_some()

    def fail(self, clone: Outgoing, reason: str, code: str = "") -> None:
        """End one clone: its store gets no page of the others' freeze any more."""
        admitted = bool(clone.store_certificate)
        clone.fail(reason, code)
        if admitted:
            self._failed(clone)

    def fail_all(self, reason: str) -> None:
        """End every one that runs."""
        for clone in self.running:
            self.fail(clone, reason)
