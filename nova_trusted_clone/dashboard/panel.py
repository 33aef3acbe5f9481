"""Project → Compute → Trusted Clones."""

from __future__ import annotations

import horizon
from django.utils.translation import gettext_lazy as _

from nova_trusted_clone.dashboard import rules


class TrustedClones(horizon.Panel):
    """The panel."""

    name = _("Trusted Clones")
    slug = "trusted_clones"
    permissions = ("openstack.services.compute",)
    policy_rules = rules.INDEX
