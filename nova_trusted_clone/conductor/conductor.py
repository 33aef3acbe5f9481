"""The conductor's use cases, one for each message that it takes."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oslo_log import log as logging

from nova_trusted_clone.conductor import evidence as proof
from nova_trusted_clone.conductor.claims import CANCELLED, Claims
from nova_trusted_clone.conductor.contexts import Contexts
from nova_trusted_clone.conductor.moves import Why
from nova_trusted_clone.conductor.records import Records
from nova_trusted_clone.conductor.telling import Telling
from nova_trusted_clone.db.clones import Evidence
from nova_trusted_clone.db.store import Store
from nova_trusted_clone.objects.clone import Attempt, Clone, Group, Phase
from nova_trusted_clone.rpc.errors import Conflict, NotFound, Unavailable

LOG = logging.getLogger(__name__)

ABORTED = "trusted-clone.aborted"


class Conductor:
    """What it does. Each method raises the errors of rpc.errors."""

    def __init__(
        self,
        store: Store,
        records: Records,
        claims: Claims,
        contexts: Contexts,
        telling: Telling,
        anchors_file: pathlib.Path,
        wake: Callable[[], None],
    ) -> None:
        """:param wake: has the claims looked at now"""
        self._groups = store.groups
        self._clones = store.clones
        self._freezes = store.freezes
        self._records = records
        self._claims = claims
        self._contexts = contexts
        self._telling = telling
        self._anchors_file = anchors_file
        self._wake = wake

    # -- nova-api -----------------------------------------------------------------------------------------------------

    def begin(self, context: Any, request: Mapping[str, Any]) -> str:
        """Open a group; return its nonce, in hexadecimal."""
        group = self._claims.begin(request)
        self._contexts.remember(group.id, context)
        return group.nonce

    def register(
        self, context: Any, group_id: str, servers: Sequence[Mapping[str, str]]
    ) -> list[Clone]:
        """Record a group's servers; return their records."""
        clones = self._claims.register(group_id, servers)
        self._contexts.remember(group_id, context)
        self._wake()
        return clones

    def cancel(self, group_id: str, reason: str) -> None:
        """Take a group back: it ends all of it that is not complete."""
        group = self._groups.cancel(group_id)
        if group is None:
            raise NotFound(f"no group {group_id}", "trusted-clone.group.unknown")
        why = Why(f"the request was taken back: {reason}", CANCELLED)
        for clone in self._clones.matching({"group": group_id}):
            if not clone.phase.ended:
                self._abort(clone, why)
        self._contexts.forget(group_id)
        self._wake()

    def views(self, clones: Sequence[Clone]) -> list[dict[str, Any]]:
        """Return records as they are sent."""
        attempts = self._clones.attempts([clone.server_id for clone in clones]) if clones else {}
        return [clone.to_view(attempts.get(clone.server_id, ())) for clone in clones]

    def matching(self, filters: Mapping[str, Any]) -> list[Clone]:
        """Return records, newest first."""
        return self._clones.matching(filters)

    def get(self, clone_id: str) -> Clone:
        """Return a record."""
        return self._records.require(clone_id)

    def evidence(self, clone_id: str) -> dict[str, Any]:
        """Return the evidence of a complete clone."""
        clone = self._records.require(clone_id)
        found = self._clones.evidence(clone_id)
        if found is None:
            raise NotFound(
                f"clone {clone_id} is {clone.phase}: there is evidence of complete clones only",
                "trusted-clone.evidence.none",
            )
        return dict(found.content)

    def abort(self, clone_id: str, reason: str) -> None:
        """End a clone that is not complete; one that has ended stays as it is."""
        clone = self._records.require(clone_id)
        if clone.phase is Phase.COMPLETE:
            raise Conflict(
                f"clone {clone_id} is complete, an ordinary server: delete the server to end it",
                "trusted-clone.record.ended",
            )
        self._abort(clone, Why(reason or "aborted", ABORTED))

    # -- nova-compute -------------------------------------------------------------------------------------------------

    def claim(self, context: Any, group_id: str, server_id: str, host: str, host_id: str) -> str:
        """Record that a host was chosen; return the id of its attempt."""
        claiming = self._claims.claim(group_id, server_id, host, host_id)
        self._contexts.remember(group_id, context)
        if claiming.ended is not None:
            self._tell_over(claiming.ended, claiming.ended.reason or "")
        self._wake()
        return claiming.attempt.id

    def report(self, attempt_id: str, status: Mapping[str, Any]) -> None:
        """Take how far a clone is."""
        self._records.report(attempt_id, status)

    def complete(self, attempt_id: str, content: Mapping[str, Any]) -> None:
        """Verify evidence, and record the clone as complete."""
        attempt = self._records.require_attempt(attempt_id)
        clone = self._clones.by_server(attempt.server_id)
        if clone is None or attempt.order is None or attempt.freeze_id is None:
            raise Conflict(
                f"clone {attempt_id} has no order: there can be no evidence",
                "trusted-clone.attempt.unordered",
            )
        found = self._freezes.get(attempt.freeze_id)
        sha256 = found[0].policy_sha256 if found else None
        policy = self._freezes.policy(sha256) if sha256 else None
        if sha256 is None or policy is None:
            raise Unavailable("the policy of this clone's order is not in the database")
        summary = proof.verify(content, attempt.order, clone.nonce, self._anchors_file, policy)
        evidence = Evidence(attempt_id, sha256, dict(content))
        self._records.prove(attempt.server_id, attempt_id, evidence, int(summary["pause_us"]))

    def fail(
        self, group_id: str, server_id: str, attempt_id: str | None, why: Why, *, retry: bool
    ) -> None:
        """Take a host's word that a clone has failed there."""
        clone = self._clones.by_server(server_id)
        if clone is None or clone.group_id != group_id:
            self._fail_unnamed(group_id, server_id, attempt_id, why)
            return
        freeze = clone.freeze_id
        if retry and clone.phase not in (Phase.PROVISIONAL, Phase.FAILED, Phase.ABORTED):
            self._records.retry(server_id, attempt_id, why)
        else:
            self._records.fail(server_id, attempt_id, why)
        attempt = self._clones.attempt(attempt_id or clone.attempt_id or "")
        if attempt is not None and freeze is not None and attempt.order is not None:
            self._tell_source(attempt, why.reason)
        self._wake()

    # -- the conductor's own threads ----------------------------------------------------------------------------------

    def end(self, clone: Clone, why: Why) -> None:
        """Fail a record of which nothing more will come, and tell its hosts."""
        if self._records.fail(clone.server_id, clone.attempt_id, why) is not None:
            self._tell_current(clone, why.reason)
            self._wake()

    def dismiss(self, group: Group, attempt: Attempt, reason: str) -> None:
        """End a claim that waits for nothing."""
        self._groups.close(attempt.id, reason, "trusted-clone.claim.dismissed", self._records.now())
        self._telling.over(self._contexts.of(group), attempt, None, reason)

    # -- within -------------------------------------------------------------------------------------------------------

    def _abort(self, clone: Clone, why: Why) -> None:
        changed = self._records.abort(clone.server_id, why)
        if changed is not None:
            self._tell_current(changed[0], why.reason)
            self._wake()

    def _fail_unnamed(
        self, group_id: str, server_id: str, attempt_id: str | None, why: Why
    ) -> None:
        """A claim that failed before its server was named."""
        self._claims.require_group(group_id)
        attempt = self._clones.attempt(attempt_id) if attempt_id else None
        if attempt is None or (attempt.group_id, attempt.server_id) != (group_id, server_id):
            raise NotFound(
                f"server {server_id} is not of group {group_id}", "trusted-clone.group.servers"
            )
        self._groups.close(attempt.id, why.reason, why.code, self._records.now())

    def _tell_current(self, clone: Clone, reason: str) -> None:
        attempt = self._clones.attempt(clone.attempt_id) if clone.attempt_id else None
        if attempt is not None:
            self._tell_over(attempt, reason)

    def _tell_over(self, attempt: Attempt, reason: str) -> None:
        group = self._groups.get(attempt.group_id)
        if group is None:
            return
        found = self._freezes.get(attempt.freeze_id) if attempt.freeze_id else None
        whole = self._clones.attempt(attempt.id) or attempt
        self._telling.over(self._contexts.of(group), whole, found[0] if found else None, reason)

    def _tell_source(self, attempt: Attempt, reason: str) -> None:
        group = self._groups.get(attempt.group_id)
        found = self._freezes.get(attempt.freeze_id) if attempt.freeze_id else None
        if group is not None and found is not None:
            self._telling.source_over(self._contexts.of(group), found[0], attempt.id, reason)
