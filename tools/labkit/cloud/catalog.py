"""Every program of the cloud, by its name: so that one can be looked at and restarted by a later command."""

from __future__ import annotations

from labkit.cloud import (
    barbican,
    compute,
    database,
    glance,
    horizon,
    keystone,
    messaging,
    neutron,
    nova,
    placement,
    ssh,
    switch,
    trusted,
)
from labkit.cloud.nodes import CloudNode, Compute, Control
from labkit.cloud.service import Service
from labkit.errors import LabError


def services(control: Control, hosts: tuple[Compute, ...]) -> tuple[Service, ...]:
    """All that may run, whether it does or not; the control node's first."""
    return (*_control(control), *(one for host in hosts for one in _host(host)))


def _control(control: Control) -> tuple[Service, ...]:
    return (
        database.service(control),
        messaging.rabbitmq(control),
        messaging.memcached(control),
        keystone.service(control),
        placement.service(control),
        glance.service(control),
        barbican.service(control),
        *neutron.server_services(control),
        *nova.services(control),
        trusted.conductor(control),
        horizon.service(control),
        *_node(control),
    )


def _host(host: Compute) -> tuple[Service, ...]:
    return (*_node(host), ssh.service(host), switch.watch(host), compute.service(host))


def _node(node: CloudNode) -> tuple[Service, ...]:
    return (*switch.services(node), *neutron.agent_services(node))


def find(known: tuple[Service, ...], name: str) -> Service:
    """The service of that name.

    :raises LabError: with all the names, when there is none
    """
    for service in known:
        if service.name == name:
            return service
    names = ", ".join(service.name for service in known)
    raise LabError(f"there is no service {name!r}; there are: {names}")
