"""``pip install nova-trusted-clone[client]`` into an empty environment, from the package registry."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
VECTOR = ROOT / "tests" / "vectors" / "exchange-1-new.json"
UV = pathlib.Path(sys.executable).with_name("uv")


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A virtual environment with the client in it."""
    venv = tmp_path_factory.mktemp("laptop") / "venv"
    made = run(UV, "venv", "-p", sys.executable, venv)
    assert made.returncode == 0, made.stderr
    at = ("-p", venv / "bin" / "python", "-c", ROOT / "constraints.txt")
    installed = run(UV, "pip", "install", *at, f"{ROOT}[client]")
    assert installed.returncode == 0, installed.stderr
    return venv / "bin"


def test_no_nova_comes_along(laptop: pathlib.Path):
    listed = run(UV, "pip", "list", "-p", laptop / "python", "--format", "json")
    names = {row["name"] for row in json.loads(listed.stdout)}
    assert "nova-trusted-clone" in names
    assert not names & {"nova", "libvirt-python", "oslo-messaging", "sqlalchemy", "pyfuse3", "trio"}


def test_the_command_is_there(laptop: pathlib.Path):
    done = run(laptop / "openstack", "server", "clone", "--help")
    assert done.returncode == 0, done.stderr
    assert "This command is provided by the nova-trusted-clone plugin." in done.stdout


def test_recorded_evidence_is_verified(laptop: pathlib.Path, tmp_path: pathlib.Path):
    recorded = json.loads(VECTOR.read_text())
    (tmp_path / "evidence").write_text(json.dumps(recorded["evidence"]))
    for name in ("anchors", "policy"):
        (tmp_path / name).write_text(recorded[name])
    files = (tmp_path / "evidence", "--ca", tmp_path / "anchors", "--policy", tmp_path / "policy")
    nonce = ("--nonce", recorded["tenant_nonce"])
    verify = (laptop / "openstack", "server", "clone", "evidence", "verify")
    done = run(*verify, *files, *nonce, "-f", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holds"] is True
