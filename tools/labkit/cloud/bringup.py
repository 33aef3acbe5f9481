"""From nothing to a cloud: the steps, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from openstack.connection import Connection

from labkit import hardware_tpm, process
from labkit.cloud import (
    barbican,
    clients,
    compute,
    database,
    glance,
    identity,
    ini,
    keystone,
    messaging,
    network,
    neutron,
    nova,
    placement,
    resources,
    settings,
    ssh,
    steps,
    switch,
    trusted,
)
from labkit.cloud.nodes import CloudNode, Compute, Control
from labkit.cloud.steps import Step
from labkit.errors import LabError
from labkit.guest import bootdisk
from labkit.lab import Report
from labkit.paths import LabPaths

if TYPE_CHECKING:
    from labkit.cloud.cloud import Cloud

# More than there are processors: much of a start is waiting.
WORKERS = 6
# The step after which every host has its TPM.
HOST_TPMS = "host-tpms"
AGENTS_LIMIT_S = 300.0
POLL_S = 0.5


def run(cloud: Cloud, report: Report) -> None:
    """Do all of it."""
    steps.run(plan(cloud), report, WORKERS)


class AnyCloud(Protocol):
    """What the steps of the control node need to know of a cloud; which hosts it has is not theirs."""

    @property
    def paths(self) -> LabPaths:
        """Its place."""

    @property
    def control(self) -> Control:
        """Its control node."""

    @property
    def plain(self) -> bool:
        """Whether Nova is as it is released."""

    @property
    def control_options(self) -> ini.Sections:
        """What its Nova has another way on the control node."""

    def ask(self, question: Callable[[Connection], Any]) -> Any:
        """What ``question`` returns for the administrator's connection."""

    def enrol(self) -> None:
        """Make the operator's authority and certify the hosts."""


def plan(cloud: Cloud) -> list[Step]:
    """All the steps."""
    return [
        *ground(cloud),
        *_hosts(cloud),
        *services(cloud.control),
        *nova_services(cloud),
        *neutron_services(cloud, cloud.cloud_nodes),
        *_computes(cloud),
        *wares(cloud),
        *_resources(cloud),
    ]


def ground(cloud: AnyCloud) -> list[Step]:
    """The control node's namespaces, the database server and the broker."""
    return [
        Step("control", partial(_control, cloud), (), "control: namespaces, networks"),
        Step("database", partial(_database, cloud.control), ("control",), "MariaDB"),
        Step("broker", partial(_broker, cloud.control), ("control",), "RabbitMQ, memcached"),
    ]


def _hosts(cloud: Cloud) -> list[Step]:
    """Namespaces, TPMs, libvirt."""
    hosts = [
        Step(host.name, partial(_host, cloud.control, host), ("control",))
        for host in cloud.computes
    ]
    return [
        *hosts,
        Step(
            HOST_TPMS,
            _nothing,
            tuple(host.name for host in hosts),
            "host-a, host-b: TPM, libvirtd",
        ),
    ]


def _nothing() -> None:
    """A step that only waits for others."""


def _control(cloud: AnyCloud) -> None:
    control = cloud.control
    hardware_tpm.make_vendor(cloud.paths.vendor_ca)
    control.up()
    network.make_bridges(control)
    for configure in (
        messaging.configure,
        keystone.configure,
        placement.configure,
        glance.configure,
        barbican.configure,
        neutron.configure_server,
        neutron.configure_agents,
        clients.write_clouds,
    ):
        configure(control)
    if cloud.plain:
        nova.configure(control, nova.NOVA_ROUTER)
    else:
        options = trusted.control_options(control)
        nova.configure(control, trusted.ROUTER, options, cloud.control_options)


def _database(control: Control) -> None:
    database.install(control)
    database.service(control).start()
    database.create(control)


def _broker(control: Control) -> None:
    messaging.memcached(control).start()
    messaging.rabbitmq(control).start()


def _host(control: Control, host: Compute) -> None:
    host.up(hardware_tpm.vendor_config(host.paths.vendor_ca))
    network.connect(control, host)
    neutron.configure_agents(host)


def services(control: Control) -> list[Step]:
    """Keystone, and what needs nothing but it."""
    made = [Step("keystone", partial(_keystone, control), ("database", "broker"), "Keystone")]
    for part in (placement, glance, barbican):
        name = part.__name__.rpartition(".")[2]
        made += [
            Step(f"{name}-tables", partial(part.make_database, control), ("database",)),
            Step(
                name,
                part.service(control).start,
                ("identity", f"{name}-tables"),
                name.capitalize(),
            ),
        ]
    return made


def _keystone(control: Control) -> None:
    keystone.make_database(control)
    keystone.service(control).start()


def nova_services(cloud: AnyCloud) -> list[Step]:
    """Nova's, and identity, which is among them as it is made by openstacksdk, through a connection of the cloud's."""
    control = cloud.control
    conductor, scheduler, api = nova.services(control)
    made = [
        Step("identity", partial(cloud.ask, identity.set_up), ("keystone",), "users, endpoints"),
        Step("nova-tables", partial(nova.make_database, control), ("database",)),
        # Unlike the others it asks Keystone at its start, once: it would end with the answer that nobody knows it.
        Step("nova-conductor", conductor.start, ("nova-tables", "broker", "identity")),
        Step("nova-scheduler", scheduler.start, ("nova-tables", "broker", "identity")),
        Step("nova-api", api.start, ("nova-tables", "broker", "identity"), "Nova"),
    ]
    if not cloud.plain:
        made += [
            Step("trusted-tables", partial(trusted.make_database, control), ("database",)),
            Step("enrolment", cloud.enrol, (HOST_TPMS,), "both hosts enrolled"),
            Step(
                "trusted-conductor",
                trusted.conductor(control).start,
                ("trusted-tables", "nova-tables", "broker", "enrolment"),
                "the conductor of clones",
            ),
        ]
    return made


def neutron_services(cloud: AnyCloud, nodes: Sequence[CloudNode]) -> list[Step]:
    """Neutron's server, and a switch with its agents on each of ``nodes``."""
    control = cloud.control
    rpc, api, periodic = neutron.server_services(control)
    made = [
        Step("neutron-tables", partial(neutron.make_database, control), ("database",)),
        Step("neutron-rpc", rpc.start, ("neutron-tables", "broker", "identity")),
        Step("neutron", api.start, ("neutron-tables", "broker", "identity"), "Neutron"),
        Step("neutron-periodic", periodic.start, ("neutron",)),
    ]
    for node in nodes:
        made.append(Step(f"switch-{node.name}", partial(switch.up, node), (node.name,)))
        # An agent that begins before its server answers waits a minute for the lost call.
        needs = (f"switch-{node.name}", "neutron-rpc", "neutron")
        made.append(Step(f"agents-{node.name}", partial(_start_agents, node), needs))
    return made


def _start_agents(node: CloudNode) -> None:
    for agent in neutron.agent_services(node):
        agent.start()


def _computes(cloud: Cloud) -> list[Step]:
    needs = ["identity", "placement", "neutron-asked", "nova-conductor"]
    needs += [] if cloud.plain else ["enrolment", "trusted-conductor"]
    hosts = tuple(host.name for host in cloud.computes)
    return [
        Step("ssh", partial(_start_ssh, cloud), hosts),
        *(
            Step(
                f"compute-{host.name}",
                partial(_start_compute, host, cloud.plain),
                (host.name, f"switch-{host.name}", *needs),
            )
            for host in cloud.computes
        ),
    ]


def _start_ssh(cloud: Cloud) -> None:
    ssh.configure(cloud.computes)
    for host in cloud.computes:
        ssh.start(host)


def _start_compute(host: Compute, plain: bool) -> None:
    compute.configure(host, *([] if plain else [trusted.compute_options(host)]))
    switch.watch(host).start()
    compute.service(host).start()


def wares(cloud: AnyCloud) -> list[Step]:
    """What a cloud of any hosts offers."""
    return [
        Step("flavors", partial(cloud.ask, resources.make_flavors), ("nova-api",)),
        Step("neutron-asked", partial(cloud.ask, resources.ask_neutron), ("neutron",)),
    ]


def _resources(cloud: Cloud) -> list[Step]:
    computes = [f"compute-{host.name}" for host in cloud.computes]
    agents = [f"agents-{node.name}" for node in cloud.cloud_nodes]
    made = [
        Step("image", partial(_upload_image, cloud), ("glance",), "image"),
        # Made before both agents of its node live, it would get no DHCP, or a port that is bound to nothing, and keep that.
        Step(
            "lan",
            partial(_make_network, cloud),
            ("neutron-asked", f"agents-{cloud.control.name}"),
        ),
        Step(
            "hosts-known",
            partial(_wait_for_hosts, cloud),
            ("nova-api", "lan", *computes, *agents),
            "both hosts and all agents are known, DHCP serves",
        ),
    ]
    for tenant in settings.TENANTS:
        work = partial(cloud.ask, resources.allow_ping, user=tenant)
        made.append(Step(f"groups-{tenant}", work, ("lan",)))
    return made


def _upload_image(cloud: Cloud) -> None:
    disk = bootdisk.build(cloud.paths.cache)
    cloud.ask(lambda admin: resources.upload_image(admin, disk))


def _make_network(cloud: Cloud) -> None:
    """Make the network once the agents that serve it live.

    :raises LabError: when they do not come
    """
    wanted = {(kind, cloud.control.name) for kind in ("Open vSwitch agent", "DHCP agent")}

    def made(admin: Connection) -> bool:
        if not process.wait_until(
            lambda: wanted <= resources.living_agents(admin), AGENTS_LIMIT_S, POLL_S
        ):
            return False
        resources.make_network(admin)
        return True

    if not cloud.ask(made):
        raise LabError(
            f"after {AGENTS_LIMIT_S:g} s the agents of {cloud.control.name} are not there"
        )


def _wait_for_hosts(cloud: Cloud) -> None:
    """Until the scheduler can place servers on both hosts and every agent has told of itself.

    :raises LabError: naming what is missing
    """
    missing: list[str] = []

    def complete(admin: Connection) -> bool:
        missing[:] = _missing(cloud, admin)
        return not missing

    found = cloud.ask(
        lambda admin: process.wait_until(lambda: complete(admin), AGENTS_LIMIT_S, POLL_S)
    )
    if not found:
        raise LabError(f"not there after {AGENTS_LIMIT_S:g} s: {', '.join(missing)}")


def _missing(cloud: Cloud, admin: Connection) -> list[str]:
    hypervisors = {one.name for one in admin.compute.hypervisors()}
    agents = resources.living_agents(admin)
    wanted = {("Open vSwitch agent", node.name) for node in cloud.nodes}
    wanted.add(("DHCP agent", cloud.control.name))
    served = any(
        port.status == "ACTIVE" for port in admin.network.ports(device_owner="network:dhcp")
    )
    return [
        *(f"hypervisor {host.name}" for host in cloud.hosts if host.name not in hypervisors),
        *(f"{kind} on {name}" for kind, name in sorted(wanted - agents)),
        *([] if served else [f"DHCP on network {resources.NETWORK}"]),
    ]
