"""Addresses, ports and names in the lab's cloud. It is reachable only from inside of its own network namespaces."""

from __future__ import annotations

import pathlib
import sys

# -- places --
BIN = pathlib.Path(sys.executable).parent
# The releases' own sample files (paste pipelines) are installed there by pip.
SHARED_CONFIG = BIN.parent / "etc"

# -- the management network --
CONTROL = "10.77.0.100"
HOST_A = "10.77.0.1"
HOST_B = "10.77.0.2"
PREFIX_LENGTH = 24

# -- the provider network, on which guests are --
PHYSICAL_NETWORK = "data"
GATEWAY = "10.88.0.1"
LAN = "10.88.0.0/24"
LAN_POOL = ("10.88.0.20", "10.88.0.250")
VLANS = (100, 199)

# -- ports of the control node --
MARIADB = 3306
RABBITMQ = 5672
MEMCACHED = 11211
KEYSTONE = 5000
PLACEMENT = 8778
GLANCE = 9292
NOVA = 8774
NEUTRON = 9696
BARBICAN = 9311
HORIZON = 8000

# -- who --
REGION = "RegionOne"
# One for all: who gets at it is root on this machine already. Long enough to be found wherever it is told.
PASSWORD = "known-to-this-lab-alone"
SERVICE_USERS = ("nova", "glance", "neutron", "placement", "barbican")
ADMIN = "admin"
# Projects of tenants, each with a user of its name.
TENANTS = ("demo", "other")

MEMCACHED_SERVERS = f"{CONTROL}:{MEMCACHED}"
TRANSPORT_URL = f"rabbit://guest:guest@{CONTROL}:{RABBITMQ}/"
AUTH_URL = f"http://{CONTROL}:{KEYSTONE}/v3"
# Service type, user, address.
ENDPOINTS = (
    ("compute", "nova", f"http://{CONTROL}:{NOVA}/v2.1"),
    ("image", "glance", f"http://{CONTROL}:{GLANCE}"),
    ("network", "neutron", f"http://{CONTROL}:{NEUTRON}"),
    ("placement", "placement", f"http://{CONTROL}:{PLACEMENT}"),
    ("key-manager", "barbican", f"http://{CONTROL}:{BARBICAN}"),
)


def database_url(name: str) -> str:
    """Of the database ``name``, for SQLAlchemy."""
    return f"mysql+pymysql://cloud:{PASSWORD}@{CONTROL}:{MARIADB}/{name}?charset=utf8"


def credentials(user: str) -> dict[str, str]:
    """How a service's user proves itself to Keystone, for a section of keystoneauth's."""
    return {
        "auth_type": "password",
        "auth_url": AUTH_URL,
        "username": user,
        "password": PASSWORD,
        "project_name": "service",
        "user_domain_id": "default",
        "project_domain_id": "default",
        "region_name": REGION,
    }


def token_check(user: str) -> dict[str, str]:
    """Section ``keystone_authtoken`` of an API."""
    return {
        "www_authenticate_uri": AUTH_URL,
        "memcached_servers": MEMCACHED_SERVERS,
        "service_token_roles_required": "true",
        **credentials(user),
    }


def messaging() -> dict[str, str]:
    """Section ``oslo_messaging_rabbit``: a broker that was away is found again within a second or two."""
    return {
        "rabbit_retry_interval": "1",
        "rabbit_retry_backoff": "1",
        "rabbit_interval_max": "2",
        "kombu_reconnect_delay": "0.5",
    }
