"""The records of all clones of a project: what a dashboard lists, and an administrator looks through.

A clone that is made of a server of another project, where policy allows that, is its owner's: the clone's project counts.

Leans on nova.api.openstack (wsgi, validation), as nova's own controllers do.
"""

from __future__ import annotations

from typing import Any

from nova.api import validation
from nova.api.openstack import wsgi
from oslo_utils import strutils

from nova_trusted_clone.api import faults
from nova_trusted_clone.api.schemas import trusted_clones as schema
from nova_trusted_clone.api.trusted_clones import page, sees_hosts
from nova_trusted_clone.api.views import trusted_clones as views
from nova_trusted_clone.policies import trusted_clone as policies
from nova_trusted_clone.rpc.conductor import ConductorAPI


@validation.validated
class ProjectClonesController(wsgi.Controller):
    """``/trusted-clones``."""

    _view_builder_class = views.ViewBuilder

    def __init__(self) -> None:
        super().__init__()
        self._conductor = ConductorAPI()

    @wsgi.expected_errors((400, 503))
    @validation.query_schema(schema.project_query)
    @validation.response_body_schema(schema.index_response)
    def index(self, req: Any) -> dict[str, Any]:
        """List the records of the client's project, newest first."""
        context = req.environ["nova.context"]
        target = {"project_id": context.project_id, "user_id": context.user_id}
        context.can(policies.INDEX, target=target)
        whose = {"project_id": context.project_id}
        if strutils.bool_from_string(req.GET.get("all_projects", "no")):
            context.can(policies.INDEX_ALL, target=target)
            whose = {}
        with faults.translated(context):
            found = page(self._conductor, req, whose)
        view: dict[str, Any] = self._view_builder.index(
            req, "trusted-clones", found, hosts=sees_hosts(context, target)
        )
        return view
