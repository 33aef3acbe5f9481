"""What was left behind: found every few seconds by each worker, then taken up again or ended with a reason.

==============================================  =================================================================
found                                           what is done
==============================================  =================================================================
a freeze in mid ordering whose worker is gone   its ordering goes on where it was
a server that nova gave up or deleted           its record ends, with nova's own fault
a host that reports nothing                     it is asked; what it does not know of ends
a host that cannot be asked for too long        its record ends; the host learns it when it reports again
a server that no host claims for too long       its record ends
a request whose servers were never named        it is taken back, and whoever waits in it told
==============================================  =================================================================

Each is settled by the database, so that any number of workers may look at the same time.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from oslo_log import log as logging

from nova_trusted_clone.conductor.contexts import tenant
from nova_trusted_clone.conductor.leases import Lease
from nova_trusted_clone.conductor.moves import Why
from nova_trusted_clone.conductor.records import Records
from nova_trusted_clone.conductor.servers import Servers, Word
from nova_trusted_clone.conductor.telling import Compute
from nova_trusted_clone.db.store import Store
from nova_trusted_clone.objects.clone import Clone, Phase
from nova_trusted_clone.rpc.errors import CloneError, Conflict, NotFound

LOG = logging.getLogger(__name__)

FIRST_LOOK_S = 3.0
"""Nova is asked for a server that is not at its end when nothing was heard of it for so long."""

_HOST_PHASES = {
    "attesting": Phase.ATTESTING,
    "fetching": Phase.FETCHING,
    "restoring": Phase.RESTORING,
    "provisional": Phase.PROVISIONAL,
}


class Stale:
    """Looks for what was left behind."""

    def __init__(
        self,
        store: Store,
        records: Records,
        compute: Compute,
        servers: Servers,
        lease: Lease,
        take_up: Callable[[str], None],
        take_back: Callable[[str, str], None],
        end: Callable[[Clone, Why], None],
        *,
        silence_s: float,
        limit_s: float,
    ) -> None:
        """:param take_up: goes on with a freeze's ordering
        :param take_back: cancels a group, with a reason
        :param end: fails a record and tells its hosts
        :param silence_s: a host that reports nothing for so long is asked
        :param limit_s: what nobody speaks of for so long ends
        """
        self._records = records
        self._freezes = store.freezes
        self._groups = store.groups
        self._compute = compute
        self._servers = servers
        self._take_up = take_up
        self._take_back = take_back
        self._end = end
        self._lease = lease
        self._silence_s = silence_s
        self._limit_s = limit_s

    def look(self) -> None:
        """Look once."""
        self.take_up_freezes()
        self.end_records()
        self.take_back_groups()

    def take_up_freezes(self) -> None:
        """Go on with what killed workers were ordering."""
        now = self._records.now()
        for freeze in self._freezes.being_ordered():
            if not self._lease.has_ended(freeze.worker, freeze.lease_until, now):
                continue
            former = (freeze.worker, freeze.lease_until)
            until = self._lease.until(now)
            if self._freezes.hold(freeze.id, self._lease.worker, until, instead_of=former):
                LOG.warning("freeze %s: taken up, worker %s left it", freeze.id, freeze.worker)
                self._take_up(freeze.id)

    def end_records(self) -> None:
        """End the records of which nothing more will come."""
        first = min(FIRST_LOOK_S, self._silence_s)
        # Their hosts may not have their orders yet; the lease sees to it that they get them.
        ordering = {freeze.id for freeze in self._freezes.being_ordered()}
        for clone in self._records.clones.unended(self._ago(first)):
            try:
                self._judge(clone, clone.freeze_id in ordering)
            except Conflict as error:
                LOG.info("clone %s: it went on meanwhile: %s", clone.id, error)

    def take_back_groups(self) -> None:
        """Cancel requests that were begun and never named their servers."""
        for group in self._groups.unnamed_since(self._ago(self._limit_s)):
            self._take_back(group.id, "the servers of the request were never named")

    # -- within -------------------------------------------------------------------------------------------------------

    def _judge(self, clone: Clone, is_being_ordered: bool) -> None:
        said = self._servers.ask(clone.server_id)
        if said.word is Word.GAVE_UP:
            if not said.fault and clone.heard_at >= self._ago(self._silence_s):
                return  # nova writes the fault a moment after the state
            self._end(clone, _given_up(clone, said.fault))
        elif said.word is Word.GONE:
            self._end(clone, Why("the server was deleted", "trusted-clone.server.deleted"))
        elif is_being_ordered or clone.heard_at >= self._ago(self._silence_s):
            return
        elif clone.phase in (Phase.SCHEDULING, Phase.CLAIMED):
            self._end_if_too_long(
                clone, "no host claimed the server" if clone.host is None else "no order was made"
            )
        else:
            self._ask_host(clone)

    def _ask_host(self, clone: Clone) -> None:
        assert clone.host is not None and clone.attempt_id is not None
        context = tenant(clone.user_id, clone.project_id, clone.request_id)
        try:
            status = self._compute.status(context, clone.host, clone.attempt_id)
        except NotFound:
            why = f"host {clone.host} knows nothing of the clone any more"
            self._end(clone, Why(why, "trusted-clone.host.forgot"))
        except CloneError as error:
            self._end_if_too_long(clone, f"host {clone.host} does not answer ({error})")
        else:
            self._take(clone, status)

    def _take(self, clone: Clone, status: dict[str, Any]) -> None:
        """Take a host's answer as its report."""
        told = str(status.get("phase"))
        if told == "failed":
            reason = str(status.get("reason") or "its host gave no reason")
            self._end(clone, Why(reason, "trusted-clone.failed"))
        elif told == "complete":
            self._end_if_too_long(
                clone, f"host {clone.host} says complete, and hands in no evidence"
            )
        else:
            assert clone.attempt_id is not None
            phase = _HOST_PHASES.get(told, Phase.ORDERED)
            self._records.report(clone.attempt_id, {"phase": phase})

    def _end_if_too_long(self, clone: Clone, reason: str) -> None:
        if clone.heard_at < self._ago(self._limit_s):
            text = f"{reason}; nothing was heard for {self._limit_s:g} s"
            self._end(clone, Why(text, "trusted-clone.stale"))

    def _ago(self, seconds: float) -> datetime.datetime:
        return self._records.now() - datetime.timedelta(seconds=seconds)


def _given_up(clone: Clone, fault: str) -> Why:
    """Return why nova has no host left; what the last host said tells more than nova's own words, and its code too."""
    text = f"nova gave the server up: {fault or 'without a fault'}"
    if not clone.reason:
        return Why(text, "trusted-clone.server.error")
    return Why(f"{clone.reason}; {text}", clone.code or "trusted-clone.server.error")
