"""The records of clones: list, show, evidence, and the end of a clone that is not complete.

The conductor writes them; here is decided who may see which. A record belongs to two servers, its source and its clone,
and is seen by way of either.

Leans on nova.api.openstack (wsgi, common, validation), as nova's own controllers do
(nova.api.openstack.compute.server_migrations).
"""

from __future__ import annotations

from typing import Any

from nova import utils
from nova.api import validation
from nova.api.openstack import common, wsgi
from oslo_utils import uuidutils
from webob import exc

from nova_trusted_clone.api import faults, servers
from nova_trusted_clone.api.schemas import trusted_clones as schema
from nova_trusted_clone.api.views import trusted_clones as views
from nova_trusted_clone.policies import trusted_clone as policies
from nova_trusted_clone.rpc.conductor import ConductorAPI, Record
from nova_trusted_clone.rpc.errors import Invalid, NotFound

MAX_PAGE = 1000
"""Of the conductor (rpc.shapes); nova's own [api]max_limit may be less."""
ABORT_ACTION = "trusted_clone_abort"


@validation.validated
class TrustedClonesController(wsgi.Controller):
    """``/servers/{server_id}/trusted-clones``."""

    _view_builder_class = views.ViewBuilder

    def __init__(self) -> None:
        super().__init__()
        self._servers = servers.API()
        self._conductor = ConductorAPI()

    @wsgi.expected_errors((400, 404, 503))
    @validation.query_schema(schema.index_query)
    @validation.response_body_schema(schema.index_response)
    def index(self, req: Any, server_id: str) -> dict[str, Any]:
        """List the records in which a server is the source or the clone, newest first."""
        context = req.environ["nova.context"]
        target = self._target(context, server_id, policies.INDEX)
        with faults.translated(context):
            found = page(self._conductor, req, {"server": server_id})
        view: dict[str, Any] = self._view_builder.index(
            req, f"servers/{server_id}/trusted-clones", found, hosts=sees_hosts(context, target)
        )
        return view

    @wsgi.expected_errors((404, 503))
    @validation.query_schema(schema.show_query)
    @validation.response_body_schema(schema.show_response)
    def show(self, req: Any, server_id: str, id: str) -> dict[str, Any]:
        """Show one record."""
        context = req.environ["nova.context"]
        target = self._target(context, server_id, policies.SHOW)
        record = self._record(context, server_id, id)
        view: dict[str, Any] = self._view_builder.show(record, hosts=sees_hosts(context, target))
        return view

    @wsgi.expected_errors((404, 409, 503))
    @validation.query_schema(schema.evidence_query)
    @validation.response_body_schema(schema.evidence_response)
    def evidence(self, req: Any, server_id: str, id: str) -> dict[str, Any]:
        """Return the evidence of a complete clone, as it was verified."""
        context = req.environ["nova.context"]
        self._target(context, server_id, policies.EVIDENCE)
        self._record(context, server_id, id)
        with faults.translated(context):
            try:
                return {"evidence": self._conductor.evidence(context, id)}
            except NotFound as error:  # the record is there
                raise faults.NotNow(f"{error.text} ({error.code})") from error

    @wsgi.response(202)
    @wsgi.expected_errors((404, 409, 503))
    @validation.response_body_schema(schema.delete_response)
    def delete(self, req: Any, server_id: str, id: str) -> None:
        """End a clone that is not complete."""
        context = req.environ["nova.context"]
        instance = common.get_instance(self._servers, context, server_id)
        _allow(context, policies.ABORT, instance)
        self._record(context, server_id, id)
        with faults.translated(context):
            self._conductor.abort(context, id, f"aborted by request {context.request_id}")
        if instance.host:  # else it is in no cell yet, and has no list of events
            self._servers.tell_started(context, instance, ABORT_ACTION)

    # -- within -------------------------------------------------------------------------------------------------------

    def _target(self, context: Any, server_id: str, rule: str) -> dict[str, str]:
        """Require that the client may do this with the server's records; a deleted server still has them."""
        with utils.temporary_mutation(context, read_deleted="yes"):
            instance = common.get_instance(self._servers, context, server_id)
        return _allow(context, rule, instance)

    def _record(self, context: Any, server_id: str, clone_id: str) -> Record:
        missing = exc.HTTPNotFound(
            explanation=f"Server {server_id} has no trusted clone {clone_id}."
        )
        if not uuidutils.is_uuid_like(clone_id):
            raise missing
        with faults.translated(context):
            try:
                record = self._conductor.get(context, clone_id)
            except NotFound:
                raise missing from None
        if server_id not in (record["source_id"], record["server_id"]):
            raise missing
        return record


def _allow(context: Any, rule: str, instance: Any) -> dict[str, str]:
    target = {"project_id": instance.project_id, "user_id": instance.user_id}
    context.can(rule, target=target)
    return target


def sees_hosts(context: Any, target: dict[str, str]) -> bool:
    """Return whether the client may know on which hosts clones and sources are."""
    return bool(context.can(policies.SHOW_HOSTS, target=target, fatal=False))


def page(conductor: ConductorAPI, req: Any, whose: dict[str, Any]) -> list[Record]:
    """Return the page of records that a request asks for by ``limit``, ``marker`` and ``phase``.

    :param whose: the filters that say of what or of whom
    """
    limit, marker = common.get_limit_and_marker(req)
    if not limit:
        return []
    filters = {**whose, "limit": min(limit, MAX_PAGE), "marker": marker}
    filters["phase"] = req.GET.get("phase")
    try:
        return conductor.list(req.environ["nova.context"], filters)
    except (Invalid, NotFound) as error:
        if marker is None:
            raise
        raise exc.HTTPBadRequest(
            explanation=f"marker {marker}: there is no such clone here: start anew without a marker"
        ) from error
