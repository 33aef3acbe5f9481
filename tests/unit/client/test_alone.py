"""A laptop has what the extra ``client`` names and no nova: the commands load and verify there.

The laptop is made of links into this environment, of what the requirements name and what that
requires, so that it needs no network.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.client.conftest import VECTOR

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = ("requirements.txt", "client-requirements.txt")
# What a tenant has no use for, and what would make the installation slow or fail.
HEAVY = (
    "alembic",
    "eventlet",
    "libvirt-python",
    "nova",
    "numpy",
    "oslo-db",
    "oslo-messaging",
    "oslo-policy",
    "oslo-privsep",
    "oslo-service",
    "pyfuse3",
    "sqlalchemy",
    "tpm2-pytss",
    "trio",
)


def named(file: str) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


@functools.cache
def needed() -> dict[str, importlib.metadata.Distribution]:
    """What pip would install beside the package, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = [requirement for file in FILES for requirement in named(file)]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(found[name].version, prereleases=True), requirement
        todo += [Requirement(text) for text in found[name].requires or ()]
    return found


def link(distribution: importlib.metadata.Distribution, laptop: pathlib.Path) -> None:
    for file in distribution.files or ():
        top = file.parts[0]
        at = laptop / top
        if top not in ("..", "__pycache__") and not at.is_symlink():
            at.symlink_to(pathlib.Path(str(distribution.locate_file(top))))


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory of packages."""
    directory = tmp_path_factory.mktemp("laptop")
    for distribution in needed().values():
        link(distribution, directory)
    (directory / "nova_trusted_clone").symlink_to(ROOT / "nova_trusted_clone")
    told = directory / "nova_trusted_clone-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: nova-trusted-clone\nVersion: 1\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {at}" for name, at in points.items())]
    (told / "entry_points.txt").write_text("\n".join(lines))
    return directory


def openstack(laptop: pathlib.Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    # Isolated and without site: nothing of this environment but the laptop's packages.
    code = (
        f"import sys; sys.path.insert(0, {str(laptop)!r})\n"
        "from openstackclient import shell\n"
        "status = shell.main(sys.argv[1:])\n"
        "heavy = {'nova', 'libvirt', 'oslo_messaging', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    home = {"HOME": str(laptop), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=home, cwd=laptop, timeout=120
    )


@pytest.mark.parametrize("name", HEAVY)
def test_nothing_heavy_is_required(name: str):
    assert name not in needed()


def test_the_command_is_there(laptop: pathlib.Path):
    done = openstack(laptop, "server", "clone", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert "--count" in done.stdout


def test_evidence_is_verified_without_cloud_and_nova(laptop: pathlib.Path):
    recorded = json.loads(VECTOR.read_text())
    (laptop / "evidence").write_text(json.dumps(recorded["evidence"]))
    for name in ("anchors", "policy"):
        (laptop / name).write_text(recorded[name])
    words = ("evidence", "--ca", "anchors", "--policy", "policy")
    nonce = ("--nonce", recorded["tenant_nonce"])
    done = openstack(laptop, "server", "clone", "evidence", "verify", *words, *nonce, "-f", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holds"] is True
