"""Calls to the computes: inspect and freeze a source, prepare and follow a clone, carry the handshake between two hosts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.rpc import COMPUTE_TOPIC, checks, shapes
from nova_trusted_clone.rpc.client import Caller

INSPECT_S = 20.0
"""One look at libvirt; a host that is slower than that is in trouble."""
PREPARE_S = 30.0
"""Checking an order and making a directory; a store is started afterwards."""
CLONE_S = 30.0
END_S = 30.0
STATUS_S = 15.0
PEER_S = 60.0
"""A handshake message: the destination may have to manufacture a vTPM and quote before it answers."""

OPERATIONS = ("message", "early", "status", "end")


class ComputeAPI:
    """Version 1.0. Every method raises :class:`~nova_trusted_clone.rpc.errors.CloneError`."""

    def __init__(self, client: Any = None) -> None:
        self._caller = Caller(COMPUTE_TOPIC, client)

    def inspect(self, context: Any, host: str, server: str) -> dict[str, Any]:
        """Describe a running server on its host, with the obstacles to cloning it, in words."""
        found: dict[str, Any] = self._call(
            context, host, "inspect", shapes.inspection, INSPECT_S, server=server
        )
        return found

    def prepare(self, context: Any, host: str, clone_id: str, server: str, order: bytes) -> None:
        """Tell a destination of its clone. The same order twice is one."""
        self._call(
            context,
            host,
            "prepare",
            shapes.NOTHING,
            PREPARE_S,
            clone_id=clone_id,
            server=server,
            order=base64.b64encode(order).decode(),
        )

    def clone(self, context: Any, host: str, orders: Sequence[tuple[bytes, str]]) -> str:
        """Start a freeze for (signed order, destination's nova host) pairs; return its id.

        The same orders twice are one freeze.
        """
        rows = [
            {"order": base64.b64encode(order).decode(), "host": target} for order, target in orders
        ]
        result = checks.mapping({"freeze_id": checks.hex_id}, open_ended=True)
        return str(self._call(context, host, "clone", result, CLONE_S, orders=rows)["freeze_id"])

    def end(self, context: Any, host: str, clone_id: str, reason: str) -> None:
        """End a clone at its destination that is not complete, or that still waits for its order."""
        self._call(context, host, "end", shapes.NOTHING, END_S, clone_id=clone_id, reason=reason)

    def abort(
        self, context: Any, host: str, freeze_id: str, clone_id: str | None, reason: str
    ) -> None:
        """End one clone of a freeze at the source, or all of them."""
        self._call(
            context,
            host,
            "abort",
            shapes.NOTHING,
            END_S,
            freeze_id=freeze_id,
            clone_id=clone_id,
            reason=reason,
        )

    def status(self, context: Any, host: str, clone_id: str) -> dict[str, Any]:
        """Return what the destination's engine says of a clone."""
        check = checks.plain_object(shapes.MAX_STATUS_CHARACTERS)
        found: dict[str, Any] = self._call(
            context, host, "status", check, STATUS_S, clone_id=clone_id
        )
        return found

    def peer(
        self,
        context: Any,
        host: str,
        clone_id: str,
        operation: str,
        arguments: Mapping[str, Any],
        timeout_s: float = PEER_S,
    ) -> dict[str, Any]:
        """Carry one call of a source's engine to a destination's: plain JSON both ways, bytes as base64."""
        check = checks.plain_object(shapes.MAX_PEER_CHARACTERS)
        found: dict[str, Any] = self._call(
            context,
            host,
            "peer",
            check,
            timeout_s,
            clone_id=clone_id,
            operation=operation,
            arguments=dict(arguments),
        )
        return found

    def _call(
        self,
        context: Any,
        host: str,
        method: str,
        result: checks.Check,
        timeout_s: float,
        **arguments: Any,
    ) -> Any:
        return self._caller.call(context, method, arguments, result, timeout_s=timeout_s, at=host)
