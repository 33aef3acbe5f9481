"""Xen's names in Nova's tables.

Nova refuses a ``virt_type``, a disk bus, a device name and a card model that it does not list, deep inside of functions that
decide other things besides. Each is taught here, once, when the driver is made; what Nova knows already stays as it is.

An operator cannot set ``virt_type = xen``: nova-compute reads its whole configuration, to log it, before anything of this
package is loaded, and ends there. Naming the driver says it.

Leans on ``nova.conf.libvirt``, ``nova.virt.libvirt.blockinfo`` and ``nova.virt.libvirt.vif``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import nova.conf
from nova.conf import libvirt as libvirt_options
from nova.virt.libvirt import blockinfo, vif
from oslo_config import types

CONF = nova.conf.CONF
VIRT_TYPE = "xen"
DISK_BUS = "xen"
DISK_PREFIX = "xvd"
CARD_MODEL = "netfront"
_TAUGHT = "_trusted_clone_xen"


def teach() -> None:
    """Let Nova know them, and have Xen as this process's hypervisor. Harmless when repeated."""
    _allow_virt_type()
    CONF.set_override("virt_type", VIRT_TYPE, group="libvirt")
    vif.SUPPORTED_VIF_MODELS.setdefault(VIRT_TYPE, [CARD_MODEL])
    blockinfo.SUPPORTED_DEVICE_BUSES[VIRT_TYPE] = [DISK_BUS]
    _wrap("get_dev_prefix_for_disk_bus", _prefix)
    _wrap("get_disk_bus_for_disk_dev", _bus_of_device)
    _wrap("get_disk_bus_for_device_type", _bus_of_type)


def _allow_virt_type() -> None:
    (option,) = [one for one in libvirt_options.ALL_OPTS if one.name == "virt_type"]
    known = tuple(option.type.choices)
    if VIRT_TYPE not in known:
        option.type = types.String(choices=(*known, VIRT_TYPE))


def _wrap(name: str, first: Callable[..., str | None]) -> None:
    """Have a function of ``blockinfo`` ask ``first``, and go on by itself where that knows nothing."""
    theirs = getattr(blockinfo, name)
    if hasattr(theirs, _TAUGHT):
        return

    @functools.wraps(theirs)
    def taught(*args: Any, **kwargs: Any) -> Any:
        found = first(*args, **kwargs)
        return theirs(*args, **kwargs) if found is None else found

    setattr(taught, _TAUGHT, True)
    setattr(blockinfo, name, taught)


def _prefix(disk_bus: str) -> str | None:
    return DISK_PREFIX if disk_bus == DISK_BUS else None


def _bus_of_device(virt_type: str, disk_dev: str) -> str | None:
    return DISK_BUS if disk_dev.startswith(DISK_PREFIX) else None


def _bus_of_type(
    instance: Any, virt_type: str, image_meta: Any, device_type: str = "disk"
) -> str | None:
    """Nova looks at the image's wish first, and refuses one for another bus; so a wish is left to Nova."""
    if virt_type != VIRT_TYPE or image_meta.properties.get(f"hw_{device_type}_bus"):
        return None
    # A CD drive is there as a disk that cannot be written.
    return DISK_BUS if device_type in ("disk", "cdrom") else None
