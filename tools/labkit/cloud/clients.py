"""How people and tests speak to the cloud: a clouds.yaml, an environment, a connection of openstacksdk's."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import TypeVar

from openstack.config import OpenStackConfig
from openstack.connection import Connection

from labkit import netns
from labkit.cloud import settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import base_environment

T = TypeVar("T")


def clouds_file(control: Control) -> pathlib.Path:
    """Where ``write_clouds`` puts it."""
    return control.conf / "clouds.yaml"


def write_clouds(control: Control) -> None:
    """Write a clouds.yaml (all JSON is YAML) with a cloud for the administrator and one for each tenant."""
    clouds = {user: _cloud(user) for user in (settings.ADMIN, *settings.TENANTS)}
    clouds_file(control).write_text(json.dumps({"clouds": clouds}, indent=2))


def _cloud(user: str) -> dict[str, object]:
    return {
        "auth": {
            "auth_url": settings.AUTH_URL,
            "username": user,
            "password": settings.PASSWORD,
            "project_name": user,
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
        "region_name": settings.REGION,
        "identity_api_version": "3",
    }


def environment(control: Control, user: str = settings.ADMIN) -> dict[str, str]:
    """For a shell on the control node in which ``openstack`` works, and knows what evidence is verified with."""
    operator = control.paths.hosts / "operator"
    return {
        **base_environment(control),
        "OS_CLIENT_CONFIG_FILE": str(clouds_file(control)),
        "OS_CLOUD": user,
        "OS_TRUSTED_CLONE_CA": str(operator / "anchors.pem"),
        "OS_TRUSTED_CLONE_POLICY": str(operator / "policy.json"),
    }


def connect(control: Control, user: str = settings.ADMIN) -> Connection:
    """A connection as ``user``; to be made and used by a thread in the control node's network namespace (``netns``)."""
    files = OpenStackConfig(config_files=[str(clouds_file(control))], load_envvars=False)
    return Connection(config=files.get_one(user))


def ask(control: Control, question: Callable[[Connection], T], user: str = settings.ADMIN) -> T:
    """What ``question`` returns for a connection as ``user``, in the control node's network namespace."""

    def work() -> T:
        connection = connect(control, user)
        try:
            return question(connection)
        finally:
            connection.close()

    return netns.call(control.sandbox.holder.pid, work)
