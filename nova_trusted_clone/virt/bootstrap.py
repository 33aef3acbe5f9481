"""Makes ``nova.virt.trusted_clone`` importable without a file in Nova's own package.

Nova imports a driver from ``nova.virt`` only (``nova.virt.driver.load_compute_driver``). nova-compute calls
``os_vif.initialize()`` before that, which loads every entry point of the group ``os_vif``: this module is one. It extends
``nova.virt.__path__``, an ordinary package's search path, so that it works with Nova installed as a wheel and as an
editable install alike. It plugs nothing.
"""

from __future__ import annotations

import pathlib

import nova.virt
import os_vif.plugin
from os_vif.objects import host_info

SEARCH_PATH = str(pathlib.Path(__file__).parent / "nova_virt_path")


def extend_search_path() -> None:
    """Let ``nova.virt`` find the driver's package. Harmless when repeated."""
    if SEARCH_PATH not in nova.virt.__path__:
        nova.virt.__path__.append(SEARCH_PATH)


class Bootstrap(os_vif.plugin.PluginBase):  # type: ignore[misc]
    """An os-vif plugin for no kind of interface: loading it is all that it is for."""

    def describe(self) -> host_info.HostPluginInfo:
        """Support for no interface type."""
        return host_info.HostPluginInfo(plugin_name="trusted_clone", vif_info=[])

    def plug(self, vif: object, instance_info: object) -> None:
        """Refuse: no interface names this plugin.

        :raises NotImplementedError: always
        """
        raise NotImplementedError("trusted_clone plugs no interfaces")

    def unplug(self, vif: object, instance_info: object) -> None:
        """Refuse, as ``plug`` does.

        :raises NotImplementedError: always
        """
        raise NotImplementedError("trusted_clone plugs no interfaces")


extend_search_path()
