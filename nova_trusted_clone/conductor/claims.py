"""Requests, their servers, and the hosts that claim them."""

from __future__ import annotations

import dataclasses
import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_log import log as logging

from nova_trusted_clone.conductor import moves
from nova_trusted_clone.conductor.orders import OrderRefused, Orders
from nova_trusted_clone.conductor.records import Records
from nova_trusted_clone.db.groups import (
    Claiming,
    Groups,
    NotOfThisGroup,
    Situation,
    SourceBusy,
)
from nova_trusted_clone.objects.clone import Attempt, Clone, Group, GroupState, Phase
from nova_trusted_clone.rpc.errors import Conflict, NotFound, Refused

LOG = logging.getLogger(__name__)

NONCE_BYTES = 16
MOST_ATTEMPTS = 16
"""Attempts for each clone of a group: nova gives up far earlier, so that more is somebody's mischief."""
MOST_LINEAGE = 64
CANCELLED = "trusted-clone.group.cancelled"


class Claims:
    """What comes before an order."""

    def __init__(self, groups: Groups, records: Records, orders: Orders) -> None:
        self._groups = groups
        self._records = records
        self._orders = orders

    def begin(self, request: Mapping[str, Any]) -> Group:
        """Open a group; the same request once more finds it open.

        :raises Conflict: when the id is another request's, the group was taken back, or the source is being
            cloned for another
        """
        given = dict(request)
        wanted = Group(
            id=given.pop("group"),
            nonce=given.pop("nonce", None) or secrets.token_hex(NONCE_BYTES),
            created_at=self._records.now(),
            **given,
        )
        try:
            found = self._groups.begin(wanted)
        except SourceBusy as error:
            raise Conflict(
                f"The server is being cloned already: {error}. Wait until that is complete, or abort it",
                "trusted-clone.source.busy",
            ) from error
        same = dataclasses.replace(
            wanted,
            nonce=wanted.nonce if request.get("nonce") else found.nonce,
            created_at=found.created_at,
            state=found.state,
        )
        if found != same:
            raise Conflict(f"group {found.id} is another request's", "trusted-clone.group.exists")
        _require_open(found)
        return found

    def register(self, group_id: str, servers: Sequence[Mapping[str, str]]) -> list[Clone]:
        """Record the servers of a group; the same once more changes nothing.

        :raises Conflict: when there are more than the request was for, or one is another group's
        """
        group = self.require_group(group_id)
        _require_open(group)
        parent = self._records.clones.by_server(group.source_server)
        lineage = (group.source_server, *(parent.lineage if parent else ()))[:MOST_LINEAGE]
        clones = [self._new(group, row["server"], row["name"], lineage) for row in servers]

        def claimed(clone: Clone, attempt: Attempt) -> Clone:
            return moves.claimed(clone, attempt, self._records.now())

        try:
            return self._groups.register(group_id, clones, group.count, claimed)
        except NotOfThisGroup as error:
            raise Conflict(str(error), "trusted-clone.group.servers") from error

    def claim(self, group_id: str, server_id: str, host: str, host_id: str) -> Claiming:
        """Record that a host was chosen for a server. The same claim twice is one.

        :raises NotFound: when there is no such group, or the server is not of it
        :raises Conflict: when the clone has ended, runs already, or the group was taken back
        :raises Refused: when the host is not enrolled
        """
        try:
            self._orders.require_enrolled(host_id)
        except OrderRefused as error:
            raise Refused(str(error), error.code) from error

        def judge(situation: Situation) -> Claiming:
            return self._judge(situation, group_id, server_id, host, host_id)

        claiming = self._groups.claim(group_id, server_id, judge)
        LOG.info(
            "server %s: claimed by host %s (%s) as clone %s",
            server_id,
            host,
            host_id,
            claiming.attempt.id,
        )
        return claiming

    def require_group(self, group_id: str) -> Group:
        """Return a group.

        :raises NotFound: when there is none
        """
        group = self._groups.get(group_id)
        if group is None:
            raise NotFound(f"no group {group_id}", "trusted-clone.group.unknown")
        return group

    def _new(self, group: Group, server_id: str, name: str, lineage: tuple[str, ...]) -> Clone:
        now = self._records.now()
        return Clone(
            id=str(uuid.uuid4()),
            group_id=group.id,
            name=name,
            server_id=server_id,
            source_id=group.source_server,
            project_id=group.project_id,
            user_id=group.user_id,
            source_host=group.source_host,
            phase=Phase.SCHEDULING,
            vtpm=group.vtpm,
            memory=group.memory,
            nonce=group.nonce,
            lineage=lineage,
            created_at=now,
            updated_at=now,
            heard_at=now,
            request_id=group.request_id,
        )

    def _judge(
        self, there: Situation, group_id: str, server_id: str, host: str, host_id: str
    ) -> Claiming:
        _require_claimable(there, group_id, server_id)
        former, now = there.attempt, self._records.now()
        if former is not None and (former.group_id, former.host, former.host_id) == (
            group_id,
            host,
            host_id,
        ):
            return Claiming(former)
        attempt = Attempt(secrets.token_hex(16), group_id, server_id, host, host_id, True, now)
        clone = None if there.clone is None else moves.claimed(there.clone, attempt, now)
        ended = None
        if former is not None:
            ended = dataclasses.replace(
                former,
                is_open=False,
                reason=f"host {host} claimed the server",
                code="trusted-clone.attempt.superseded",
                ended_at=now,
            )
        return Claiming(attempt, clone, ended)


def _require_open(group: Group) -> None:
    if group.state is GroupState.CANCELLED:
        raise Conflict(f"group {group.id} was taken back", CANCELLED)


def _require_claimable(there: Situation, group_id: str, server_id: str) -> None:
    if there.group is None:
        raise NotFound(f"no group {group_id}", "trusted-clone.group.unknown")
    _require_open(there.group)
    named = there.clone is not None and there.clone.group_id == group_id
    if not named and (there.clone is not None or there.group.state is GroupState.REGISTERED):
        raise NotFound(
            f"server {server_id} is not of group {group_id}", "trusted-clone.group.servers"
        )
    if there.attempts >= MOST_ATTEMPTS * there.group.count:
        raise Conflict(
            f"group {group_id} has had {there.attempts} attempts", "trusted-clone.group.attempts"
        )
    if there.attempt is not None and there.attempt.group_id != group_id:
        raise Conflict(
            f"server {server_id} is claimed for another group", "trusted-clone.group.servers"
        )
