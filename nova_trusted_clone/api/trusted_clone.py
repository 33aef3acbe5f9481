"""The action ``trustedClone``: make clones of a running server.

Leans on nova.api.openstack (wsgi, common, validation), as nova's own controllers do (nova.api.openstack.compute.shelve).
"""

from __future__ import annotations

from typing import Any

from nova.api import validation
from nova.api.openstack import common, wsgi

from nova_trusted_clone.api import faults, servers
from nova_trusted_clone.api.requests import EXPECTED, Requests, Wish
from nova_trusted_clone.api.schemas import trusted_clone as schema
from nova_trusted_clone.api.views import trusted_clones as views
from nova_trusted_clone.policies import trusted_clone as policies
from nova_trusted_clone.rpc.conductor import ConductorAPI


@validation.validated
class TrustedCloneController(wsgi.Controller):
    """An action beside nova's own on servers."""

    _view_builder_class = views.ViewBuilder

    def __init__(self) -> None:
        super().__init__()
        self._servers = servers.API()
        self._requests = Requests(self._servers, ConductorAPI())

    @wsgi.response(202)
    @wsgi.expected_errors(faults.EXPECTED)
    @wsgi.action("trustedClone")
    @validation.schema(schema.create)
    @validation.response_body_schema(schema.create_response)
    def _trusted_clone(self, req: Any, id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make clones; they come to be after the answer."""
        context = req.environ["nova.context"]
        wish = Wish.of(body["trustedClone"])
        instance = common.get_instance(self._servers, context, id, expected_attrs=list(EXPECTED))
        target = {"project_id": instance.project_id, "user_id": instance.user_id}
        context.can(policies.CREATE, target=target)
        if wish.host is not None:
            context.can(policies.CREATE_HOST, target=target)
        with faults.translated(context):
            made = self._requests.make(context, instance, wish)
        view: dict[str, Any] = self._view_builder.made(req, made)
        return view
