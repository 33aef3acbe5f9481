"""What the conductor and other hosts may ask of this nova-compute: topic ``trusted_clone``, version 1.0.

Nothing here is believed for having come (``rpc``). Orders are signed, handshake messages prove themselves; ``inspect`` and
``status`` tell nothing that the operator's own services may not know; ``end`` and ``abort`` can only disturb.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping
from typing import Any

import nova.conf
import oslo_messaging as messaging
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from oslo_log import log as logging

from nova_trusted_clone.clone.destination import Destination
from nova_trusted_clone.clone.incoming import Rejected
from nova_trusted_clone.clone.source import FreezeFailed
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.hypervisor.base import HypervisorError, ServerNotFound
from nova_trusted_clone.ports import ServerShape
from nova_trusted_clone.rpc import VERSION, checks, shapes
from nova_trusted_clone.rpc.endpoint import answers
from nova_trusted_clone.rpc.errors import Conflict, NotFound, Refused
from nova_trusted_clone.virt.reception import CloneEnded, Ending, Mismatch, Receptions
from nova_trusted_clone.virt.service import CloneService

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
MAX_ORDERS = 100
# Where the source's exporter serves: only a hint, since both ends of that channel are pinned.
_BULK = checks.mapping({"address": checks.text(64, 1), "port": checks.number(1, 65535)})
_DISKS = checks.many(checks.text(16, 1), 64, 1)
PEER_ARGUMENTS: dict[str, checks.Check] = {
    "message": checks.mapping({"data": checks.base64_text(1 << 20)}, {"bulk": _BULK}),
    "early": checks.mapping({"disks": _DISKS, "bulk": _BULK}),
    "status": checks.mapping({}),
    "end": checks.mapping({"reason": checks.reason}, {"code": checks.text(80)}),
}


class ComputeEndpoint:
    """The methods; each checks its arguments before anything else (``rpc.endpoint.answers``)."""

    target = messaging.Target(version=VERSION)

    def __init__(self, service: CloneService, receptions: Receptions) -> None:
        self._service = service
        self._receptions = receptions
        self._freezing = threading.Lock()

    # -- the source's side --------------------------------------------------------------------------------------------

    @answers(server=checks.server_uuid)
    def inspect(self, context: Any, server: str) -> dict[str, Any]:
        """Describe a running server, with every obstacle to cloning it, in words."""
        engine = self._service.require()
        try:
            shape = engine.source.inspect(server)
        except ServerNotFound as error:
            raise NotFound(f"server {server} does not run on this host") from error
        except HypervisorError as error:
            raise Conflict(str(error)) from error
        policy = engine.host.ground().policy
        return {
            "host_id": engine.host.local.host_id,
            "policy_sha256": policy.sha256.hex(),
            "memory_bytes": shape.memory_bytes,
            "disks": [[disk.target, disk.size_bytes] for disk in shape.disks],
            "has_vtpm": shape.has_vtpm,
            "has_generation_id": shape.has_generation_id,
            "running": shape.running,
            "obstacles": [
                *shape.obstacles,
                *policy_obstacles(policy, shape),
                *nova_obstacles(server),
            ],
            "vtpm_modes": ["new", "derive"] if policy.allow_vtpm_derive else ["new"],
        }

    @answers(orders=checks.many(shapes.placed_order, MAX_ORDERS, 1))
    def clone(self, context: Any, orders: list[dict[str, Any]]) -> dict[str, Any]:
        """Start a freeze for signed orders; the same ones twice are one freeze."""
        engine = self._service.require()
        wanted = [(row["order"], str(row["host"])) for row in orders]
        with self._freezing:
            freeze_id = _engine_says(lambda: _freeze_of(wanted[0][0]))
            if not engine.has_freeze(freeze_id):
                freeze_id = _engine_says(lambda: engine.clone(context, wanted))
                # By these two lines a request's id leads to what the engine calls its freeze and its clones.
                LOG.info("freeze %s: begun for %d clones", freeze_id, len(wanted))
        return {"freeze_id": freeze_id}

    @answers(freeze_id=checks.hex_id, clone_id=checks.optional(checks.hex_id), reason=checks.reason)
    def abort(
        self, context: Any, freeze_id: str, clone_id: str | None, reason: str
    ) -> dict[str, Any]:
        """End one clone of a freeze of this host, or all of them."""
        engine = self._service.require()
        _engine_says(lambda: engine.source.abort(freeze_id, clone_id, reason))
        return {}

    # -- the destination's side ---------------------------------------------------------------------------------------

    @answers(
        clone_id=checks.hex_id,
        server=checks.server_uuid,
        order=checks.base64_text(shapes.MAX_ORDER_BYTES),
    )
    def prepare(self, context: Any, clone_id: str, server: str, order: bytes) -> dict[str, Any]:
        """Hand over the order of a clone that ``spawn()`` waits for; the same one twice is one."""
        reception = self._receptions.of_server(server)
        if reception is None and self._service.require().has_clone(clone_id):
            return {}
        if reception is None:
            raise NotFound(f"no clone is awaited here for server {server}")
        try:
            reception.accept(clone_id, order)
            LOG.info("clone %s: is ordered for server %s", clone_id, server)
        except (Mismatch, CloneEnded) as error:
            raise Conflict(str(error)) from error
        except Rejected as error:
            reception.end(Ending(str(error), "trusted-clone.order.rejected", refused_here=True))
            raise Refused(str(error)) from error
        return {}

    @answers(clone_id=checks.hex_id, reason=checks.reason)
    def end(self, context: Any, clone_id: str, reason: str) -> dict[str, Any]:
        """End a clone that is not complete, or that still waits for its order."""
        engine = self._service.require()
        reception = self._receptions.of_clone(clone_id)
        if reception is not None:
            reception.end(Ending(reason, "trusted-clone.aborted"))
        try:
            engine.destination.end(clone_id, reason)
        except Rejected as error:
            if reception is None:
                raise NotFound(str(error)) from error
        return {}

    @answers(clone_id=checks.hex_id)
    def status(self, context: Any, clone_id: str) -> dict[str, Any]:
        """How far a clone is that this host receives."""
        engine = self._service.require()
        if engine.has_clone(clone_id):
            return engine.destination.status(clone_id)
        if self._receptions.of_clone(clone_id) is None:
            raise NotFound(f"no clone {clone_id} is received here")
        return {"clone_id": clone_id, "phase": "claimed", "reason": ""}

    @answers(
        clone_id=checks.hex_id,
        operation=checks.choice(*PEER_ARGUMENTS),
        arguments=checks.plain_object(shapes.MAX_PEER_CHARACTERS),
    )
    def peer(
        self, context: Any, clone_id: str, operation: str, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """One call of a source's engine."""
        engine = self._service.require()
        checked = PEER_ARGUMENTS[operation](arguments, f"peer.{operation}")
        found: dict[str, Any] = _engine_says(
            lambda: _PEER[operation](engine.destination, clone_id, checked)
        )
        return found


def policy_obstacles(policy: Policy, shape: ServerShape) -> list[str]:
    """What the operator's policy refuses whatever an order says."""
    found = []
    if policy.require_generation_id and not shape.has_generation_id:
        found.append(
            "the server has no generation id, which the policy requires; stop it and start it once to give it one"
        )
    if not shape.has_vtpm and not policy.allow_without_vtpm:
        found.append("the server has no vTPM, and the policy does not allow clones without one")
    return found


def nova_obstacles(server: str) -> list[str]:
    """What Nova knows of a server that stands in the way of cloning it, beyond what its hypervisor sees.

    :raises NotFound: when it is not a server of this host
    """
    context = nova_context.get_admin_context()
    try:
        instance = objects.Instance.get_by_uuid(context, server, expected_attrs=["numa_topology"])
    except nova_exception.InstanceNotFound as error:
        raise NotFound(f"there is no server {server}") from error
    if instance.host != CONF.host:
        raise NotFound(f"server {server} is not on host {CONF.host}")
    found = []
    if instance.task_state is not None:
        found.append(f"the server is {instance.task_state}; wait until that has ended")
    if instance.numa_topology is not None:
        found.append(
            "the server's flavor or image asks for pinned processors, NUMA cells or huge pages, "
            "which belong to its host"
        )
    return found


def _message(
    destination: Destination, clone_id: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    answer = destination.message(clone_id, arguments["data"], arguments)
    return {"data": base64.b64encode(answer).decode()}


def _early(destination: Destination, clone_id: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    destination.begin_early(clone_id, arguments["disks"], arguments)
    return {}


def _status(
    destination: Destination, clone_id: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    return destination.status(clone_id)


def _end(destination: Destination, clone_id: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    reason = f"ended by the source: {arguments['reason']}"
    destination.end(clone_id, reason, arguments.get("code") or "")
    return {}


_PEER = {"message": _message, "early": _early, "status": _status, "end": _end}


def _engine_says(call: Callable[[], Any]) -> Any:
    """Translate the use cases' errors, one by one, into what may cross."""
    try:
        return call()
    except Rejected as error:
        raise Refused(str(error), "trusted-clone.rejected") from error
    except FreezeFailed as error:
        raise Conflict(str(error), "trusted-clone.freeze.failed") from error
    except CoreError as error:
        raise Refused(str(error), error.code) from error


def _freeze_of(order: bytes) -> str:
    return SignedOrder.decode(order).order().freeze_group.hex()
