"""What Django does when it starts."""

from __future__ import annotations

import pathlib

from django.apps import AppConfig
from django.conf import settings
from django.utils.translation import gettext_lazy as _

CONF = pathlib.Path(__file__).resolve().parent / "conf"
SERVICE = "trusted-clone"
"""The name of our policy beside those of compute, image and so on."""


class TrustedClonesConfig(AppConfig):
    """Django's name for this package."""

    name = "nova_trusted_clone.dashboard"
    label = "trusted_clones"
    verbose_name = _("Trusted Clones")

    def ready(self) -> None:
        """Add our policy, and a button and a column to the tables of instances. What the operator has set is kept."""
        settings.DEFAULT_POLICY_FILES.setdefault(
            SERVICE, str(CONF / "default_policies" / "trusted_clone.yaml")
        )
        settings.POLICY_FILES.setdefault(SERVICE, str(CONF / "trusted_clone_policy.yaml"))
        # Only now: tables need the settings and every other application.
        from nova_trusted_clone.dashboard import columns

        columns.install()
