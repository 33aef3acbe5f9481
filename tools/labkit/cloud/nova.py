"""Nova on the control node: API, scheduler, conductor."""

from __future__ import annotations

import pathlib
from typing import Protocol

from labkit.cloud import database, ini, settings
from labkit.cloud.nodes import CloudNode, Control
from labkit.cloud.service import Service, wsgi
from labkit.process import Word

PASTE = "api-paste.ini"
NOVA_ROUTER = "nova.api.openstack.compute:APIRouterV21.factory"


class AnyNode(Protocol):
    """A node on which Nova runs, of any kind."""

    @property
    def nova(self) -> pathlib.Path:
        """Nova's ``state_path`` there."""

    @property
    def address(self) -> str:
        """Its own on the management network."""


def directory(node: CloudNode) -> pathlib.Path:
    """Where Nova's configuration files are on a node."""
    return node.conf / "nova"


def common(node: AnyNode) -> ini.Sections:
    """What every Nova service must know."""
    return {
        "DEFAULT": {
            "transport_url": settings.TRANSPORT_URL,
            "state_path": node.nova,
            "my_ip": node.address,
            # A host that died is known dead soon, as tests wait for it.
            "report_interval": 5,
            "service_down_time": 30,
        },
        "oslo_messaging_rabbit": settings.messaging(),
        "oslo_messaging_notifications": {"driver": "messagingv2"},
        "notifications": {
            "notification_format": "both",
            "notify_on_state_change": "vm_and_task_state",
        },
        "oslo_concurrency": {"lock_path": node.nova / "lock"},
        "keystone_authtoken": settings.token_check("nova"),
        "service_user": {"send_service_user_token": True, **settings.credentials("nova")},
        "placement": settings.credentials("placement"),
        "neutron": settings.credentials("neutron"),
        "glance": {"api_servers": f"http://{settings.CONTROL}:{settings.GLANCE}"},
        "key_manager": {"backend": "barbican"},
        "barbican": {"auth_endpoint": settings.AUTH_URL, "barbican_endpoint_type": "internal"},
        "barbican_service_user": {
            "send_service_user_token": True,
            **settings.credentials("nova"),
        },
        "upgrade_levels": {"compute": "auto"},
    }


def configure(control: Control, router: str, *further: ini.Sections) -> None:
    """Write the configuration.

    :param router: what the paste pipeline ends in: Nova's own router, or one that adds to it
    :param further: sections of who else reads this file
    """
    place = directory(control)
    (place / "policy.d").mkdir(parents=True)
    ini.write(
        place / "nova.conf",
        common(control),
        {
            "DEFAULT": {"osapi_compute_workers": 1},
            "api": {"auth_strategy": "keystone"},
            "wsgi": {"api_paste_config": place / PASTE},
            "api_database": {
                "connection": settings.database_url("nova_api"),
                "max_pool_size": 8,
            },
            "database": {
                "connection": settings.database_url("nova_cell1"),
                "max_pool_size": 8,
            },
            "conductor": {"workers": 1},
            "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 5},
            # A host on which something failed, as tests have it, is no worse for what comes next.
            "filter_scheduler": {"build_failure_weight_multiplier": 0},
            "oslo_policy": {"policy_dirs": place / "policy.d"},
        },
        *further,
    )
    _write_paste(place, router)


def _write_paste(place: pathlib.Path, router: str) -> None:
    shipped = (settings.SHARED_CONFIG / "nova" / PASTE).read_text()
    if NOVA_ROUTER not in shipped:
        raise ValueError(f"nova's {PASTE} does not name {NOVA_ROUTER}")
    (place / PASTE).write_text(shipped.replace(NOVA_ROUTER, router))


def config_file(control: Control) -> tuple[Word, ...]:
    """The words that name the control node's configuration file."""
    return ("--config-file", directory(control) / "nova.conf")


def make_database(control: Control) -> None:
    """Its tables and its two cells."""
    manage = (settings.BIN / "nova-manage", *config_file(control))
    cell0 = settings.database_url("nova_cell0")
    database.fill(
        control,
        [
            (*manage, "api_db", "sync"),
            (*manage, "cell_v2", "map_cell0", "--database_connection", cell0),
            (*manage, "db", "sync"),
            (*manage, "cell_v2", "create_cell", "--name", "cell1"),
        ],
    )


def api(control: Control) -> Service:
    """The API."""
    environment = {
        "OS_NOVA_CONFIG_DIR": str(directory(control)),
        "OS_NOVA_CONFIG_FILES": f"{PASTE};nova.conf",
    }
    module = ("--module", "nova.wsgi.osapi_compute:application")
    return wsgi(control, "nova-api", settings.NOVA, module, environment)


def services(control: Control) -> tuple[Service, ...]:
    """All of Nova that runs on the control node."""
    words = config_file(control)
    return (
        Service("nova-conductor", control, (settings.BIN / "nova-conductor", *words)),
        Service("nova-scheduler", control, (settings.BIN / "nova-scheduler", *words)),
        api(control),
    )
