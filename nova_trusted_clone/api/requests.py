"""A request for clones: everything is checked first, then made, and taken back when a step fails.

    look at the server → ask its host → open a group → make servers → name them to the conductor

The group is where two requests for one server meet: the conductor opens one at a time. Until the servers are made nothing has
changed but the group, which is cancelled. What was made is deleted again when
the conductor cannot be told of it.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from nova import objects
from oslo_log import log as logging

from nova_trusted_clone.api import networks, obstacles, servers, source
from nova_trusted_clone.api.faults import BadRequest, NotNow
from nova_trusted_clone.rpc.client import insist
from nova_trusted_clone.rpc.compute import ComputeAPI
from nova_trusted_clone.rpc.conductor import ConductorAPI
from nova_trusted_clone.rpc.errors import CloneError, NotFound

LOG = logging.getLogger(__name__)

MAX_NAME = 255
# One more try after a restart of the conductor; a client waits for the answer.
INSIST_S = 40.0
EXPECTED = (
    "flavor",
    "keypairs",
    "metadata",
    "system_metadata",
    "info_cache",
    "pci_devices",
    "pci_requests",
    "resources",
    "services",
    "trusted_certs",
)
"""What is read of a server; loaded with it in place of one by one."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """A request's body, which the schema has checked. None is left to us.

    :ivar nonce: lower-case hexadecimal
    """

    name: str | None = None
    count: int = 1
    availability_zone: str | None = None
    host: str | None = None
    vtpm: str | None = None
    memory: str = "lazy"
    nonce: str | None = None
    metadata: Mapping[str, str] | None = None
    networks: Sequence[Mapping[str, str]] | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Wish:
        """Return the request of the action's body."""
        wish = cls(**body)
        nonce = wish.nonce.lower() if wish.nonce is not None else None
        return dataclasses.replace(wish, nonce=nonce)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that was made."""

    id: str
    name: str


@dataclasses.dataclass(frozen=True)
class Made:
    """What a request brought."""

    group: str
    nonce: str
    servers: tuple[Server, ...]
    records: tuple[Mapping[str, Any], ...]


class Requests:
    """Makes clones of servers. Threads may share one."""

    def __init__(
        self, api: servers.API, conductor: ConductorAPI, computes: ComputeAPI | None = None
    ) -> None:
        self._servers = api
        self._conductor = conductor
        self._computes = computes or ComputeAPI()

    def make(self, context: Any, instance: Any, wish: Wish) -> Made:
        """Make clones of a server.

        :param context: the client's, targeted at the server's cell
        :raises Exception: as in ``faults.TABLE``; nothing is left then
        """
        self._servers.trusted_clone(context, instance)
        block_devices = objects.BlockDeviceMappingList.get_by_instance_uuid(context, instance.uuid)
        making = self._making(context, instance, block_devices, wish)
        shape = self._require_cloneable(context, instance, block_devices)
        vtpm = _vtpm(wish, shape)
        nonce = self._conductor.begin(context, _request(context, instance, making, wish, vtpm))
        made = self._make(context, making)
        records = self._register(context, instance, making, made)
        return Made(making.group, nonce, made, records)

    # -- before anything changes --------------------------------------------------------------------------------------

    def _require_cloneable(
        self, context: Any, instance: Any, block_devices: Any
    ) -> Mapping[str, Any]:
        """Return what the host says of the server.

        :raises NotNow: with every reason of nova's records and of the host
        """
        known = obstacles.of_records(context, instance, block_devices)
        try:
            shape = self._computes.inspect(context, instance.host, instance.uuid)
        except NotFound as error:
            raise NotNow("The server does not run where nova's records have it") from error
        except CloneError:
            if known:
                raise _obstructed(known) from None
            raise
        told = [*known, *shape["obstacles"]]
        if told or not shape["running"]:
            raise _obstructed(told or ["the guest is not running"])
        return shape

    def _making(
        self, context: Any, instance: Any, block_devices: Any, wish: Wish
    ) -> servers.Making:
        template = source.template(context, instance, block_devices)
        wanted, groups = self._interfaces(context, instance, wish)
        return servers.Making(
            group=uuid.uuid4().hex,
            template=template,
            count=wish.count,
            name=_name(wish, instance.display_name),
            networks=wanted,
            security_groups=groups,
            metadata=dict(template.metadata if wish.metadata is None else wish.metadata),
            availability_zone=wish.availability_zone or template.availability_zone,
            host=wish.host,
        )

    def _interfaces(self, context: Any, instance: Any, wish: Wish) -> tuple[Any, list[str]]:
        if wish.networks is None:
            wanted = networks.of_source(instance)
        else:
            wanted = networks.of_request(wish.networks, len(instance.get_network_info()))
        if networks.names_ports_only(wanted):
            return wanted, []
        groups = networks.security_groups(self._servers.network_api, context, instance.uuid)
        return wanted, groups

    # -- from here on something has changed ---------------------------------------------------------------------------

    def _make(self, context: Any, making: servers.Making) -> tuple[Server, ...]:
        try:
            made = self._servers.make(context, making)
        except BaseException as error:
            self._cancel(context, making.group, f"its servers could not be made: {error}")
            raise
        return tuple(Server(one.uuid, one.display_name) for one in made)

    def _register(
        self, context: Any, instance: Any, making: servers.Making, made: Sequence[Server]
    ) -> tuple[Mapping[str, Any], ...]:
        """The source's list of events has the action before any host can act on it."""
        rows = [{"server": server.id, "name": server.name} for server in made]
        try:
            self._servers.tell_started(context, instance)
            found = insist(lambda: self._conductor.register(context, making.group, rows), INSIST_S)
        except BaseException as error:
            self._servers.unmake(context, [server.id for server in made])
            self._cancel(context, making.group, f"its servers could not be recorded: {error}")
            raise
        return tuple(found)

    def _cancel(self, context: Any, group: str, reason: str) -> None:
        """A group that cannot be cancelled now is found by the conductor, which ends what is stale."""
        try:
            self._conductor.cancel(context, group, reason)
        except CloneError as error:
            LOG.warning("Group %s could not be cancelled: %s", group, error)


def _obstructed(reasons: Sequence[str]) -> NotNow:
    unique = list(dict.fromkeys(reasons))
    return NotNow(f"The server cannot be cloned: {'; '.join(unique)}.")


def _vtpm(wish: Wish, shape: Mapping[str, Any]) -> str:
    if not shape["has_vtpm"]:
        if wish.vtpm is not None:
            raise NotNow("vtpm: the server has no vTPM, and neither will its clones: leave it out")
        return "none"
    allowed = shape.get("vtpm_modes")  # since 1.0 of some host; one that does not say decides later
    if allowed is not None and (wish.vtpm or "new") not in allowed:
        raise NotNow(
            f"vtpm: found {wish.vtpm}, but the policy of the server's host allows only {', '.join(allowed)}"
        )
    return wish.vtpm or "new"


def _name(wish: Wish, source_name: str) -> str:
    """Nova numbers the names of several servers, and its database holds 255 characters."""
    room = MAX_NAME - (len(f"-{wish.count}") if wish.count > 1 else 0)
    if wish.name is None:
        ending = "-clone"
        return source_name[: room - len(ending)] + ending
    if len(wish.name) > room:
        raise BadRequest(
            f"name: found {len(wish.name)} characters, expected at most {room}, since each of {wish.count} clones has "
            "its number added to it"
        )
    return wish.name


def _request(
    context: Any, instance: Any, making: servers.Making, wish: Wish, vtpm: str
) -> dict[str, Any]:
    return {
        "group": making.group,
        "source_server": instance.uuid,
        "source_host": instance.host,
        "count": making.count,
        "vtpm": vtpm,
        "memory": wish.memory,
        "nonce": wish.nonce,
        "name": making.name,
        "project_id": context.project_id,
        "user_id": context.user_id,
        "request_id": context.request_id,
    }
