"""A freeze's mark inside QEMU: one freeze at a time, and whose it is.

An object that does nothing (``authz-simple``, whose identity is a text). Adding it is atomic, so that of two freezes one is
refused at once; it ends with the process, so that it can never be stale.
"""

from __future__ import annotations

from nova_trusted_clone.hypervisor.base import FreezeBusy, MonitorError
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor

_ID = "ntc-freeze"


def put(monitor: Monitor, token: str) -> None:
    """Mark the server as frozen by ``token``.

    :raises FreezeBusy: it is frozen already
    """
    try:
        monitor.execute("object-add", qom_type="authz-simple", id=_ID, identity=token)
    except MonitorError as error:
        if owner(monitor) is None:
            raise
        raise FreezeBusy(
            "the server is frozen already: wait for that freeze to end, or share it"
        ) from error


def owner(monitor: Monitor) -> str | None:
    """Whose freeze the server is under; None when under none."""
    try:
        return str(monitor.execute("qom-get", path=f"/objects/{_ID}", property="identity"))
    except MonitorError as error:
        if error.kind == "DeviceNotFound":
            return None
        raise


def take(monitor: Monitor) -> None:
    """Take the mark off."""
    monitor.execute("object-del", id=_ID)
