"""A clone's network cards: the source's go, the clone's come.

A network card's MAC is part of the device state, so a restored guest has the source's. It is restored on a tap that
nothing listens on, its link is taken down before the first instruction, and then the guest itself unplugs it.
"""

from __future__ import annotations

import errno
import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.base import RestoreFailed
from nova_trusted_clone.hypervisor.qemu import definition
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor

# A guest's kernel answers within tenths of a second; one that is still fetching its memory needs longer.
UNPLUG_LIMIT_S = 60.0
# The request is lost when it comes while the guest's own hotplug driver is busy: it is then asked again.
_ASK_AGAIN_S = 5.0
_POLL_S = 0.05


def silence(domain: Any, monitor: Monitor) -> tuple[str, ...]:
    """Take every link down; before the guest runs. The cards' aliases."""
    aliases = tuple(alias for alias, _mac in _cards(domain))
    for alias in aliases:
        monitor.execute("set_link", name=alias, up=False)
    return aliases


def swap(domain: Any, old: Iterable[str], new: Iterable[str]) -> None:
    """Unplug the cards ``old`` and plug in ``new``; the guest runs meanwhile.

    :param new: definitions of interfaces
    :raises RestoreFailed: the guest does not let go of a card, or is stopped for an error of its disk
    """
    for alias in old:
        _unplug(domain, alias)
    for interface in new:
        domain.attachDeviceFlags(interface, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _unplug(domain: Any, alias: str) -> None:
    deadline = time.monotonic() + UNPLUG_LIMIT_S
    ask_at = 0.0
    while alias in (name for name, _mac in _cards(domain)):
        _require_no_disk_error(domain)
        now = time.monotonic()
        if now > deadline:
            raise RestoreFailed(
                f"the guest did not let go of network card {alias} within {UNPLUG_LIMIT_S:.0f} s: "
                "does its kernel support hot-unplug?"
            )
        if now >= ask_at:
            _ask(domain, alias)
            ask_at = now + _ASK_AGAIN_S
        time.sleep(_POLL_S)


def _require_no_disk_error(domain: Any) -> None:
    """QEMU stops a guest whose disk cannot be written: it then answers nothing, least of all a request to unplug."""
    if tuple(domain.state()) != (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR):
        return
    no_space = os.strerror(errno.ENOSPC)
    errors = ", ".join(
        f"{target}: {no_space if number == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE else 'input/output error'}"
        for target, number in sorted((domain.diskErrors() or {}).items())
    )
    raise RestoreFailed(f"the guest is stopped for an error of its disk: {errors or 'unnamed'}")


def _ask(domain: Any, alias: str) -> None:
    try:
        domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        # Gone meanwhile, or still being unplugged: both are looked at by the caller.
        expected = (
            libvirt.VIR_ERR_DEVICE_MISSING,
            libvirt.VIR_ERR_OPERATION_FAILED,
            libvirt.VIR_ERR_INTERNAL_ERROR,
        )
        if error.get_error_code() not in expected:
            raise


def _cards(domain: Any) -> list[tuple[str, str]]:
    root: ET.Element = definition.parse(domain.XMLDesc(0))
    return definition.nics(root)
