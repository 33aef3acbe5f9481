"""The contexts of tenants' requests, which carry their tokens: in memory, for as long as a request may need them,
and never in the
database.

A source whose vTPM's passphrase only its tenant may read needs such a token to be frozen. A worker that was
started anew has none: its calls then carry who the tenant is, and no token.

Leans on nova.context.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Any

from nova import context as nova_context

from nova_trusted_clone.objects.clone import Group

MOST = 1000
KEPT_S = 3600.0
"""Longer than a request takes to be ordered; about as long as a token lives."""


class Contexts:
    """The contexts that this worker has seen, by group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: collections.OrderedDict[str, tuple[float, Any]] = collections.OrderedDict()

    def remember(self, group_id: str, context: Any) -> None:
        """Keep a context; the latest of a group counts."""
        if not getattr(context, "auth_token", None):
            return
        with self._lock:
            self._seen.pop(group_id, None)
            self._seen[group_id] = (time.monotonic(), context)
            while len(self._seen) > MOST or self._is_old(next(iter(self._seen.values()))[0]):
                self._seen.popitem(last=False)

    def has(self, group_id: str) -> bool:
        """Whether calls for this group can carry the tenant's token."""
        return group_id in self._seen

    def of(self, group: Group) -> Any:
        """Return the tenant's context, or one with its names alone."""
        with self._lock:
            found = self._seen.get(group.id)
        if found is not None and not self._is_old(found[0]):
            return found[1]
        return tenant(group.user_id, group.project_id, group.request_id)

    def forget(self, group_id: str) -> None:
        """Let a token go that is needed no more."""
        with self._lock:
            self._seen.pop(group_id, None)

    def _is_old(self, since: float) -> bool:
        return time.monotonic() - since > KEPT_S


def tenant(user_id: str, project_id: str, request_id: str | None) -> Any:
    """Return a context that says for whom something is done, without a right to anything."""
    return nova_context.RequestContext(
        user_id=user_id, project_id=project_id, request_id=request_id, is_admin=False
    )
