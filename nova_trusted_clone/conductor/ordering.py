"""One freeze, from its claims to the source's start.

    inspect the source → sign an order for each claim → (stands in the database) → prepare each destination → start
    the source

Each step may be made twice: hosts take the same order once. So whoever takes a freeze up after a killed worker
makes them again from the first that is not in the database. Each clone fails alone; a source that cannot be frozen
fails all.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from oslo_log import log as logging

from nova_trusted_clone.conductor import moves
from nova_trusted_clone.conductor.contexts import Contexts
from nova_trusted_clone.conductor.leases import Lease
from nova_trusted_clone.conductor.moves import Why
from nova_trusted_clone.conductor.orders import OrderRefused, Orders
from nova_trusted_clone.conductor.records import Records
from nova_trusted_clone.conductor.telling import Compute, Telling
from nova_trusted_clone.db.engine import DatabaseAway
from nova_trusted_clone.db.store import Store
from nova_trusted_clone.objects.clone import Attempt, Clone, Freeze, FreezeState, Group
from nova_trusted_clone.rpc.client import insist
from nova_trusted_clone.rpc.errors import CloneError

LOG = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another worker orders this freeze now."""


class Ordering:
    """Orders freezes."""

    def __init__(
        self,
        store: Store,
        records: Records,
        orders: Orders,
        compute: Compute,
        telling: Telling,
        contexts: Contexts,
        lease: Lease,
        *,
        retry_limit_s: float,
        threads: int,
    ) -> None:
        """:param threads: destinations that are told at one time"""
        self._freezes = store.freezes
        self._groups = store.groups
        self._records = records
        self._orders = orders
        self._compute = compute
        self._telling = telling
        self._contexts = contexts
        self._lease = lease
        self._retry_limit_s = retry_limit_s
        self._threads = threads

    def run(self, freeze_id: str) -> None:
        """Order a freeze that this worker holds."""
        try:
            with self._holding(freeze_id) as lost:
                self._run(freeze_id, lost)
        except LeaseLost:
            LOG.warning("freeze %s: another worker has taken it up", freeze_id)
        except DatabaseAway:
            LOG.exception("freeze %s: left to whoever sees the database again", freeze_id)

    def _run(self, freeze_id: str, lost: threading.Event) -> None:
        found = self._freezes.get(freeze_id)
        group = self._groups.get(found[0].group_id) if found else None
        if found is None or group is None:
            return
        freeze, attempts = found
        context = self._contexts.of(group)
        try:
            if not any(attempt.order for attempt in attempts):
                self._sign(freeze, group, context, [one for one in attempts if one.is_open])
            _require_held(lost)
            ready = self._prepare(freeze, context)
            _require_held(lost)
            self._start(freeze, context, ready)
        except OrderRefused as error:
            self._give_up(freeze, context, Why(str(error), error.code))
        except CloneError as error:
            self._give_up(freeze, context, Why(str(error), error.code))

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _sign(self, freeze: Freeze, group: Group, context: Any, attempts: list[Attempt]) -> None:
        inspection = insist(
            lambda: self._compute.inspect(context, freeze.source_host, freeze.source_server),
            self._retry_limit_s,
        )
        policy, body = self._orders.policy()
        self._orders.require_clonable(inspection, group, policy)
        signed = {}
        for attempt in attempts:
            try:
                signed[attempt.id] = self._orders.sign(freeze, attempt, group, inspection, policy)
            except OrderRefused as error:
                self._leave(freeze, context, attempt, Why(str(error), error.code))

        moved: list[tuple[Clone, Clone]] = []

        def ordered(clone: Clone, attempt: Attempt) -> Clone | None:
            after = moves.ordered(clone, attempt, self._records.now())
            if after is not None:
                moved.append((clone, after))
            return after

        self._freezes.save_orders(freeze, signed, (policy.sha256.hex(), body), ordered)
        for before, after in {after.id: (before, after) for before, after in moved}.values():
            self._records.tell(before, after)

    def _prepare(self, freeze: Freeze, context: Any) -> list[Attempt]:
        """Give every destination its order; return those that took it."""

        def one(attempt: Attempt) -> Attempt | None:
            order = attempt.order
            assert order is not None
            try:
                insist(
                    lambda: self._compute.prepare(
                        context, attempt.host, attempt.id, attempt.server_id, order
                    ),
                    self._retry_limit_s,
                )
            except CloneError as error:
                self._leave(freeze, context, attempt, Why(str(error), error.code))
                return None
            return attempt

        with concurrent.futures.ThreadPoolExecutor(max_workers=self._threads) as pool:
            return [attempt for attempt in pool.map(one, self._open(freeze)) if attempt is not None]

    def _start(self, freeze: Freeze, context: Any, ready: list[Attempt]) -> None:
        """Give the source the orders of the clones that nobody ended meanwhile."""
        still = {attempt.id for attempt in self._open(freeze)}
        orders = [(one.order, one.host) for one in ready if one.id in still]
        if not orders:
            self._freezes.close(freeze.id, FreezeState.FAILED)
            return
        insist(
            lambda: self._compute.clone(context, freeze.source_host, orders), self._retry_limit_s
        )
        self._freezes.close(freeze.id, FreezeState.STARTED)
        LOG.info("freeze %s: host %s has %d orders", freeze.id, freeze.source_host, len(orders))

    # -- failures -----------------------------------------------------------------------------------------------------

    def _leave(self, freeze: Freeze, context: Any, attempt: Attempt, why: Why) -> None:
        """One destination does not take part: nova may choose another."""
        self._records.retry(attempt.server_id, attempt.id, why)
        self._telling.over(context, attempt, freeze, why.reason)

    def _give_up(self, freeze: Freeze, context: Any, why: Why) -> None:
        """No clone of this freeze can be made."""
        LOG.warning("freeze %s is not begun: %s", freeze.id, why.reason)
        found = self._freezes.get(freeze.id)
        for attempt in [one for one in found[1] if one.is_open] if found else []:
            self._records.fail(attempt.server_id, attempt.id, why)
            self._telling.over(context, attempt, None, why.reason)
        if found and any(attempt.order for attempt in found[1]):
            self._telling.freeze_over(context, freeze, why.reason)
        self._freezes.close(freeze.id, FreezeState.FAILED)

    # -- within -------------------------------------------------------------------------------------------------------

    def _open(self, freeze: Freeze) -> list[Attempt]:
        found = self._freezes.get(freeze.id)
        return [one for one in found[1] if one.is_open and one.order] if found else []

    @contextlib.contextmanager
    def _holding(self, freeze_id: str) -> Iterator[threading.Event]:
        """Keep the lease while the steps go on; the event tells that it is lost."""
        done, lost = threading.Event(), threading.Event()

        def keep() -> None:
            while not done.wait(self._lease.duration_s / 3):
                try:
                    until = self._lease.until(self._records.now())
                    held = self._freezes.hold(freeze_id, self._lease.worker, until)
                except DatabaseAway:
                    LOG.warning("freeze %s: its lease could not be renewed", freeze_id)
                    continue
                if not held and not done.is_set():
                    lost.set()
                    return

        keeper = threading.Thread(target=keep, name=f"lease-{freeze_id[:8]}", daemon=True)
        keeper.start()
        try:
            yield lost
        finally:
            done.set()
            keeper.join()


def _require_held(lost: threading.Event) -> None:
    if lost.is_set():
        raise LeaseLost
