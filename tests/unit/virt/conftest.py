"""Nova's own tables, changed for one test."""

from __future__ import annotations

from collections.abc import Iterator

import nova.conf
import pytest
from nova.conf import libvirt as libvirt_options
from nova.virt.libvirt import blockinfo, vif

from nova_trusted_clone.virt.xen import names

CONF = nova.conf.CONF
WRAPPED = (
    "get_dev_prefix_for_disk_bus",
    "get_disk_bus_for_disk_dev",
    "get_disk_bus_for_device_type",
)


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nova's tables with Xen's names; as they were afterwards."""
    (option,) = [one for one in libvirt_options.ALL_OPTS if one.name == "virt_type"]
    monkeypatch.setattr(option, "type", option.type)
    monkeypatch.setattr(vif, "SUPPORTED_VIF_MODELS", dict(vif.SUPPORTED_VIF_MODELS))
    buses = dict(blockinfo.SUPPORTED_DEVICE_BUSES)
    monkeypatch.setattr(blockinfo, "SUPPORTED_DEVICE_BUSES", buses)
    for name in WRAPPED:
        monkeypatch.setattr(blockinfo, name, getattr(blockinfo, name))
    names.teach()
    yield
    CONF.clear_override("virt_type", group="libvirt")
