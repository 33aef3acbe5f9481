"""Calls to the conductor, the only writer of clone records.

What nova-compute must get through (a claim, an end, evidence) is repeated while the conductor, the broker or the database is
away: the same message twice counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.rpc import CONDUCTOR_TOPIC, checks, shapes
from nova_trusted_clone.rpc.client import Caller, insist

Record = dict[str, Any]
Records = list[Record]

CALL_S = 30.0
COMPLETE_S = 60.0
"""Evidence of up to 4 MiB, verified before the answer."""
INSIST_S = 120.0
"""A restart of the broker or the database, with room."""


class ConductorAPI:
    """Version 1.0. Every method raises :class:`~nova_trusted_clone.rpc.errors.CloneError`.

    In ``claim``, ``report``, ``complete`` and ``fail`` a clone id is the attempt's, as in the order (32 hexadecimal digits);
    in ``get``, ``evidence`` and ``abort`` it is the record's UUID.
    """

    def __init__(self, client: Any = None, insist_s: float = INSIST_S) -> None:
        """:param insist_s: how long a message that must get through is repeated"""
        self._caller = Caller(CONDUCTOR_TOPIC, client)
        self._insist_s = insist_s

    # -- asked by nova-api --------------------------------------------------------------------------------------------

    def begin(self, context: Any, request: Mapping[str, Any]) -> str:
        """Open a group; return the nonce, in hexadecimal: the tenant's, or one made now."""
        result = checks.mapping({"nonce": checks.hexadecimal(8, 64)}, open_ended=True)
        return str(self._call(context, "begin", result, request=dict(request))["nonce"])

    def register(self, context: Any, group: str, servers: Sequence[Mapping[str, str]]) -> Records:
        """Name the group's servers, [{server, name}]; return their records."""
        result = checks.mapping({"clones": shapes.records}, open_ended=True)
        rows = [dict(server) for server in servers]
        found: Records = self._call(context, "register", result, group=group, servers=rows)[
            "clones"
        ]
        return found

    def cancel(self, context: Any, group: str, reason: str) -> None:
        """End a group and whatever of it is not complete."""
        self._call(context, "cancel", shapes.NOTHING, group=group, reason=reason)

    def list(self, context: Any, filters: Mapping[str, Any] | None = None) -> Records:
        """Return records, newest first.

        :param filters: server (source or clone), project_id, source_server, group, phase, limit, marker (a record's id)
        """
        found: Records = self._call(context, "list", shapes.records, filters=dict(filters or {}))
        return found

    def get(self, context: Any, clone_id: str) -> dict[str, Any]:
        """Return one record."""
        found: dict[str, Any] = self._call(context, "get", shapes.record, clone_id=clone_id)
        return found

    def evidence(self, context: Any, clone_id: str) -> dict[str, Any]:
        """Return the evidence of a complete clone."""
        check = checks.plain_object(shapes.MAX_EVIDENCE_CHARACTERS)
        found: dict[str, Any] = self._call(context, "evidence", check, clone_id=clone_id)
        return found

    def abort(self, context: Any, clone_id: str, reason: str) -> None:
        """End a clone that is not complete."""
        self._call(context, "abort", shapes.NOTHING, clone_id=clone_id, reason=reason)

    # -- told by nova-compute -----------------------------------------------------------------------------------------

    def claim(self, context: Any, group: str, server: str, host: str, host_id: str) -> str:
        """Say that this host was chosen for a server; return the id that its order will have."""
        result = checks.mapping({"clone_id": checks.hex_id}, open_ended=True)
        reply = self._insist(
            context, "claim", result, group=group, server=server, host=host, host_id=host_id
        )
        return str(reply["clone_id"])

    def report(self, context: Any, clone_id: str, status: Mapping[str, Any]) -> None:
        """Tell how far a clone is: {phase, reason, code, progress, pause_us}. One try: the next report tells more."""
        self._call(context, "report", shapes.NOTHING, clone_id=clone_id, status=dict(status))

    def complete(self, context: Any, clone_id: str, evidence: Mapping[str, Any]) -> None:
        """Hand in the evidence; returns when it was verified and recorded.

        :raises Refused: naming every check that failed
        """
        self._insist(
            context,
            "complete",
            shapes.NOTHING,
            COMPLETE_S,
            clone_id=clone_id,
            evidence=dict(evidence),
        )

    def fail(
        self,
        context: Any,
        group: str,
        server: str,
        clone_id: str | None,
        reason: str,
        code: str,
        *,
        retry: bool,
    ) -> None:
        """Say that a clone has failed on this host; with ``retry`` another host may claim it."""
        self._insist(
            context,
            "fail",
            shapes.NOTHING,
            group=group,
            server=server,
            clone_id=clone_id,
            reason=reason,
            code=code,
            retry=retry,
        )

    # -- within -------------------------------------------------------------------------------------------------------

    def _call(
        self,
        context: Any,
        method: str,
        result: checks.Check,
        timeout_s: float | None = None,
        **arguments: Any,
    ) -> Any:
        limit_s = CALL_S if timeout_s is None else timeout_s
        return self._caller.call(context, method, arguments, result, timeout_s=limit_s)

    def _insist(
        self,
        context: Any,
        method: str,
        result: checks.Check,
        timeout_s: float | None = None,
        **arguments: Any,
    ) -> Any:
        return insist(
            lambda: self._call(context, method, result, timeout_s, **arguments), self._insist_s
        )
