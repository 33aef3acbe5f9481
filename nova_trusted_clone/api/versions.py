"""What this API can do, by its own versions: nova's microversions are nova's alone.

==========  ==========================================================================================
version     what came with it
==========  ==========================================================================================
1.0         the action ``trustedClone``; records, evidence and abort under ``/servers/{id}/trusted-clones``
1.1         all records of a project, or of all projects: ``/trusted-clones``
==========  ==========================================================================================

A field or resource that is added raises the minor number; whatever would change the meaning of a request that was right
before raises the major one. A client may use what it knows of a version that has its own major number.

Leans on nova.api.openstack (wsgi, common, validation).
"""

from __future__ import annotations

from typing import Any

from nova.api import validation
from nova.api.openstack import common, wsgi

from nova_trusted_clone.api.schemas import versions as schema

VERSIONS = (("v1.1", "CURRENT", "2026-11-27T00:00:00Z"),)
PATH = "trusted-clone"


class ViewBuilder(common.ViewBuilder):
    """Makes the list."""

    def index(self, req: Any) -> dict[str, Any]:
        """All versions, each with a link to this list."""
        prefix = self._update_compute_link_prefix(req.application_url)
        href = common.url_join(prefix, self._get_project_id(req), PATH)
        return {
            "versions": [
                {
                    "id": name,
                    "status": status,
                    "updated": updated,
                    "links": [{"rel": "self", "href": href}],
                }
                for name, status, updated in VERSIONS
            ]
        }


@validation.validated
class VersionsController(wsgi.Controller):
    """``/trusted-clone``."""

    _view_builder_class = ViewBuilder

    @wsgi.expected_errors(())
    @validation.query_schema(schema.index_query)
    @validation.response_body_schema(schema.index_response)
    def index(self, req: Any) -> dict[str, Any]:
        """List the versions."""
        view: dict[str, Any] = self._view_builder.index(req)
        return view
