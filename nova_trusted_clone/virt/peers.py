"""The source's engine speaks to a destination's over Nova's broker: ``ports.Peer``.

The broker is not trusted: what is carried here proves itself, or is only a hint. The bulk data does not come this way.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from nova import context as nova_context

from nova_trusted_clone.ports import PeerRefused, PeerUnreachable
from nova_trusted_clone.rpc import checks
from nova_trusted_clone.rpc.compute import ComputeAPI
from nova_trusted_clone.rpc.errors import CloneError, Unavailable

MAX_MESSAGE_BYTES = 1 << 20
_ANSWER = checks.base64_text(MAX_MESSAGE_BYTES, 0)


class RpcPeer:
    """One destination host, by its Nova host name."""

    def __init__(self, host: str, timeout_s: float, api: ComputeAPI | None = None) -> None:
        self._host = host
        self._timeout_s = timeout_s
        self._api = api or ComputeAPI()

    def call(
        self, operation: str, *, limit_s: float | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """Call one of the destination's operations for peers.

        :param limit_s: shorter than the time that a message may take
        :raises PeerUnreachable: when no answer came; worth another try
        :raises PeerRefused: with the destination's reason
        """
        clone_id = str(arguments.pop("clone_id"))
        timeout_s = self._timeout_s if limit_s is None else min(limit_s, self._timeout_s)
        try:
            reply = self._api.peer(
                nova_context.get_admin_context(),
                self._host,
                clone_id,
                operation,
                {name: _packed(value) for name, value in arguments.items()},
                timeout_s=timeout_s,
            )
            return _unpacked(reply)
        except Unavailable as error:
            raise PeerUnreachable(str(error)) from error
        except CloneError as error:
            raise PeerRefused(str(error)) from error


def _packed(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _unpacked(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The only bytes that come back are a message's answer."""
    if "data" not in reply:
        return reply
    return {**reply, "data": _ANSWER(reply["data"], "peer.data")}
