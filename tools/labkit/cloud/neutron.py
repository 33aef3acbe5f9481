"""Neutron: networks, addresses, security groups. Its server and DHCP on the control node, an agent of the switch on each."""

from __future__ import annotations

import pathlib
import shutil

from labkit.cloud import database, ini, settings, switch
from labkit.cloud.nodes import CloudNode, Control
from labkit.cloud.service import Service, wsgi
from labkit.process import Word

PASTE = "api-paste.ini"
# Each is a helper process of its own, started as root already.
PRIVILEGED = (
    "privsep",
    "privsep_ovs_vsctl",
    "privsep_namespace",
    "privsep_conntrack",
    "privsep_link",
    "privsep_dhcp_release",
)


def _directory(node: CloudNode) -> pathlib.Path:
    return node.conf / "neutron"


def _data(node: CloudNode) -> pathlib.Path:
    return node.data / "neutron"


def _common(node: CloudNode) -> ini.Sections:
    """What the server and every agent must know."""
    (_data(node) / "lock").mkdir(parents=True, exist_ok=True)
    return {
        "DEFAULT": {
            "transport_url": settings.TRANSPORT_URL,
            "state_path": _data(node),
            "host": node.name,
        },
        "oslo_messaging_rabbit": settings.messaging(),
        "oslo_concurrency": {"lock_path": _data(node) / "lock"},
    }


def configure_server(control: Control) -> None:
    """Write the server's configuration: VLANs for tenants, one flat network that the operator shares."""
    directory = _directory(control)
    first, last = settings.VLANS
    server: ini.Sections = {
        "DEFAULT": {
            "core_plugin": "ml2",
            "service_plugins": "",
            "auth_strategy": "keystone",
            "notify_nova_on_port_status_changes": True,
            "notify_nova_on_port_data_changes": True,
            "send_events_interval": 1,
            "api_paste_config": directory / PASTE,
            "rpc_workers": 1,
            "rpc_state_report_workers": 0,
            "dhcp_agents_per_network": 1,
        },
        "database": {"connection": settings.database_url("neutron"), "max_pool_size": 8},
        "keystone_authtoken": settings.token_check("neutron"),
        "nova": settings.credentials("nova"),
        "placement": settings.credentials("placement"),
    }
    plugin: ini.Sections = {
        "ml2": {
            "type_drivers": "flat,vlan",
            "tenant_network_types": "vlan",
            "mechanism_drivers": "openvswitch",
            "extension_drivers": "port_security",
        },
        "ml2_type_flat": {"flat_networks": settings.PHYSICAL_NETWORK},
        "ml2_type_vlan": {"network_vlan_ranges": f"{settings.PHYSICAL_NETWORK}:{first}:{last}"},
    }
    ini.write(directory / "neutron.conf", _common(control), server)
    ini.write(directory / "ml2_conf.ini", plugin)
    shutil.copy(settings.SHARED_CONFIG / "neutron" / PASTE, directory / PASTE)


def _server_files(control: Control) -> tuple[Word, ...]:
    directory = _directory(control)
    return (
        *("--config-file", directory / "neutron.conf"),
        *("--config-file", directory / "ml2_conf.ini"),
    )


def make_database(control: Control) -> None:
    """Its tables."""
    manage = [settings.BIN / "neutron-db-manage", *_server_files(control), "upgrade", "heads"]
    database.fill(control, [manage])


def server_services(control: Control) -> tuple[Service, ...]:
    """The API, and beside it what talks to the agents and what does periodic work."""
    environment = {
        "OS_NEUTRON_CONFIG_DIR": str(_directory(control)),
        "OS_NEUTRON_CONFIG_FILES": "neutron.conf;ml2_conf.ini",
    }
    module = ("--module", "neutron.wsgi.api:application")
    files = _server_files(control)
    return (
        Service("neutron-rpc-server", control, (settings.BIN / "neutron-rpc-server", *files)),
        wsgi(control, "neutron-api", settings.NEUTRON, module, environment),
        Service(
            "neutron-periodic-workers",
            control,
            (settings.BIN / "neutron-periodic-workers", *files),
        ),
    )


def configure_agents(node: CloudNode) -> None:
    """Write what the node's agents read, the switch's and (on the control node) DHCP's."""
    path = _directory(node) / "agents.conf"
    helper = f"{settings.BIN / 'privsep-helper'} --config-file {path}"
    dnsmasq = _directory(node) / "dnsmasq.conf"
    ini.write(
        path,
        _common(node),
        {
            # A veth: an interface of a switch in user space cannot be moved to the network's namespace.
            "DEFAULT": {
                "interface_driver": "openvswitch",
                "ovs_use_veth": True,
                "dnsmasq_config_file": dnsmasq,
            },
            # They are root already.
            "agent": {"root_helper": "env", "root_helper_daemon": None, "polling_interval": 1},
            "ovs": {
                "bridge_mappings": f"{settings.PHYSICAL_NETWORK}:{switch.DATA_BRIDGE}",
                "datapath_type": switch.DATAPATH,
                "integration_bridge": switch.INTEGRATION,
                "ovsdb_connection": switch.CONNECTION,
            },
            "securitygroup": {"enable_security_group": True, "firewall_driver": "openvswitch"},
        },
        {name: {"helper_command": helper} for name in PRIVILEGED},
    )
    # It would read its files as "nobody", who may not enter the lab's directory.
    dnsmasq.write_text("user=root\n")


def agent_services(node: CloudNode) -> tuple[Service, ...]:
    """The agent of the switch; on the control node also the one for DHCP."""
    files = ("--config-file", _directory(node) / "agents.conf")
    agents = [
        Service(
            f"neutron-ovs-agent-{node.name}",
            node,
            (settings.BIN / "neutron-openvswitch-agent", *files),
        )
    ]
    if isinstance(node, Control):
        agents.append(
            Service("neutron-dhcp-agent", node, (settings.BIN / "neutron-dhcp-agent", *files))
        )
    return tuple(agents)
