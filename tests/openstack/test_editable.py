"""nova-compute with Nova installed from a source tree, as DevStack and developers have it, and as a wheel."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

import pytest
from labkit import netns, process
from labkit.cloud import settings
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from labkit.paths import CHECKOUT

from tests.openstack import configured
from tests.openstack.tenant import Tenant

PLACE = CHECKOUT / ".lab" / "editable-nova"
START_LIMIT_S = 120.0
CAN = "This host can receive trusted clones."
ASK = "import nova; print(nova.__file__)"


@pytest.fixture(scope="module")
def editable() -> Iterator[pathlib.Path]:
    """The ``bin`` of an environment that is this one but for Nova, which is a source tree of the same release."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    try:
        yield _make()
    finally:
        shutil.rmtree(PLACE)


def _make() -> pathlib.Path:
    own = settings.BIN.parent
    release = metadata.version("nova")
    download = ("download", "--no-deps", "--no-binary", "nova", f"nova=={release}")
    pip = [*netns.outside(), sys.executable, "-m", "pip", "-q"]
    process.run([*pip, *download, "-d", PLACE], limit_s=300)
    archive = PLACE / f"nova-{release}.tar.gz"
    process.run(["tar", "--extract", "--file", archive, "--directory", PLACE])
    venv = PLACE / "venv"
    # Files of one file system under two names: neither copied nor changed, only taken away and added to.
    process.run(["cp", "--archive", "--link", own, venv])
    uv = (own / "bin" / "uv", "pip")
    python = ("--python", venv / "bin" / "python")
    process.run([*uv, "uninstall", *python, "nova"])
    install = ("install", *python, "--no-deps", "-e", PLACE / f"nova-{release}")
    process.run(
        [*netns.outside(), *uv, *install], limit_s=300, env={**os.environ, "PBR_VERSION": release}
    )
    return venv / "bin"


def nova_of(program: pathlib.Path) -> pathlib.Path:
    """From where a python imports Nova."""
    words = [program / "python", "-c", ASK]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/")
    return pathlib.Path(done.stdout.strip())


@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_nova_compute_finds_the_driver_and_receives_a_clone(
    cloud: Cloud, web: Server, tmp_path: pathlib.Path, request: pytest.FixtureRequest, kind: str
) -> None:
    program = request.getfixturevalue("editable") if kind == "editable" else settings.BIN
    assert nova_of(program).is_relative_to(PLACE if kind == "editable" else settings.BIN.parent)
    (host,) = [one for one in cloud.computes if one.name != web.host.name]
    usual = cloud.service(f"nova-compute-{host.name}")
    words = tuple(
        program / "nova-compute" if word == settings.BIN / "nova-compute" else word
        for word in usual.command
    )
    service = dataclasses.replace(usual, command=words)
    seen = len(service.log.read_bytes())

    def said() -> str:
        return service.log.read_bytes()[seen:].decode(errors="replace")

    usual.stop()
    service.start()
    try:
        assert process.wait_until(lambda: CAN in said(), START_LIMIT_S), said()[-3000:]
        assert "Loading compute driver 'trusted_clone.LibvirtDriver'" in said()
        tenant = Tenant(cloud, tmp_path)
        asked = ("server", "clone", web.id, "--name", kind, "--wait", "-f", "json")
        (row,) = tenant.openstack(*asked).ok().json()
        made = Server(cloud, web.client, web.admin, row["Server ID"])
        assert made.host.name == host.name
        made.delete()
    finally:
        service.stop()
        configured.restart(cloud, (host,))
