"""What a guest itself says by its Xen drivers: that libvirt calls it running means only that nobody stopped it."""

from __future__ import annotations

import subprocess
import time
import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.base import RestoreFailed
from nova_trusted_clone.hypervisor.qemu import definition

LIMIT_S = 120.0
POLL_S = 0.1
# XenbusStateConnected: the guest's own driver has come up and found its device again.
CONNECTED = "4"
_DEVICES = {"disk": "vbd", "interface": "vif"}


def require_running(domain: Any) -> None:
    """Wait until the guest has done something by itself: used its processor, and connected every disk and network card anew.

    :raises RestoreFailed: it did not in time, or has ended
    """
    deadline = time.monotonic() + LIMIT_S
    began = _processor_time(domain)
    waiting = "its processor stands still"
    while time.monotonic() < deadline:
        if _processor_time(domain) > began:
            left = unconnected(domain)
            if not left:
                return
            waiting = f"{left} of its devices are not connected"
        time.sleep(POLL_S)
    raise RestoreFailed(f"{domain.name()} was restored and does not run: {waiting}")


def _processor_time(domain: Any) -> int:
    state, *_rest, used = domain.info()
    if state in (
        libvirt.VIR_DOMAIN_SHUTOFF,
        libvirt.VIR_DOMAIN_CRASHED,
        libvirt.VIR_DOMAIN_SHUTDOWN,
    ):
        raise RestoreFailed(f"{domain.name()} was restored and has ended")
    return int(used)


def unconnected(domain: Any) -> int:
    """How many of its disks and network cards its own Xen drivers have not connected."""
    devices = definition.parse(domain.XMLDesc(0)).find("devices")
    expected = {kind: _count(devices, tag) for tag, kind in _DEVICES.items()}
    return sum(
        max(0, number - _states(domain.ID(), kind).count(CONNECTED))
        for kind, number in expected.items()
        if number
    )


def _count(devices: ET.Element | None, tag: str) -> int:
    return 0 if devices is None else len(devices.findall(tag))


def _states(domain: int, kind: str) -> list[str]:
    """What the guest's drivers say of their devices of a kind."""
    place = f"/local/domain/{domain}/device/{kind}"
    listed = _xenstore("list", place).split()
    return [_xenstore("read", f"{place}/{number}/state").strip() for number in listed]


def _xenstore(operation: str, path: str) -> str:
    done = subprocess.run(
        [f"xenstore-{operation}", path], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout
