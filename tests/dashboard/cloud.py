"""A cloud of one project: instances as in Horizon's test data, and an API of clones that really keeps records."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from django.conf import settings
from django.contrib.messages.storage import cookie
from openstack_dashboard import api
from openstack_dashboard.test import helpers

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.values import Clone, CloneRequest, Created, Progress
from nova_trusted_clone.dashboard import cloud

MIB = 1 << 20
# How Horizon's script asks for a row.
AJAX = {"HTTP_X_REQUESTED_WITH": "XMLHttpRequest"}


class Clones:
    """What TrustedClones does, in memory. Newest first, as the API lists; ``errors`` come once, by method."""

    def __init__(self) -> None:
        self.records: list[Clone] = []
        self.evidences: dict[str, bytes] = {}
        self.errors: dict[str, errors.ClientError] = {}
        self.asked: list[tuple[str, CloneRequest]] = []
        self.calls: list[str] = []
        self._numbers = itertools.count(1)

    def record(self, source_id: str, server_id: str | None = None, **more: Any) -> Clone:
        """Write a record."""
        number = next(self._numbers)
        made = Clone(
            id=str(uuid.UUID(int=number)),
            server_id=server_id or str(uuid.UUID(int=1000 + number)),
            source_id=source_id,
            **{
                "name": f"web-clone-{number}",
                "project_id": "1",
                "freeze_id": "6f" * 16,
                "group": "ab" * 16,
                "nonce": "5a" * 16,
                "vtpm": "new",
                "memory": "lazy",
                "lineage": (source_id,),
                "created_at": "2026-11-24T21:00:00Z",
                **more,
            },
        )
        self.records.insert(0, made)
        return made

    def change(self, clone: Clone, **more: Any) -> Clone:
        """Move a record on."""
        changed = dataclasses.replace(clone, **more)
        self.records[[one.id for one in self.records].index(clone.id)] = changed
        return changed

    def create(self, server_id: str, request: CloneRequest) -> Created:
        """Make records."""
        self._told("create")
        self.asked.append((server_id, request))
        assert request.nonce is not None
        made = tuple(
            self.record(server_id, name=f"{request.name}-{n + 1}") for n in range(request.count)
        )
        return Created("ab" * 16, request.nonce, made)

    def list(self, server_id: str, wanted: Any = ()) -> tuple[Clone, ...]:
        """Those of a server."""
        self._told("list")
        found = [one for one in self.records if server_id in (one.server_id, one.source_id)]
        return tuple(reversed(found))

    def page(
        self, *, limit: int, marker: str | None = None, all_projects: bool = False
    ) -> tuple[tuple[Clone, ...], bool]:
        """Those of the project."""
        self._told("page")
        ids = [one.id for one in self.records]
        start = ids.index(marker) + 1 if marker else 0
        return tuple(self.records[start : start + limit]), len(ids) > start + limit

    def show(self, server_id: str, clone_id: str) -> Clone:
        """One."""
        self._told("show")
        for one in self.records:
            if one.id == _text(clone_id) and _text(server_id) in (one.server_id, one.source_id):
                return one
        raise errors.NotFound(404, f"Server {server_id} has no trusted clone {clone_id}.")

    def evidence(self, server_id: str, clone_id: str) -> bytes:
        """The file of one."""
        self._told("evidence")
        found = self.evidences.get(_text(clone_id))
        if found is None:
            raise errors.Conflict(409, f"clone {clone_id} is not complete")
        return found

    def abort(self, server_id: str, clone_id: str) -> None:
        """End one."""
        self._told("abort")
        self.change(self.show(server_id, clone_id), phase="aborted", reason="asked for")

    def _told(self, method: str) -> None:
        self.calls.append(method)
        if method in self.errors:
            raise self.errors.pop(method)


def _text(identifier: object) -> str:
    """The client takes texts only, as its types say."""
    assert isinstance(identifier, str)
    return str(uuid.UUID(identifier))


def fetching(percent: int) -> dict[str, Any]:
    """Fields of a record on its way."""
    done = Progress(256 * percent, 25600, percent * MIB, 100 * MIB, 12.5 * MIB)
    return {"phase": "fetching", "progress": done}


@contextlib.contextmanager
def patched(target: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Functions of a module in place of its own."""
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(target, name, function))
        yield


class TestCase(helpers.TestCase):
    """Pages as a member of a project sees them."""

    def setUp(self) -> None:
        """Put the fakes in the place of every API that these pages ask."""
        super().setUp()
        self.clones = Clones()
        self.server = self.servers.list()[0]
        self.server.id = "8f2bd6a1-7fd0-4d0b-8e0f-0e5a8d8f2b11"  # theirs is no UUID
        self.server.status = "ACTIVE"
        self.limits_now = {
            "maxTotalInstances": 10,
            "totalInstancesUsed": 7,
            "maxTotalCores": float("inf"),
            "totalCoresUsed": 3,
            "maxTotalRAMSize": 10000,
            "totalRAMUsed": 512,
        }
        flavor = self.flavors.list()[0]
        self.extra_specs = {"hw:tpm_version": "2.0"}
        networks = self.networks.list()[:2]
        for one in (
            patched(cloud, clones=lambda request: self.clones),
            patched(
                api.nova,
                server_get=lambda request, server_id: self._server(server_id),
                server_list_paged=lambda request, **more: ([self.server], False, False),
                server_list=lambda request, **more: ([self.server], False),
                flavor_list=lambda request, **more: self.flavors.list(),
                flavor_get=lambda request, flavor_id, **more: flavor,
                flavor_get_extras=lambda request, flavor_id, **more: self.extra_specs,
                tenant_absolute_limits=lambda request, **more: self.limits_now,
                availability_zone_list=lambda request, **more: self.availability_zones.list(),
                instance_volumes_list=lambda request, server_id: [],
                is_feature_available=lambda request, feature: False,
            ),
            patched(
                api.neutron,
                network_list_for_tenant=lambda request, tenant_id, **more: networks,
                server_security_groups=lambda request, server_id: [],
                is_extension_supported=lambda request, name: False,
            ),
            patched(api.network, servers_update_addresses=lambda request, servers, **more: None),
            patched(
                api.glance,
                image_get=lambda request, image_id: self.images.list()[0],
                image_list_detailed=lambda request, **more: ([], False, False),
            ),
            patched(api.cinder, volume_list=lambda request, **more: []),
        ):
            one.__enter__()
            self.addCleanup(one.__exit__, None, None, None)

    def be(self, *roles: str, project: str | None = None) -> None:
        """Log in with other roles."""
        more = {"tenant_id": project} if project else {}
        self._setup_user(
            roles=[{"id": str(number), "name": name} for number, name in enumerate(roles)], **more
        )

    def said(self, reply: Any) -> str:
        """Return the messages that come with a reply or stand in it."""
        kept = reply.cookies.get("messages")
        later = cookie.CookieStorage(None)._decode(kept.value) if kept and kept.value else []
        now = reply.context.get("messages") if reply.context else None
        return " ".join(str(one) for one in (*(later or ()), *(now or ()), reply.content.decode()))

    def _server(self, server_id: str) -> Any:
        for server in self.servers.list():
            if server.id == str(server_id):
                return server
        raise self.exceptions.nova


def recorded() -> dict[str, Any]:
    """A recorded clone with what judges its evidence."""
    found: dict[str, Any] = json.loads((settings.VECTORS / "exchange-1-new.json").read_text())
    return found
