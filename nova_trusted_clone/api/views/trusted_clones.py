"""Requests and records as clients see them.

Leans on nova.api.openstack.common.ViewBuilder for links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nova.api.openstack import common

from nova_trusted_clone.api.requests import Made

Record = Mapping[str, Any]
# Not a user's id, nor an attempt's: the one is nobody else's business, the other is the protocol's.
_FIELDS = (
    "id",
    "name",
    "server_id",
    "source_id",
    "lineage",
    "project_id",
    "group",
    "freeze_id",
    "phase",
    "reason",
    "code",
    "vtpm",
    "memory",
    "nonce",
    "progress",
    "pause_us",
    "created_at",
    "updated_at",
    "completed_at",
    "request_id",
)
_HOST_FIELDS = ("source_host", "host")
_ATTEMPT_FIELDS = ("reason", "code", "ended_at")


class ViewBuilder(common.ViewBuilder):
    """Makes the bodies of replies."""

    def made(self, req: Any, made: Made) -> dict[str, Any]:
        """A request that was accepted."""
        servers = [
            {
                "id": server.id,
                "name": server.name,
                "links": self._get_links(req, server.id, "servers"),
            }
            for server in made.servers
        ]
        clones = [{"id": clone["id"], "server_id": clone["server_id"]} for clone in made.records]
        return {
            "trusted_clones": {
                "group": made.group,
                "nonce": made.nonce,
                "servers": servers,
                "clones": clones,
            }
        }

    def index(
        self, req: Any, path: str, records: Sequence[Record], *, hosts: bool
    ) -> dict[str, Any]:
        """A page of the records at ``path``, with a link to the next where there may be one."""
        rows = [_record(record, hosts) for record in records]
        page: dict[str, Any] = {"trusted_clones": rows}
        links = self._get_collection_links(req, rows, path, "id")
        if links:
            page["trusted_clones_links"] = links
        return page

    def show(self, record: Record, *, hosts: bool) -> dict[str, Any]:
        """One record."""
        return {"trusted_clone": _record(record, hosts)}


def _record(record: Record, hosts: bool) -> dict[str, Any]:
    """:param hosts: whether names of hosts may be seen"""
    fields = (*_FIELDS, *_HOST_FIELDS) if hosts else _FIELDS
    of_attempts = (*_ATTEMPT_FIELDS, "host") if hosts else _ATTEMPT_FIELDS
    view = {field: record.get(field) for field in fields}
    view["attempts"] = [
        {field: attempt.get(field) for field in of_attempts} for attempt in record["attempts"]
    ]
    return view
