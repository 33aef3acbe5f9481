"""The conductor behind RPC: every argument checked, every answer plain, every failure one of the errors of
rpc.errors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import oslo_messaging as messaging

from nova_trusted_clone.conductor.conductor import Conductor
from nova_trusted_clone.conductor.moves import Why
from nova_trusted_clone.db.engine import DatabaseAway
from nova_trusted_clone.rpc import VERSION, checks, shapes
from nova_trusted_clone.rpc.endpoint import answers
from nova_trusted_clone.rpc.errors import Unavailable

Method = Callable[..., Any]


def _answers(**arguments: checks.Check) -> Callable[[Method], Method]:
    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def while_the_database_is_there(self: Any, context: Any, **values: Any) -> Any:
            try:
                return method(self, context, **values)
            except DatabaseAway as error:
                raise Unavailable(str(error), "trusted-clone.database.away") from error

        return answers(**arguments)(while_the_database_is_there)

    return decorate


class Endpoint:
    """Version 1.0 of topic ``trusted_clone_conductor``."""

    target = messaging.Target(version=VERSION)

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    @_answers(request=shapes.request)
    def begin(self, context: Any, request: dict[str, Any]) -> Any:
        """Open a group."""
        return {"nonce": self._conductor.begin(context, request)}

    @_answers(group=checks.hex_id, servers=checks.many(shapes.named_server, shapes.MAX_COUNT, 1))
    def register(self, context: Any, group: str, servers: list[dict[str, str]]) -> Any:
        """Record a group's servers."""
        clones = self._conductor.register(context, group, servers)
        return {"clones": self._conductor.views(clones)}

    @_answers(group=checks.hex_id, reason=checks.reason)
    def cancel(self, context: Any, group: str, reason: str) -> Any:
        """Take a group back."""
        self._conductor.cancel(group, reason)
        return {}

    @_answers(
        group=checks.hex_id,
        server=checks.server_uuid,
        host=checks.host,
        host_id=checks.host_id,
    )
    def claim(self, context: Any, group: str, server: str, host: str, host_id: str) -> Any:
        """Record that a host was chosen for a server."""
        return {"clone_id": self._conductor.claim(context, group, server, host, host_id)}

    @_answers(clone_id=checks.hex_id, status=shapes.status)
    def report(self, context: Any, clone_id: str, status: dict[str, Any]) -> Any:
        """Take how far a clone is."""
        self._conductor.report(clone_id, status)
        return {}

    @_answers(clone_id=checks.hex_id, evidence=checks.plain_object(shapes.MAX_EVIDENCE_CHARACTERS))
    def complete(self, context: Any, clone_id: str, evidence: dict[str, Any]) -> Any:
        """Verify and record evidence."""
        self._conductor.complete(clone_id, evidence)
        return {}

    @_answers(
        group=checks.hex_id,
        server=checks.server_uuid,
        clone_id=checks.optional(checks.hex_id),
        reason=checks.reason,
        code=shapes.CODE,
        retry=checks.flag,
    )
    def fail(
        self,
        context: Any,
        group: str,
        server: str,
        clone_id: str | None,
        reason: str,
        code: str,
        retry: bool,
    ) -> Any:
        """Take a host's word that a clone has failed there."""
        self._conductor.fail(group, server, clone_id, Why(reason, code), retry=retry)
        return {}

    @_answers(filters=shapes.filters)
    def list(self, context: Any, filters: dict[str, Any]) -> Any:
        """Return records, newest first."""
        return self._conductor.views(self._conductor.matching(filters))

    @_answers(clone_id=checks.server_uuid)
    def get(self, context: Any, clone_id: str) -> Any:
        """Return one record."""
        return self._conductor.views([self._conductor.get(clone_id)])[0]

    @_answers(clone_id=checks.server_uuid)
    def evidence(self, context: Any, clone_id: str) -> Any:
        """Return a complete clone's evidence."""
        return self._conductor.evidence(clone_id)

    @_answers(clone_id=checks.server_uuid, reason=checks.reason)
    def abort(self, context: Any, clone_id: str, reason: str) -> Any:
        """End a clone that is not complete."""
        self._conductor.abort(clone_id, reason)
        return {}
