"""The pages."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpResponse
from django.urls import reverse, reverse_lazy
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _
from horizon import exceptions, forms, tables, tabs
from horizon.utils import memoized
from openstack_dashboard import api
from openstack_dashboard.utils import settings as settings_utils

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.dashboard import cloud, source
from nova_trusted_clone.dashboard.form import CloneForm
from nova_trusted_clone.dashboard.tables import ClonesTable, Row
from nova_trusted_clone.dashboard.tabs import CloneTabs

INDEX = "horizon:project:trusted_clones:index"
INSTANCES = "horizon:project:instances:index"


class IndexView(tables.DataTableView):
    """All clones of the project, newest first, by pages."""

    table_class = ClonesTable
    page_title = _("Trusted Clones")
    _more = False

    def has_more_data(self, table: Any) -> bool:
        """Return whether there is another page."""
        return self._more

    def get_data(self) -> list[Row]:
        """Return a page."""
        marker = self.request.GET.get(ClonesTable._meta.pagination_param)
        size = settings_utils.get_page_size(self.request)
        try:
            page, self._more = cloud.clones(self.request).page(limit=size, marker=marker)
        except (errors.ClientError, ValueError):
            self._more = False
            exceptions.handle(self.request, _("Unable to retrieve trusted clones."))
            return []
        names = self._names()
        return [Row(clone, names.get(clone.source_id, "")) for clone in page]

    def _names(self) -> dict[str, str]:
        """Of the project's servers; a source that is gone has none."""
        try:
            found, _more = api.nova.server_list(self.request, detailed=False)
        except Exception:
            exceptions.handle(self.request, _("Unable to retrieve instances."), ignore=True)
            return {}
        return {server.id: server.name for server in found}


class CloneView(forms.ModalFormView):
    """The form."""

    form_class = CloneForm
    form_id = "trusted_clone_form"
    modal_id = "trusted_clone_modal"
    template_name = "trusted_clones/clone.html"
    page_title = _("Clone Instance")
    modal_header = _("Clone Instance")
    submit_label = _("Clone Instance")
    success_url = reverse_lazy(INSTANCES)

    def get_form_kwargs(self) -> dict[str, Any]:
        """Add what the form has to know."""
        return {
            **super().get_form_kwargs(),
            "source": self.source(),
            "zones": self.zones(),
            "networks": self.networks(),
        }

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add what stands beside the form."""
        self.submit_url = reverse(
            "horizon:project:trusted_clones:clone", args=(self.kwargs["instance_id"],)
        )
        return {**super().get_context_data(**kwargs), "source": self.source()}

    @memoized.memoized_method
    def source(self) -> source.Source:
        """Look at the server."""
        try:
            instance = api.nova.server_get(self.request, str(self.kwargs["instance_id"]))
        except Exception:
            exceptions.handle(
                self.request, _("Unable to retrieve the instance."), redirect=reverse(INSTANCES)
            )
            raise
        return source.of(self.request, instance)

    @memoized.memoized_method
    def zones(self) -> list[str]:
        """Return the zones that take servers."""
        try:
            found = api.nova.availability_zone_list(self.request)
        except Exception:
            exceptions.handle(self.request, _("Unable to retrieve availability zones."))
            return []
        return [zone.name for zone in found if _is_available(zone)]

    @memoized.memoized_method
    def networks(self) -> list[tuple[str, str]]:
        """Return the networks that the project may use."""
        try:
            found = api.neutron.network_list_for_tenant(self.request, self.request.user.tenant_id)
        except Exception:
            exceptions.handle(self.request, _("Unable to retrieve networks."))
            return []
        return sorted(((one.id, one.name_or_id) for one in found), key=lambda row: row[1])


def _is_available(zone: Any) -> bool:
    """As nova lists it, and as openstacksdk does."""
    state = getattr(zone, "state", None) or getattr(zone, "zoneState", None) or {}
    return bool(state.get("available", True))


class DetailView(tabs.TabView):
    """A clone's page."""

    tab_group_class = CloneTabs
    template_name = "horizon/common/_detail.html"
    page_title = "{{ clone.name|default:clone.id }}"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the clone and its buttons."""
        context = super().get_context_data(**kwargs)
        clone = self.clone()
        table = ClonesTable(self.request)
        context["clone"] = clone
        context["url"] = reverse(INDEX)
        context["actions"] = table.render_row_actions(Row(clone))
        return dict(context)

    @memoized.memoized_method
    def clone(self) -> Clone:
        """Return the record."""
        return _record(self.request, **self.kwargs)

    def get_tabs(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Give the tabs the record."""
        return self.tab_group_class(request, clone=self.clone(), **kwargs)


def evidence(request: Any, server_id: uuid.UUID, clone_id: uuid.UUID) -> HttpResponse:
    """Return the file as it is stored, for ``openstack server clone evidence verify``."""
    try:
        data = cloud.clones(request).evidence(str(server_id), str(clone_id))
    except errors.ClientError:
        exceptions.handle(request, _("Unable to retrieve the evidence."), redirect=reverse(INDEX))
        raise
    response = HttpResponse(data, content_type="application/json")
    response["Content-Disposition"] = f'attachment; filename="trusted-clone-{clone_id}.json"'
    return response


def _record(request: Any, server_id: uuid.UUID, clone_id: uuid.UUID) -> Clone:
    try:
        return cloud.clones(request).show(str(server_id), str(clone_id))
    except errors.ClientError:
        exceptions.handle(
            request,
            _now('Unable to retrieve the trusted clone "%s".') % clone_id,
            redirect=reverse(INDEX),
        )
        raise
