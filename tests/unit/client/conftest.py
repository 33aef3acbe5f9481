"""A cloud on loopback, ``openstack`` in this process, and recorded evidence."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref import simple_server

import pytest
from keystoneauth1 import adapter, session
from keystoneauth1.identity import v3

from nova_trusted_clone.client import waiting
from nova_trusted_clone.client.rest import TrustedClones
from tests.unit.client.cloud import Cloud, cloud_at, listening

VECTOR = pathlib.Path(__file__).resolve().parents[2] / "vectors" / "exchange-1-new.json"


@pytest.fixture(scope="session")
def address() -> Iterator[simple_server.WSGIServer]:
    """One address for all clouds: ``openstack`` keeps its connection for as long as the process."""
    with listening() as server:
        yield server


@pytest.fixture
def cloud(address: simple_server.WSGIServer) -> Cloud:
    """A new cloud."""
    return cloud_at(address)


@pytest.fixture
def compute(cloud: Cloud) -> adapter.Adapter:
    """What openstacksdk's ``connection.compute`` is."""
    domain = {"user_domain_id": "default", "project_domain_id": "default"}
    password = v3.Password(
        f"{cloud.url}/identity/v3", username="tenant", password="x", project_name="p", **domain
    )
    return adapter.Adapter(session.Session(password), service_type="compute", region_name="one")


@pytest.fixture
def clones(compute: adapter.Adapter) -> TrustedClones:
    """The API in Python."""
    return TrustedClones(compute)


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, by ``-f json``."""
        return json.loads(self.out)


Openstack = Callable[..., Done]


@pytest.fixture
def openstack(
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
) -> Iterator[Openstack]:
    """``openstack`` with a tenant's password, in this process: loading it takes two seconds."""
    from openstackclient import shell

    environment = {
        "OS_AUTH_URL": f"{cloud.url}/identity/v3",
        "OS_USERNAME": "tenant",
        "OS_PASSWORD": "x",
        "OS_PROJECT_NAME": "p",
        "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default",
        "OS_REGION_NAME": "one",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    handlers = list(logging.getLogger().handlers)

    def run(*arguments: Any) -> Done:
        capsys.readouterr()
        try:
            status = shell.OpenStackShell().run([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    yield run
    logging.getLogger().handlers[:] = handlers


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A recorded clone, and what a tenant needs to judge its evidence."""

    evidence: dict[str, Any]
    nonce: str
    source: str
    server: str
    ca: pathlib.Path
    policy: pathlib.Path


@pytest.fixture
def recorded(tmp_path: pathlib.Path) -> Recorded:
    """The recorded exchange with its files."""
    raw = json.loads(VECTOR.read_text())
    for name in ("anchors", "policy"):
        (tmp_path / name).write_text(raw[name])
    told = raw["evidence"]["clone"]
    return Recorded(
        evidence=raw["evidence"],
        nonce=raw["tenant_nonce"],
        source=told["source_server"],
        server=told["destination_server"],
        ca=tmp_path / "anchors",
        policy=tmp_path / "policy",
    )
