"""How far a clone is, for a table's cell and for a page."""

from __future__ import annotations

from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from nova_trusted_clone.client import display
from nova_trusted_clone.client.values import Clone

PHASES = (
    ("scheduling", pgettext_lazy("Phase of a trusted clone", "Scheduling")),
    ("claimed", pgettext_lazy("Phase of a trusted clone", "Host found")),
    ("ordered", pgettext_lazy("Phase of a trusted clone", "Ordered")),
    ("attesting", pgettext_lazy("Phase of a trusted clone", "Attesting")),
    ("fetching", pgettext_lazy("Phase of a trusted clone", "Fetching")),
    ("restoring", pgettext_lazy("Phase of a trusted clone", "Restoring")),
    ("provisional", pgettext_lazy("Phase of a trusted clone", "Provisional")),
    ("complete", pgettext_lazy("Phase of a trusted clone", "Complete")),
    ("failed", pgettext_lazy("Phase of a trusted clone", "Failed")),
    ("aborted", pgettext_lazy("Phase of a trusted clone", "Aborted")),
)
_WORDS = dict(PHASES)
HINTS = {
    "provisional": _("It runs; its last pages and proofs are still to come."),
    "complete": _("All of it has arrived and was verified."),
}
# Horizon's three states of a row; None: it is looked at again.
STATUS_CHOICES = (
    *((phase, None) for phase, _word in PHASES[:7]),
    ("complete", True),
    ("failed", False),
    ("aborted", False),
)


def phase(clone: Clone) -> str:
    """Return the phase in words; one that a later API has stays as it is."""
    return str(_WORDS.get(clone.phase, clone.phase))


def cell(clone: Clone, url: str = "") -> SafeString:
    """Return a bar with phase, percent and rate; only the phase when nothing more happens.

    :param url: what the phase leads to
    """
    context = {"progress": shown(clone), "url": url}
    return render_to_string("trusted_clones/_progress.html", context)


def shown(clone: Clone) -> dict[str, object]:
    """Return what the template needs."""
    return {
        "phase": phase(clone),
        "hint": HINTS.get(clone.phase, ""),
        "percent": display.percent(clone),
        "rate": display.rate(clone),
        "ended": clone.ended,
        "complete": clone.complete,
        "reason": clone.reason,
    }
