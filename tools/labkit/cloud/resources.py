"""What tenants find in the cloud: an image, flavors, a network, and security groups that let them be pinged."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from openstack.connection import Connection

from labkit.cloud import settings

IMAGE = "guest"
NETWORK = "lan"
# The key of a vTPM's state can be read with the owner's token only; that is Nova's default.
GUARDED_VTPM: Mapping[str, str] = {"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb"}
VTPM: Mapping[str, str] = {**GUARDED_VTPM, "hw:tpm_secret_security": "host"}


@dataclasses.dataclass(frozen=True)
class Flavor:
    """A flavor; sizes are those of Nova's API."""

    name: str
    ram_mib: int = 128
    vcpus: int = 1
    disk_gib: int = 1
    ephemeral_gib: int = 0
    swap_mib: int = 0
    extra_specs: Mapping[str, str] = dataclasses.field(default_factory=lambda: VTPM)


FLAVORS = (
    Flavor("small"),
    Flavor("medium", ram_mib=256, vcpus=2),
    Flavor("disks", vcpus=2, ephemeral_gib=1, swap_mib=64),
    Flavor("guarded", extra_specs=GUARDED_VTPM),
    Flavor("plain", extra_specs={}),
)


def upload_image(admin: Connection, disk: pathlib.Path) -> None:
    """Give Glance the guest's boot disk."""
    admin.create_image(
        IMAGE,
        filename=str(disk),
        disk_format="raw",
        container_format="bare",
        visibility="public",
        wait=True,
        hw_disk_bus="virtio",
        hw_vif_model="virtio",
        hw_rng_model="virtio",
    )


def make_flavors(admin: Connection) -> None:
    """Make them all; every one but ``plain`` has a vTPM."""
    for flavor in FLAVORS:
        made = admin.compute.create_flavor(
            name=flavor.name,
            ram=flavor.ram_mib,
            vcpus=flavor.vcpus,
            disk=flavor.disk_gib,
            ephemeral=flavor.ephemeral_gib,
            swap=flavor.swap_mib,
        )
        if flavor.extra_specs:
            admin.compute.create_flavor_extra_specs(made, dict(flavor.extra_specs))


def make_network(admin: Connection) -> None:
    """Make the shared network, with DHCP, on which the control node has an address."""
    network = admin.network.create_network(
        name=NETWORK,
        shared=True,
        provider_network_type="flat",
        provider_physical_network=settings.PHYSICAL_NETWORK,
    )
    first, last = settings.LAN_POOL
    admin.network.create_subnet(
        network_id=network.id,
        name=NETWORK,
        ip_version=4,
        cidr=settings.LAN,
        gateway_ip=settings.GATEWAY,
        allocation_pools=[{"start": first, "end": last}],
    )


def ask_neutron(admin: Connection) -> None:
    """Neutron's first request, which sets it up; another at that moment would be answered wrongly, so it is asked alone."""
    list(admin.network.agents())


def living_agents(admin: Connection) -> set[tuple[str, str]]:
    """Kind and host of every agent of Neutron's that lives."""
    return {(one.agent_type, one.host) for one in admin.network.agents() if one.is_alive}


def allow_ping(tenant: Connection) -> None:
    """Let the tenant's default security group take pings and ssh from anywhere."""
    # Neutron makes it when the project asks for the first time; a tenant sees its own only.
    (group,) = [one for one in tenant.network.security_groups() if one.name == "default"]
    for rule in (
        {"protocol": "icmp"},
        {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22},
    ):
        tenant.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ether_type="IPv4", **rule
        )
