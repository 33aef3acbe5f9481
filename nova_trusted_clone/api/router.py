"""Nova's router with the routes of trusted clones. In nova-api's ``api-paste.ini``::

    [app:osapi_compute_app_v21]
    paste.app_factory = nova_trusted_clone.api.router:APIRouterV21.factory

===========================================================  ======  =======================================
path, with or without a project's id before it               method  what
===========================================================  ======  =======================================
``/servers/{id}/action`` with ``trustedClone``               POST    ``trusted_clone``
``/servers/{server_id}/trusted-clones``                      GET     ``trusted_clones.index``
``/servers/{server_id}/trusted-clones/{id}``                 GET     ``trusted_clones.show``
``/servers/{server_id}/trusted-clones/{id}/evidence``        GET     ``trusted_clones.evidence``
``/servers/{server_id}/trusted-clones/{id}``                 DELETE  ``trusted_clones.delete``
``/trusted-clones``                                          GET     ``project_clones.index``
``/trusted-clone``                                           GET     ``versions.index``
===========================================================  ======  =======================================

Nova's own routes come first in its map, so a request that is not for us costs what it costs without us.

Leans on nova.api.openstack.compute.routes.APIRouterV21 (its ``custom_routes``), and on
nova.api.openstack.wsgi.Resource.register_subcontroller_actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nova.api.openstack import wsgi
from nova.api.openstack.compute import routes

from nova_trusted_clone import policies
from nova_trusted_clone.api.project_clones import ProjectClonesController
from nova_trusted_clone.api.trusted_clone import TrustedCloneController
from nova_trusted_clone.api.trusted_clones import TrustedClonesController
from nova_trusted_clone.api.versions import VersionsController

Route = tuple[str, dict[str, list[Any]]]
_ACTIONS = "/servers/{id}/action"
_RECORDS = "/servers/{server_id}/trusted-clones"


class APIRouterV21(routes.APIRouterV21):
    """A drop-in for nova's own."""

    def __init__(self, custom_routes: tuple[Route, ...] | None = None) -> None:
        policies.register()
        super().__init__((*_routes(), *(custom_routes or ())))
        self._add_action()

    def _add_action(self) -> None:
        """Let the resources that serve servers' actions serve ours; each stands in the map with and without a project."""
        controller = TrustedCloneController()
        resources = {
            id(route.defaults["controller"]): route.defaults["controller"]
            for route in self.map.matchlist
            if route.routepath.endswith(_ACTIONS)
        }
        for resource in resources.values():
            resource.register_subcontroller_actions(controller)


def _routes() -> tuple[Route, ...]:
    records = _resource(TrustedClonesController())
    return (
        (_RECORDS, {"GET": [records, "index"]}),
        (f"{_RECORDS}/{{id}}", {"GET": [records, "show"], "DELETE": [records, "delete"]}),
        (f"{_RECORDS}/{{id}}/evidence", {"GET": [records, "evidence"]}),
        ("/trusted-clones", {"GET": [_resource(ProjectClonesController()), "index"]}),
        ("/trusted-clone", {"GET": [_resource(VersionsController()), "index"]}),
    )


def _resource(controller: Any) -> Callable[[], Any]:
    resource = wsgi.Resource(controller)
    return lambda: resource
