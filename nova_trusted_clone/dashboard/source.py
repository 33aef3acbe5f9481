"""What the form has to know of the server that is cloned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _
from horizon import exceptions
from openstack_dashboard import api
from openstack_dashboard.dashboards.project.instances import utils

# Of flavors and of images; either gives a server its vTPM.
_VTPM_SPEC, _VTPM_PROPERTY = "hw:tpm_version", "hw_tpm_version"


@dataclasses.dataclass(frozen=True)
class Interface:
    """A network interface of the server, as nova lists it."""

    network: str
    mac: str
    address: str


@dataclasses.dataclass(frozen=True)
class Usage:
    """A quota, and what a clone takes of it. ``most`` is None where there is no limit."""

    title: Any
    used: int
    most: int | None
    each: int

    @property
    def room(self) -> float:
        """How many clones it has room for."""
        if self.most is None or not self.each:
            return math.inf
        return max(0, self.most - self.used) // self.each

    @property
    def percent(self) -> int:
        """How much is in use."""
        return min(100, 100 * self.used // self.most) if self.most else 0


@dataclasses.dataclass(frozen=True)
class Source:
    """The server.

    :ivar has_vtpm: None where that is not known
    """

    id: str
    name: str
    interfaces: tuple[Interface, ...]
    has_vtpm: bool | None
    usages: tuple[Usage, ...]

    @property
    def room(self) -> int | None:
        """How many clones the project's quotas have room for; None for no limit, or if they are not known."""
        most = min((usage.room for usage in self.usages), default=math.inf)
        return None if math.isinf(most) else int(most)


def of(request: Any, instance: Any) -> Source:
    """Look at a server. What is not told is left out: the API checks all of it again."""
    flavor = utils.resolve_flavor(request, instance)
    return Source(
        id=instance.id,
        name=instance.name,
        interfaces=interfaces(instance.addresses),
        has_vtpm=_has_vtpm(request, instance, flavor),
        usages=_usages(request, flavor),
    )


def interfaces(addresses: Mapping[str, Any]) -> tuple[Interface, ...]:
    """Return the interfaces in nova's order; one with several addresses counts once, by its MAC."""
    found: dict[str, Interface] = {}
    for network, rows in addresses.items():
        for row in rows:
            mac = row.get("OS-EXT-IPS-MAC:mac_addr", "")
            if row.get("OS-EXT-IPS:type", "fixed") == "fixed":
                found.setdefault(mac, Interface(network, mac, row.get("addr", "")))
    return tuple(found.values())


def _has_vtpm(request: Any, instance: Any, flavor: Any) -> bool | None:
    try:
        extra = getattr(flavor, "extra_specs", None)
        specs = extra or api.nova.flavor_get_extras(request, flavor.id, raw=True)
        if _VTPM_SPEC in specs:
            return True
        if not instance.image:
            return False
        image = api.glance.image_get(request, instance.image["id"])
        return _VTPM_PROPERTY in (getattr(image, "properties", None) or {})
    except Exception:
        exceptions.handle(request, _("Unable to find out about the vTPM."), ignore=True)
        return None


def _usages(request: Any, flavor: Any) -> tuple[Usage, ...]:
    try:
        limits = api.nova.tenant_absolute_limits(request, reserved=True)
    except Exception:
        exceptions.handle(request, _("Unable to retrieve quotas."))
        return ()
    rows = (
        (_("Instances"), "totalInstancesUsed", "maxTotalInstances", 1),
        (_("vCPUs"), "totalCoresUsed", "maxTotalCores", getattr(flavor, "vcpus", 0)),
        (_("RAM (MB)"), "totalRAMUsed", "maxTotalRAMSize", getattr(flavor, "ram", 0)),
    )
    return tuple(
        Usage(title, int(limits.get(used, 0)), _limit(limits.get(most)), int(each or 0))
        for title, used, most, each in rows
    )


def _limit(value: Any) -> int | None:
    """Nova's -1, and Horizon's infinity, are no limit."""
    return None if value is None or math.isinf(value) or value < 0 else int(value)
