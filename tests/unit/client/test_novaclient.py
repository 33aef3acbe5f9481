"""python-novaclient: ``nova clone …`` and ``client.trusted_clones``."""

from __future__ import annotations

import json
import pathlib
import warnings

import pytest
from keystoneauth1 import adapter

from nova_trusted_clone.client.values import CloneRequest
from tests.unit.client.cloud import Cloud
from tests.unit.client.conftest import Recorded

with warnings.catch_warnings():
    # It announces its own end as it is imported.
    warnings.simplefilter("ignore")
    from novaclient import client, shell
    from novaclient import exceptions as nova_errors


@pytest.fixture
def nova(compute: adapter.Adapter, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    # It keeps names for completion under the home directory.
    monkeypatch.setenv("NOVACLIENT_UUID_CACHE_DIR", str(tmp_path))
    extensions = client.discover_extensions("2.1")
    return client.Client("2.1", session=compute.session, region_name="one", extensions=extensions)


class TestPython:
    def test_from_request_to_evidence(self, cloud: Cloud, nova, recorded: Recorded):
        source = cloud.server("web")
        (clone,) = nova.trusted_clones.create(source, CloneRequest(name="c")).clones
        cloud.evidence[clone.id] = recorded.evidence
        for _ in range(4):
            nova.trusted_clones.list(source)
        assert nova.trusted_clones.get(source, clone).phase == "provisional"
        nova.trusted_clones.list(source)
        assert nova.trusted_clones.get(source, clone.id).complete
        assert json.loads(nova.trusted_clones.evidence(source, clone)) == recorded.evidence

    def test_its_own_servers_are_taken(self, cloud: Cloud, nova):
        server = nova.servers.get(cloud.server("web"))
        assert nova.trusted_clones.list(server) == ()

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, nova_errors.BadRequest),
            (403, nova_errors.Forbidden),
            (404, nova_errors.NotFound),
            (409, nova_errors.Conflict),
            (500, nova_errors.ClientException),
        ],
    )
    def test_refusals_are_its_own_errors(
        self, cloud: Cloud, nova, status: int, kind: type[Exception]
    ):
        fault = {"fault": {"code": status, "message": "a device is attached"}}
        cloud.fail("POST", "/action", status=status, body=fault)
        with pytest.raises(kind, match="a device is attached") as caught:
            nova.trusted_clones.create(cloud.server("web"), CloneRequest())
        assert type(caught.value) is kind


class TestShell:
    @pytest.fixture
    def run(self, cloud: Cloud, monkeypatch, tmp_path: pathlib.Path, capsys):
        monkeypatch.setenv("NOVACLIENT_UUID_CACHE_DIR", str(tmp_path))
        login = (
            f"--os-auth-url {cloud.url}/identity/v3 --os-username tenant --os-password x "
            "--os-project-name p --os-user-domain-id default --os-project-domain-id default "
            "--os-region-name one --os-compute-api-version 2.1"
        ).split()

        def run(*words: object) -> str:
            capsys.readouterr()
            shell.OpenStackComputeShell().main([*login, *map(str, words)])
            return capsys.readouterr().out

        return run

    def test_from_request_to_evidence(self, cloud: Cloud, run, recorded: Recorded, tmp_path):
        source = cloud.server("web")
        shown = run("clone", "web", "--count", "2", "--name", "c", "--vtpm", "derive")
        (body,) = cloud.requests("POST", f"/servers/{source}/action")
        assert body["trustedClone"]["vtpm"] == "derive"
        assert body["trustedClone"]["nonce"] in shown
        first, second = cloud.records
        assert first in run("clone-list", "web")
        assert "scheduling" in run("clone-show", source, first)
        run("clone-abort", "web", second)
        assert cloud.records[second]["phase"] == "aborted"
        cloud.evidence[first] = recorded.evidence
        run("clone-evidence", "c-1", first, tmp_path / "e")
        assert json.loads((tmp_path / "e").read_text()) == recorded.evidence
