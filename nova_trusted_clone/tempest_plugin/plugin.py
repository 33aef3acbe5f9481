"""Tempest's entry point (``tempest.test_plugins``)."""

from __future__ import annotations

import pathlib
from typing import Any

from tempest import config
from tempest.test_discover import plugins

from nova_trusted_clone.tempest_plugin import config as own

HERE = pathlib.Path(__file__).resolve().parent


class TrustedClonePlugin(plugins.TempestPlugin):
    """Where the tests are, their options, and their client."""

    def load_tests(self) -> tuple[str, str]:
        """The directory of the tests, and what their names begin below."""
        return str(HERE / "tests"), str(HERE.parents[1])

    def register_opts(self, conf: Any) -> None:
        """Add the options to tempest's."""
        conf.register_opt(own.service_available, group="service_available")
        conf.register_group(own.group)
        conf.register_opts(own.options, group=own.group)

    def get_opt_lists(self) -> list[tuple[str, list[Any]]]:
        """For tempest's sample configuration."""
        return [("service_available", [own.service_available]), (own.group.name, own.options)]

    def get_service_clients(self) -> list[dict[str, Any]]:
        """``os_primary.trusted_clone.TrustedCloneClient()`` in a test."""
        return [
            {
                "name": "trusted_clone",
                "service_version": "trusted_clone",
                "module_path": "nova_trusted_clone.tempest_plugin.services",
                "client_names": ["TrustedCloneClient"],
                **config.service_client_config("trusted_clone"),
            }
        ]
