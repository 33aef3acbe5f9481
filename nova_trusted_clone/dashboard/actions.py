"""The buttons: clone a server, end a clone, get its evidence."""

from __future__ import annotations

from typing import Any

from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy
from horizon import tables
from openstack_dashboard import policy

from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.dashboard import cloud, rules


class CloneInstance(policy.PolicyTargetMixin, tables.LinkAction):
    """In the row of an instance that runs."""

    name = "trusted_clone"
    verbose_name = _("Clone Instance")
    classes = ("ajax-modal",)
    icon = "clone"
    policy_rules = rules.CREATE

    def allowed(self, request: Any, instance: Any = None) -> bool:
        """As the API: ACTIVE, and nothing else is being done with it."""
        return (
            instance is not None
            and instance.status == "ACTIVE"
            and getattr(instance, "OS-EXT-STS:task_state", None) is None
            and not getattr(instance, "locked", False)
        )

    def get_link_url(self, datum: Any = None) -> str:
        """Return the form's address."""
        return str(reverse("horizon:project:trusted_clones:clone", args=(datum.id,)))


class _Abort(tables.BatchAction):
    name = "abort_trusted_clone"
    icon = "ban"
    action_type = "danger"
    policy_rules = rules.ABORT
    help_text = _("The clone ends, and its instance goes to the state Error. The source goes on.")
    default_message_level = "info"

    @staticmethod
    def action_present(count: int) -> Any:
        """What it is called."""
        return ngettext_lazy("Abort Clone", "Abort Clones", count)

    @staticmethod
    def action_past(count: int) -> Any:
        """What is said afterwards."""
        return ngettext_lazy("Scheduled abort of Clone", "Scheduled abort of Clones", count)


class AbortInstance(policy.PolicyTargetMixin, _Abort):
    """In the row of an instance that is a clone on its way."""

    def allowed(self, request: Any, instance: Any = None) -> bool:
        """While it is on its way."""
        clone = self._clone(request, instance)
        return clone is not None and not clone.ended

    def action(self, request: Any, obj_id: str) -> None:
        """End it."""
        clone = cloud.of_server(request, obj_id)
        if clone is not None:
            cloud.clones(request).abort(clone.server_id, clone.id)

    def _clone(self, request: Any, instance: Any) -> Clone | None:
        column = self.table.columns.get("trusted_clone")
        return column.clone(instance) if column is not None and instance is not None else None


class AbortClone(_Abort):
    """In the row of a clone."""

    def get_policy_target(self, request: Any, datum: Clone | None = None) -> dict[str, str]:
        """Whose it is."""
        return {} if datum is None else {"project_id": datum.project_id}

    def allowed(self, request: Any, clone: Clone | None = None) -> bool:
        """While it is on its way."""
        return clone is None or not clone.ended

    def action(self, request: Any, obj_id: str) -> None:
        """End it."""
        clone = self.table.get_object_by_id(obj_id)
        cloud.clones(request).abort(clone.server_id, clone.id)


class DownloadEvidence(tables.LinkAction):
    """Of a complete clone."""

    name = "evidence"
    verbose_name = _("Download Evidence")
    icon = "download"
    policy_rules = rules.EVIDENCE

    def allowed(self, request: Any, clone: Clone | None = None) -> bool:
        """Only then there is some."""
        return clone is not None and clone.complete

    def get_link_url(self, datum: Clone | None = None) -> str:
        """Return the file's address."""
        assert datum is not None
        args = (datum.server_id, datum.id)
        return str(reverse("horizon:project:trusted_clones:evidence", args=args))
