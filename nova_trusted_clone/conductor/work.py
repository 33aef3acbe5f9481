"""A worker's own threads: one that turns claims into freezes, one that looks for what was left behind."""

from __future__ import annotations

import concurrent.futures
import random
import secrets
import threading
import time
from collections.abc import Callable

from oslo_log import log as logging

from nova_trusted_clone.conductor.contexts import Contexts
from nova_trusted_clone.conductor.gather import Claim, Decision, Gathering, decide
from nova_trusted_clone.conductor.leases import Lease
from nova_trusted_clone.conductor.ordering import Ordering
from nova_trusted_clone.conductor.records import Records
from nova_trusted_clone.db.freezes import Freezes
from nova_trusted_clone.objects.clone import Attempt, Freeze, FreezeState, Group

LOG = logging.getLogger(__name__)

LOOK_S = 1.0
"""Other workers' claims are seen by looking; one's own wake the thread at once."""
PATIENCE_S = 3.0
"""A worker that has not the tenant's token leaves a freeze for so long to one that has."""


class Gatherer:
    """Makes freezes of claims."""

    def __init__(
        self,
        freezes: Freezes,
        records: Records,
        ordering: Ordering,
        contexts: Contexts,
        lease: Lease,
        pool: concurrent.futures.Executor,
        dismiss: Callable[[Group, Attempt, str], None],
        *,
        limit_s: float,
    ) -> None:
        """:param dismiss: ends a claim that waits for nothing, and tells its host"""
        self._freezes = freezes
        self._records = records
        self._ordering = ordering
        self._contexts = contexts
        self._lease = lease
        self._pool = pool
        self._dismiss = dismiss
        self._limit_s = limit_s

    def look(self) -> float:
        """Make the freezes that are due; return the seconds until the next may be."""
        nearest = LOOK_S
        for group_id in self._freezes.waiting_groups():
            again_s = self._look_at(group_id)
            nearest = min(nearest, again_s)
        return max(nearest, 0.01)

    def order(self, freeze_id: str) -> None:
        """Order a freeze that this worker holds, in the background."""
        self._pool.submit(_logged, self._ordering.run, freeze_id)

    def _look_at(self, group_id: str) -> float:
        found = self._freezes.gathering(group_id)
        if found is None:
            return LOOK_S
        group, clones, waiting = found
        now_s = self._records.now().timestamp()
        decision = decide(
            Gathering(
                group.state,
                tuple((clone.server_id, clone.phase) for clone in clones),
                tuple(Claim(one.id, one.server_id, one.claimed_at.timestamp()) for one in waiting),
            ),
            now_s,
            self._limit_s,
            0.0 if self._contexts.has(group_id) else PATIENCE_S,
        )
        for attempt in waiting:
            if attempt.id in decision.dismissed:
                self._dismiss(group, attempt, "this server is not, or no longer, to be cloned")
        self._take(group, decision)
        return LOOK_S if decision.again_at is None else decision.again_at - now_s

    def _take(self, group: Group, decision: Decision) -> None:
        if not decision.attempts:
            return
        now = self._records.now()
        freeze = Freeze(
            id=secrets.token_hex(16),
            group_id=group.id,
            source_server=group.source_server,
            source_host=group.source_host,
            state=FreezeState.ORDERING,
            worker=self._lease.worker,
            lease_until=self._lease.until(now),
            created_at=now,
        )
        if self._freezes.take(freeze, decision.attempts):
            LOG.info(
                "group %s: freeze %s for %d clones", group.id, freeze.id, len(decision.attempts)
            )
            self.order(freeze.id)


class Threads:
    """The two threads, from start to stop."""

    def __init__(
        self, gatherer: Gatherer, look_for_stale: Callable[[], None], check_s: float
    ) -> None:
        self._gatherer = gatherer
        self._look_for_stale = look_for_stale
        self._check_s = check_s
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._threads = [
            threading.Thread(target=self._gather, name="gather", daemon=True),
            threading.Thread(target=self._check, name="stale", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look at the claims now."""
        self._awake.set()

    def stop(self, wait_s: float = 5.0) -> None:
        """End; what is in mid step ends with it, or is taken up later."""
        self._stopping.set()
        self._awake.set()
        deadline = time.monotonic() + wait_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _gather(self) -> None:
        pause_s = 0.0
        while not self._stopping.is_set():
            self._awake.wait(pause_s)
            self._awake.clear()
            try:
                pause_s = self._gatherer.look()
            except Exception:
                LOG.exception("gathering claims")
                pause_s = LOOK_S

    def _check(self) -> None:
        pause_s = 0.0  # at once: what a former service left is waiting
        while not self._stopping.wait(pause_s):
            # Workers that were started together need not look together.
            pause_s = self._check_s * random.uniform(0.8, 1.2)
            try:
                self._look_for_stale()
            except Exception:
                LOG.exception("looking for what was left behind")


def _logged(step: Callable[[str], None], freeze_id: str) -> None:
    """Run a step of which nobody asks for the result; what it did not expect is logged, and taken up by the
    lease's end.
    """
    try:
        step(freeze_id)
    except Exception:
        LOG.exception("freeze %s", freeze_id)
