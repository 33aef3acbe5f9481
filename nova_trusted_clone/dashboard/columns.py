"""A column and two buttons for the tables of instances, which Horizon has no other way to add to.

Leans on ``_meta``, ``_columns``, ``base_columns`` and ``base_actions`` of horizon.tables.DataTable, filled by its metaclass.
"""

from __future__ import annotations

import collections
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from horizon import tables
from openstack_dashboard.dashboards.admin.instances import tables as admin
from openstack_dashboard.dashboards.project.instances import tables as project

from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.dashboard import cloud, progress
from nova_trusted_clone.dashboard.actions import AbortInstance, CloneInstance

NAME = "trusted_clone"
# An ordinary instance has no phase, and its row is as good as it is without us.
STATUS_CHOICES = (("", True), *progress.STATUS_CHOICES)


class CloneColumn(tables.Column):
    """How far an instance is that is a clone.

    Its cell has no status class, so that Horizon's own bar (which goes into the last such cell) stays away from ours. It
    counts for the row all the same: a row with a clone on its way is refreshed.
    """

    def __init__(self, *, all_projects: bool) -> None:
        super().__init__(
            NAME,
            verbose_name=_("Trusted Clone"),
            sortable=False,
            status_choices=STATUS_CHOICES,
        )
        self.all_projects = all_projects

    def clone(self, instance: Any) -> Clone | None:
        """Return the clone that an instance is, if it is among the newest."""
        request = self.table.request
        if request.GET.get("action") != "row_update":
            return cloud.newest(request, all_projects=self.all_projects).get(instance.id)
        kept: dict[str, Clone | None] = request.__dict__.setdefault("_trusted_clone_of", {})
        if instance.id not in kept:
            kept[instance.id] = cloud.of_server(request, instance.id)
        return kept[instance.id]

    def get_raw_data(self, datum: Any) -> str:
        """Return the phase."""
        clone = self.clone(datum)
        return clone.phase if clone is not None else ""

    def get_data(self, datum: Any) -> Any:
        """Return the cell's content; None for an ordinary instance."""
        clone = self.clone(datum)
        return progress.cell(clone, _link(clone)) if clone is not None else None


def _link(clone: Clone) -> str:
    return str(reverse("horizon:project:trusted_clones:detail", args=(clone.server_id, clone.id)))


def install() -> None:
    """Add them, once."""
    _install(project.InstancesTable, all_projects=False)
    _install(admin.AdminInstancesTable, all_projects=True)


def _install(table: Any, *, all_projects: bool) -> None:
    if NAME in table._columns:
        return
    column = CloneColumn(all_projects=all_projects)
    column.classes.append("normal_column")
    table.base_columns = _inserted(table.base_columns, column, "task")
    table._columns = _inserted(table._columns, column, "task")
    table._meta.status_columns = [*table._meta.status_columns, NAME]
    for action in (CloneInstance, AbortInstance):
        table.base_actions[action.name] = action()
    rows = list(table._meta.row_actions)
    after = rows.index(project.CreateSnapshot) + 1
    table._meta.row_actions = (*rows[:after], CloneInstance, AbortInstance, *rows[after:])


def _inserted(columns: Any, column: Any, after: str) -> Any:
    made = collections.OrderedDict()
    for name, known in columns.items():
        made[name] = known
        if name == after:
            made[NAME] = column
    return made
