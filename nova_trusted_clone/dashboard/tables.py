"""The list of clones."""

from __future__ import annotations

from typing import Any

from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from horizon import exceptions, tables
from horizon.utils import filters
from openstack_dashboard import api

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.dashboard import cloud, progress
from nova_trusted_clone.dashboard.actions import AbortClone, DownloadEvidence

VTPM_CHOICES = (("new", _("New")), ("derive", _("Derived")), ("none", _("None")))
MEMORY_CHOICES = (("lazy", _("Lazy")), ("eager", _("Eager")))
# One stroke: two are Horizon's own separator in the names of buttons.
_BETWEEN = "_"


class Row:
    """A clone in the list, with its source's name where that is known."""

    def __init__(self, clone: Clone, source_name: str = "") -> None:
        self.clone = clone
        self.source_name = source_name or clone.source_id

    @property
    def key(self) -> str:
        """What tells a row: a record is asked for by way of its server."""
        return f"{self.clone.server_id}{_BETWEEN}{self.clone.id}"

    def __getattr__(self, name: str) -> Any:
        if "clone" not in self.__dict__:  # a copy that is being made
            raise AttributeError(name)
        return getattr(self.clone, name)


def page_of(clone: Clone | Row) -> str:
    """Return the address of a clone's page."""
    return str(reverse("horizon:project:trusted_clones:detail", args=(clone.server_id, clone.id)))


class UpdateRow(tables.Row):
    """Looked at again while the clone is on its way."""

    ajax = True

    def get_data(self, request: Any, obj_id: str) -> Row:
        """Return the record as it is now; Horizon takes a 404 for an end."""
        server_id, _between, clone_id = obj_id.partition(_BETWEEN)
        try:
            clone = cloud.clones(request).show(server_id, clone_id)
        except errors.NotFound as error:
            raise exceptions.NotFound from error
        return Row(clone, _name(request, clone.source_id))


def _name(request: Any, server_id: str) -> str:
    try:
        return str(api.nova.server_get(request, server_id).name)
    except Exception:
        exceptions.handle(request, _("Unable to retrieve the source."), ignore=True)
        return ""


class Filter(tables.FilterAction):
    """By name, on the page."""

    def filter(self, table: Any, rows: list[Row], filter_string: str) -> list[Row]:
        """Return those whose name has it."""
        wanted = filter_string.lower()
        return [row for row in rows if wanted in f"{row.name} {row.source_name}".lower()]


class PhaseColumn(tables.Column):
    """A bar while it is on its way, the phase afterwards."""

    def get_data(self, datum: Row) -> Any:
        """Return the cell."""
        return progress.cell(datum.clone)


def _source_link(clone: Row) -> str:
    return str(reverse("horizon:project:instances:detail", args=(clone.source_id,)))


def _instance_link(clone: Row) -> str:
    return str(reverse("horizon:project:instances:detail", args=(clone.server_id,)))


class ClonesTable(tables.DataTable):
    """One row a clone."""

    name = tables.WrappingColumn("name", verbose_name=_("Name"), link=page_of)
    source = tables.WrappingColumn("source_name", verbose_name=_("Source"), link=_source_link)
    instance = tables.WrappingColumn("server_id", verbose_name=_("Instance"), link=_instance_link)
    phase = PhaseColumn(
        "phase", verbose_name=_("Phase"), status_choices=progress.STATUS_CHOICES, sortable=False
    )
    vtpm = tables.Column("vtpm", verbose_name=_("vTPM"), display_choices=VTPM_CHOICES)
    memory = tables.Column("memory", verbose_name=_("Memory"), display_choices=MEMORY_CHOICES)
    created = tables.Column(
        "created_at",
        verbose_name=_("Age"),
        filters=(filters.parse_isotime, filters.timesince_sortable),
        attrs={"data-type": "timesince"},
    )

    class Meta:
        """Horizon's options."""

        name = "trusted_clones"
        verbose_name = _("Trusted Clones")
        status_columns = ("phase",)
        row_class = UpdateRow
        pagination_param = "trusted_clones_marker"
        table_actions = (Filter, AbortClone)
        row_actions = (DownloadEvidence, AbortClone)

    def get_object_id(self, datum: Row) -> str:
        """Return both ids."""
        return datum.key

    def get_marker(self) -> str:
        """Return the API's own marker."""
        return self.data[-1].id if self.data else ""
