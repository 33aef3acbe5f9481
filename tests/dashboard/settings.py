"""Horizon's own settings for tests, with the panel switched on by its own enabled file, as a deployer does it."""

import pathlib

import openstack_dashboard.enabled

import nova_trusted_clone.dashboard.enabled

# Before the settings look for such files.
openstack_dashboard.enabled.__path__.extend(nova_trusted_clone.dashboard.enabled.__path__)

from openstack_dashboard.test.settings import *  # noqa: E402, F403

# Pages are looked at, not style sheets.
COMPRESS_ENABLED = False
COMPRESS_PRECOMPILERS = ()
VECTORS = pathlib.Path(__file__).resolve().parents[1] / "vectors"
# Theirs allow everything to everybody.
POLICY_CHECK_FUNCTION = "openstack_auth.policy.check"
# Django's test cases begin transactions; nothing is ever kept.
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
