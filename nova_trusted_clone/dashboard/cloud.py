"""Requests on behalf of whoever is logged in."""

from __future__ import annotations

import logging
from typing import Any

from django.utils.translation import gettext_lazy as _
from horizon import exceptions
from openstack_dashboard import policy
from openstack_dashboard.api import _nova

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.dashboard import rules

LOG = logging.getLogger(__name__)

# A clone that is still on its way is among the newest: a page of instances costs one small request.
NEWEST = 100


def clones(request: Any) -> TrustedClones:
    """Return the API, with the token of the session, as Horizon speaks to nova."""
    return TrustedClones(_nova.computeclient(request))


def newest(request: Any, *, all_projects: bool = False) -> dict[str, Clone]:
    """Return the newest clones by their servers' ids; asked once for a page.

    A page of instances is shown whatever happens here: an error is told beside it.
    """
    kept: dict[bool, dict[str, Clone]] = request.__dict__.setdefault("_trusted_clones", {})
    if all_projects not in kept:
        kept[all_projects] = _newest(request, all_projects)
    return kept[all_projects]


def _newest(request: Any, all_projects: bool) -> dict[str, Clone]:
    wanted = rules.INDEX_ALL if all_projects else rules.INDEX
    if not policy.check(wanted, request):
        return {}
    try:
        page, _more = clones(request).page(limit=NEWEST, all_projects=all_projects)
    except errors.Unsupported as error:
        LOG.debug("No trusted clones are shown: %s", error)
        return {}
    except errors.ClientError:
        exceptions.handle(request, _("Unable to retrieve trusted clones."))
        return {}
    return {clone.server_id: clone for clone in page}


def of_server(request: Any, server_id: str) -> Clone | None:
    """Return the record of the clone that a server is; None if it is none, or cannot be asked for now."""
    try:
        found = clones(request).list(server_id)
    except errors.ClientError as error:
        LOG.warning("Whether server %s is a trusted clone could not be asked: %s", server_id, error)
        return None
    return next((clone for clone in found if clone.server_id == server_id), None)
