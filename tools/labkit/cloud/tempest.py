"""Tempest against the lab's cloud, as an operator runs it: in a venv of its own, with this project's plugin in it."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys

from openstack.connection import Connection

from labkit import netns, process
from labkit.cloud import ini, resources, settings, trusted
from labkit.cloud.cloud import Cloud
from labkit.paths import CHECKOUT

PLUGIN = r"^nova_trusted_clone\.tempest_plugin\."
INSTALL_LIMIT_S = 600.0
# Emulated guests, beside a whole cloud.
ANSWER_LIMIT_S = 240


def install(venv: pathlib.Path) -> pathlib.Path:
    """Make a venv with tempest and the plugin, unless it is there; its program."""
    program = venv / "bin" / "tempest"
    if not program.exists():
        process.run(["/usr/bin/python3", "-m", "venv", venv], limit_s=INSTALL_LIMIT_S)
        uv: list[process.Word] = [pathlib.Path(sys.executable).with_name("uv"), "pip", "install"]
        uv += ["--python", venv / "bin" / "python", "-c", CHECKOUT / "constraints.txt"]
        # The caller may be in a network of the cloud's, which has no way to packages.
        command = [*netns.outside(), *uv, "tempest", "-e", CHECKOUT]
        process.run(command, limit_s=INSTALL_LIMIT_S, env=_for_builds())
    return program


def _for_builds() -> dict[str, str]:
    """A checkout owned by someone else is none of git's business: pbr only asks it for a version."""
    of_git = {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": str(CHECKOUT)}
    return {**os.environ, **{f"GIT_CONFIG_{name}": value for name, value in of_git.items()}}


def configure(cloud: Cloud, program: pathlib.Path) -> pathlib.Path:
    """Make a workspace for this cloud; its directory."""
    place = cloud.paths.root / "tempest"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    workspace = place / "workspace"
    # It keeps a list of its workspaces at home.
    process.run([program, "init", workspace], env={**os.environ, "HOME": str(place)})
    ini.write(workspace / "etc" / "tempest.conf", cloud.ask(lambda admin: _options(cloud, admin)))
    return workspace


def _options(cloud: Cloud, admin: Connection) -> ini.Sections:
    image = admin.image.find_image(resources.IMAGE, ignore_missing=False).id
    flavor = admin.compute.find_flavor("small", ignore_missing=False).id
    network = admin.network.find_network(resources.NETWORK, ignore_missing=False).id
    published = cloud.paths.hosts / trusted.PUBLISHED
    return {
        "DEFAULT": {"log_file": cloud.paths.log / "tempest.log"},
        "oslo_concurrency": {"lock_path": cloud.paths.root / "tempest" / "lock"},
        "auth": {
            "admin_username": settings.ADMIN,
            "admin_password": settings.PASSWORD,
            "admin_project_name": settings.ADMIN,
            "admin_domain_name": "Default",
            # There are no routers: every project uses the shared network.
            "create_isolated_networks": False,
        },
        "identity": {
            "uri_v3": settings.AUTH_URL,
            "auth_version": "v3",
            "region": settings.REGION,
        },
        "compute": {
            "image_ref": image,
            "image_ref_alt": image,
            "flavor_ref": flavor,
            "flavor_ref_alt": flavor,
            "fixed_network_name": resources.NETWORK,
            "min_compute_nodes": len(cloud.computes),
        },
        "network": {"public_network_id": network, "shared_physical_network": True},
        "network-feature-enabled": {"floating_ips": False},
        "validation": {
            "run_validation": True,
            "connect_method": "fixed",
            "network_for_ssh": resources.NETWORK,
            "ping_timeout": ANSWER_LIMIT_S,
        },
        "service_available": {
            "cinder": False,
            "swift": False,
            "horizon": False,
            "trusted_clone": True,
        },
        "trusted_clone": {
            "flavor_ref": flavor,
            "anchors_file": published / "anchors.pem",
            "policy_file": published / "policy.json",
            # The guest is a kernel with one program: it answers pings and takes no logins.
            "guest_login": False,
        },
    }


def command(cloud: Cloud, program: pathlib.Path, workspace: pathlib.Path) -> list[str]:
    """What runs the plugin's tests on the control node, one after another."""
    # Whoever enters another mount namespace is at its root.
    there = [*cloud.control.sandbox.enter(), "env", f"--chdir={workspace}"]
    return [*there, str(program), "run", "--serial", "--regex", PLUGIN]
