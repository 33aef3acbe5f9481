"""Telling hosts, in the background, that something is over. A host that is not reached learns it from the answer
to its next report.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any, Protocol

from oslo_log import log as logging

from nova_trusted_clone.objects.clone import Attempt, Freeze
from nova_trusted_clone.rpc.client import insist
from nova_trusted_clone.rpc.errors import CloneError

LOG = logging.getLogger(__name__)


class Compute(Protocol):
    """What the conductor asks of computes; rpc.compute.ComputeAPI is it."""

    def inspect(self, context: Any, host: str, server: str) -> dict[str, Any]:
        """Describe a server."""

    def prepare(self, context: Any, host: str, clone_id: str, server: str, order: bytes) -> None:
        """Give a destination its order."""

    def clone(self, context: Any, host: str, orders: Any) -> str:
        """Give the source its orders."""

    def end(self, context: Any, host: str, clone_id: str, reason: str) -> None:
        """End a clone at its destination."""

    def abort(
        self, context: Any, host: str, freeze_id: str, clone_id: str | None, reason: str
    ) -> None:
        """End a clone, or all of a freeze, at the source."""

    def status(self, context: Any, host: str, clone_id: str) -> dict[str, Any]:
        """Return how far a clone is."""


class Telling:
    """Ends told to hosts."""

    def __init__(
        self, compute: Compute, pool: concurrent.futures.Executor, retry_limit_s: float
    ) -> None:
        self._compute = compute
        self._pool = pool
        self._retry_limit_s = retry_limit_s

    def over(self, context: Any, attempt: Attempt, freeze: Freeze | None, reason: str) -> None:
        """Have an attempt ended where it is made, and at its source when that has its order."""
        self._pool.submit(self._end, context, attempt, reason)
        if freeze is not None and attempt.order is not None:
            self.source_over(context, freeze, attempt.id, reason)

    def source_over(self, context: Any, freeze: Freeze, attempt_id: str, reason: str) -> None:
        """Have an attempt ended at its source."""
        self._pool.submit(self._abort, context, freeze, attempt_id, reason)

    def freeze_over(self, context: Any, freeze: Freeze, reason: str) -> None:
        """Have all of a freeze ended at its source, in case it began."""
        self._pool.submit(self._abort, context, freeze, None, reason)

    def _end(self, context: Any, attempt: Attempt, reason: str) -> None:
        try:
            insist(
                lambda: self._compute.end(context, attempt.host, attempt.id, reason),
                self._retry_limit_s,
            )
        except CloneError as error:
            LOG.info("clone %s: its host was not told of its end: %s", attempt.id, error)

    def _abort(self, context: Any, freeze: Freeze, attempt_id: str | None, reason: str) -> None:
        try:
            insist(
                lambda: self._compute.abort(
                    context, freeze.source_host, freeze.id, attempt_id, reason
                ),
                self._retry_limit_s,
            )
        except CloneError as error:
            LOG.info("freeze %s: the source was not told of an end: %s", freeze.id, error)
