"""The two sides of a clone's page: what it is and where it comes from, and what was proven."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _
from horizon import exceptions, tabs
from openstack_dashboard import api

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.dashboard import attestation, cloud, lineage, progress, rules
from nova_trusted_clone.dashboard.tables import MEMORY_CHOICES, VTPM_CHOICES

_NONCE = re.compile(r"(?:[0-9a-fA-F]{2}){8,64}")


class OverviewTab(tabs.Tab):
    """Facts, and the picture."""

    name = _("Overview")
    slug = "overview"
    template_name = "trusted_clones/_overview.html"

    def get_context_data(self, request: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what the template shows."""
        clone: Clone = self.tab_group.kwargs["clone"]
        names = _names(request, clone)
        return {
            "clone": clone,
            "progress": progress.shown(clone),
            "source_name": names.get(clone.source_id, clone.source_id),
            "picture": lineage.picture(clone, _family(request, clone), names),
            "pause_ms": None if clone.pause_us is None else f"{clone.pause_us / 1000:.1f}",
            # The one that became the clone is among them, and has nothing to tell.
            "attempts": [one for one in clone.attempts if one.reason or one.code],
            "vtpm": dict(VTPM_CHOICES).get(clone.vtpm, clone.vtpm),
            "memory": dict(MEMORY_CHOICES).get(clone.memory, clone.memory),
        }


class AttestationTab(tabs.Tab):
    """Every check of the evidence."""

    name = _("Attestation")
    slug = "attestation"
    template_name = "trusted_clones/_attestation.html"
    policy_rules = rules.EVIDENCE
    preload = False

    def get_context_data(self, request: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what the template shows."""
        clone: Clone = self.tab_group.kwargs["clone"]
        context: dict[str, Any] = {"clone": clone, "tab_id": self.get_id()}
        if not clone.complete:
            return context
        given = request.GET.get("nonce", "").strip()
        kept = request.session.get("trusted_clone_nonces", {}).get(clone.id, "")
        nonce = given or kept or clone.nonce
        context |= {"nonce": nonce, "nonce_from": _nonce_from(given, kept)}
        if not _NONCE.fullmatch(nonce):
            return context | {"nonce_error": _("16 to 128 hexadecimal digits are expected.")}
        try:
            data = cloud.clones(request).evidence(clone.server_id, clone.id)
        except errors.ClientError:
            exceptions.handle(request, _("Unable to retrieve the evidence."))
            return context
        found = attestation.report(data, clone, bytes.fromhex(nonce))
        return context | {"report": found} | _numbers(found.told)


class CloneTabs(tabs.TabGroup):
    """Both."""

    slug = "trusted_clone_details"
    tabs = (OverviewTab, AttestationTab)
    sticky = True
    show_single_tab = True


def _nonce_from(given: str, kept: str) -> str:
    if given:
        return "given"
    return "session" if kept else "cloud"


def _numbers(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the evidence says in numbers, for people."""
    if not told:
        return {}
    counts = told["counts"]
    return {
        "counts": [
            (title, counts[name])
            for name, title in attestation.COUNTS
            if counts.get(name) is not None
        ],
        "pause_ms": f"{told['pause_us'] / 1000:.1f}",
        "times": {
            name: datetime.datetime.fromtimestamp(told[name], datetime.UTC)
            for name in ("issued_at", "expires_at")
        },
    }


def _family(request: Any, clone: Clone) -> list[Clone]:
    """The clones of the same instant; before there is one, those of the same request."""
    try:
        found = cloud.clones(request).list(clone.source_id)
    except errors.ClientError:
        exceptions.handle(request, _("Unable to retrieve the clones of the same freeze."))
        return [clone]
    if clone.freeze_id:
        return [one for one in found if one.freeze_id == clone.freeze_id]
    return [one for one in found if one.group == clone.group]


def _names(request: Any, clone: Clone) -> dict[str, str]:
    """Of the servers of the picture that are still there."""
    names = {}
    for server in (clone.source_id, *clone.lineage)[: lineage.MOST_ANCESTORS + 1]:
        if server in names:
            continue
        try:
            names[server] = api.nova.server_get(request, server).name
        except Exception:
            exceptions.handle(request, _("Unable to retrieve the source."), ignore=True)
    return names
