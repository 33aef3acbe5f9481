"""The asking side: one call, bounded in time, whose every failure is a :class:`CloneError`.

Leans on nova.rpc (get_client) and oslo.messaging.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import oslo_messaging as messaging
from nova import rpc
from oslo_log import log as logging

from nova_trusted_clone.rpc import VERSION, checks
from nova_trusted_clone.rpc.errors import CloneError, Unavailable, from_reply

LOG = logging.getLogger(__name__)
RETRY_PAUSE_S = 1.0


class Caller:
    """Calls to one topic."""

    def __init__(self, topic: str, client: Any = None) -> None:
        """:param client: an oslo.messaging RPC client; nova's own unless given, made at the first call"""
        self._topic = topic
        self._client = client

    def call(
        self,
        context: Any,
        method: str,
        arguments: Mapping[str, Any],
        result: checks.Check,
        *,
        timeout_s: float,
        at: str | None = None,
    ) -> Any:
        """Call a method and return its checked result.

        :param context: nova's request context: request id, and the tenant's token where there is one
        :param at: the host name; any of the topic's unless given
        :raises CloneError: what the other service said, or :class:`Unavailable` when it said nothing usable
        """
        where = f"{method} on {at or self._topic}"
        try:
            target = self._prepared(at, timeout_s)
            reply = target.call(context, method, **arguments)
        except Exception as error:
            # Not only MessagingException: a reply may name any built-in exception, and the broker is not trusted.
            raise _no_answer(where, error, timeout_s) from error
        if not isinstance(reply, dict) or len(reply) != 1:
            raise Unavailable(
                f"{where}: the reply cannot be read", "trusted-clone.rpc.malformed-reply"
            )
        if "error" in reply:
            raise from_reply(reply["error"])
        try:
            return result(reply.get("result"), f"reply to {method}")
        except CloneError as error:
            raise Unavailable(str(error), "trusted-clone.rpc.malformed-reply") from error

    def _prepared(self, at: str | None, timeout_s: float) -> Any:
        if self._client is None:
            target = messaging.Target(topic=self._topic, version=VERSION)
            self._client = rpc.get_client(target, version_cap=VERSION)
        if at is None:
            return self._client.prepare(timeout=timeout_s)
        return self._client.prepare(server=at, timeout=timeout_s)


def _no_answer(where: str, error: Exception, timeout_s: float) -> Unavailable:
    if isinstance(error, messaging.MessagingTimeout):
        return Unavailable(
            f"{where}: no answer within {timeout_s:g} s", "trusted-clone.rpc.timeout"
        )
    if isinstance(error, messaging.RemoteError):
        kind = str(error.exc_type)[:80]
        return Unavailable(
            f"{where}: it failed there ({kind}); see that service's log", "trusted-clone.rpc.remote"
        )
    text = (str(error).splitlines() or [""])[0][:200]
    return Unavailable(f"{where}: {type(error).__name__}: {text}")


def insist(call: Callable[[], Any], limit_s: float) -> Any:
    """Repeat a call that may be repeated, while it is :class:`Unavailable`, for as long as ``limit_s``.

    :raises CloneError: the last one
    """
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return call()
        except Unavailable as error:
            if time.monotonic() + RETRY_PAUSE_S >= deadline:
                raise
            LOG.warning("%s; once more in %g s", error, RETRY_PAUSE_S)
            time.sleep(RETRY_PAUSE_S)
