"""nova-compute on a host."""

from __future__ import annotations

import pathlib

from labkit.cloud import ini, nova, rights, settings, switch
from labkit.cloud.nodes import Compute
from labkit.cloud.service import Service
from labkit.process import Word

CONFIG = "nova-compute.conf"
PLAIN_DRIVER = "libvirt.LibvirtDriver"
# Each is a helper process of its own; where nova-compute is root it starts them itself.
PRIVILEGED = (
    "nova_sys_admin",
    "vif_plug_ovs_privileged",
    "vif_plug_linux_bridge_privileged",
    "privsep_osbrick",
)


def config_file(host: Compute) -> pathlib.Path:
    """What nova-compute reads."""
    return nova.directory(host) / CONFIG


def _seen_config_file(host: Compute) -> pathlib.PurePath:
    """The same, as the host sees it: nova-rootwrap starts a daemon for configuration in /etc only."""
    return rights.CONFIG / CONFIG if host.installed else config_file(host)


def configure(host: Compute, *further: ini.Sections) -> None:
    """Write the configuration; it knows no database.

    :param further: sections that another driver wants
    """
    path = config_file(host)
    for name in ("lock", "instances"):
        (host.nova_files / name).mkdir(exist_ok=True)
    own = _installed(host) if host.installed else _all_root(path)
    ini.write(path, nova.common(host), _compute(host), own, *further)
    if host.installed:
        rights.configure_rootwrap(path.parent)
        rights.give(rights.NOVA_ID, host.nova_files)


def _installed(host: Compute) -> ini.Sections:
    """Nothing is said of users and daemons: as Nova is released. os-vif's side of Open vSwitch is not root."""
    return {"os_vif_ovs": {"ovsdb_connection": switch.LOOPBACK}}


def _all_root(path: pathlib.Path) -> ini.Sections:
    helper = f"{settings.BIN / 'privsep-helper'} --config-file {path}"
    return {
        **{name: {"helper_command": helper} for name in PRIVILEGED},
        "libvirt": {"swtpm_user": "root", "swtpm_group": "root"},
        "os_vif_ovs": {"ovsdb_connection": switch.CONNECTION},
    }


def _compute(host: Compute) -> ini.Sections:
    return {
        "DEFAULT": {
            "host": host.name,
            "compute_driver": PLAIN_DRIVER,
            "force_raw_images": True,
            "vif_plugging_is_fatal": True,
            "resume_guests_state_on_host_boot": False,
            # Three nodes share one machine: each is told that it has more than there is.
            "reserved_host_memory_mb": 256,
            "ram_allocation_ratio": 2,
            "cpu_allocation_ratio": 16,
            # The lab's guest does not hear of the power button: what waits for it waits in vain.
            "shutdown_timeout": 3,
            "graceful_shutdown_timeout": 5,
            "manager_shutdown_timeout": 3,
        },
        "compute": {"live_migration_wait_for_vif_plug": False},
        "libvirt": {
            "connection_uri": host.uri,
            "virt_type": "qemu",
            "cpu_mode": "none",
            "hw_machine_type": "x86_64=q35",
            "images_type": "qcow2",
            "live_migration_scheme": "tcp",
            "live_migration_inbound_addr": host.address,
            "swtpm_enabled": True,
        },
        "vnc": {
            "enabled": True,
            "server_listen": "0.0.0.0",
            "server_proxyclient_address": host.address,
        },
    }


def service(host: Compute) -> Service:
    """The program."""
    command: tuple[Word, ...] = (
        *(rights.as_nova() if host.installed else ()),
        settings.BIN / "nova-compute",
        "--config-file",
        _seen_config_file(host),
    )
    environment = {"HOME": str(host.nova)} if host.installed else {}
    return Service(f"nova-compute-{host.name}", host, command, environment=environment)
