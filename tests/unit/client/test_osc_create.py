"""``openstack server clone`` from the command line to the wire and back."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import pytest

from nova_trusted_clone.client import waiting
from tests.unit.client.cloud import PHASES, Cloud
from tests.unit.client.conftest import Openstack, Recorded

FAILED = (*PHASES[:3], "failed")


def asked(cloud: Cloud) -> dict:
    (body,) = cloud.requests("POST", "/action")
    return body["trustedClone"]


class TestAsking:
    def test_a_table_of_what_begins(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        done = openstack("server", "clone", "web", "--count", 2, "-f", "json")
        assert done.status == 0
        assert [row["Name"] for row in done.json()] == ["web-clone-1", "web-clone-2"]
        assert [row["ID"] for row in done.json()] == list(cloud.records)
        assert {row["Phase"] for row in done.json()} == {"scheduling"}

    def test_the_tenant_has_the_nonce_before_the_cloud(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        cloud.fail("POST", "/action", status=403, body={"forbidden": {"message": "Quota exceeded"}})
        done = openstack("server", "clone", "web")
        nonce = asked(cloud)["nonce"]
        assert len(bytes.fromhex(nonce)) == 16
        assert f"Nonce, needed to verify the evidence: {nonce}\n" in done.err

    def test_each_request_has_its_own_nonce(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        for _ in range(2):
            openstack("server", "clone", "web")
        nonces = [body["trustedClone"]["nonce"] for body in cloud.requests("POST", "/action")]
        assert len(set(nonces)) == 2

    def test_every_option_arrives(self, cloud: Cloud, openstack: Openstack):
        source = cloud.server("web")
        network = str(uuid.uuid4())
        cloud.networks[network] = "blue"
        words = "--name n --count 3 --availability-zone az --host h --vtpm derive --memory eager"
        nics = "--network blue --nic net-id=blue,v4-fixed-ip=10.0.0.9"
        more = "--nonce 00112233445566AA --property a=1 --property b=x=y"
        done = openstack("server", "clone", source, *f"{words} {nics} {more}".split())
        assert done.status == 0, done.err
        assert asked(cloud) == {
            "name": "n",
            "count": 3,
            "availability_zone": "az",
            "host": "h",
            "vtpm": "derive",
            "memory": "eager",
            "nonce": "00112233445566aa",
            "metadata": {"a": "1", "b": "x=y"},
            "networks": [{"uuid": network}, {"uuid": network, "fixed_ip": "10.0.0.9"}],
        }

    @pytest.mark.parametrize(
        "name", ["größer", "猫🦊", "with space", "日本 'quoted' \"two\"", "a/b?c"]
    )
    def test_names_in_any_script(self, cloud: Cloud, openstack: Openstack, name: str):
        source = cloud.server(name)
        done = openstack("server", "clone", name, "--name", f"{name}!", "-f", "json")
        assert done.status == 0, done.err
        assert [row["Name"] for row in done.json()] == [f"{name}!"]
        assert cloud.requests("POST", f"/servers/{source}/action")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("--count 0", "expected a whole number from 1"),
            ("--count -1", "expected a whole number from 1"),
            ("--count many", "expected a whole number from 1"),
            ("--nonce 0011", "expected 16 to 128 hexadecimal digits"),
            (f"--nonce {'0' * 130}", "expected 16 to 128 hexadecimal digits"),
            ("--nonce not-a-nonce-at-all", "expected 16 to 128 hexadecimal digits"),
            ("--vtpm none", "invalid choice"),
            ("--nic net-id=a,port-id=b", "expected either net-id or port-id"),
            ("--nic v4-fixed-ip=10.0.0.1", "expected either net-id or port-id"),
            ("--nic net-id=a,tag=x", "with keys net-id"),
            ("--nic net-id=", "with keys net-id"),
            ("--nic net-id=a,v4-fixed-ip=1,v6-fixed-ip=2", "one fixed address at most"),
            ("--property x", "key=value"),
        ],
    )
    def test_a_mistyped_option_costs_nothing(
        self, cloud: Cloud, openstack: Openstack, words: str, said: str
    ):
        done = openstack("server", "clone", cloud.server("web"), *words.split())
        assert done.status == 2
        assert said in done.err
        assert not cloud.requests("POST", "/action")

    def test_a_server_that_is_not_there(self, cloud: Cloud, openstack: Openstack):
        done = openstack("server", "clone", "nobody")
        assert done.status == 1
        assert "nobody" in done.err

    def test_a_name_that_two_servers_have(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        cloud.server("web")
        done = openstack("server", "clone", "web")
        assert done.status == 1
        assert "give its ID instead of its name" in done.err
        assert not cloud.requests("POST", "/action")

    def test_a_network_that_is_not_there(self, cloud: Cloud, openstack: Openstack):
        done = openstack("server", "clone", cloud.server("web"), "--network", "green")
        assert done.status == 1
        assert "green" in done.err
        assert not cloud.requests("POST", "/action")

    def test_what_the_cloud_refuses_is_told_in_its_words(self, cloud: Cloud, openstack: Openstack):
        reason = "Server web cannot be cloned: a PCI device is attached"
        fault = {"conflictingRequest": {"code": 409, "message": reason}}
        cloud.fail("POST", "/action", status=409, body=fault)
        done = openstack("server", "clone", cloud.server("web"))
        assert done.status == 1
        assert f"{reason} (HTTP 409, request req-1)" in done.err

    def test_a_cloud_without_trusted_clones(self, cloud: Cloud, openstack: Openstack):
        cloud.offers_clones = False
        done = openstack("server", "clone", cloud.server("web"))
        assert done.status == 1
        assert "this cloud has no trusted clones" in done.err

    def test_an_answer_that_does_not_come_leaves_it_open(self, cloud: Cloud, openstack: Openstack):
        source = cloud.server("web")
        cloud.fail("POST", "/action", status=202, body={"trusted_clones": {}}, cut=3)
        done = openstack("server", "clone", source)
        assert done.status == 1
        assert "whether clones were made is not known" in done.err
        assert f"openstack server clone list {source}" in done.err


class TestWaiting:
    def test_to_the_end(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        done = openstack("server", "clone", "web", "--count", 2, "--wait", "-f", "json")
        assert done.status == 0, done.err
        assert {row["Phase"] for row in done.json()} == {"complete"}
        assert {row["Pause"] for row in done.json()} == {23000}
        assert {row["Evidence"] for row in done.json()} == {"not verified"}
        assert "web-clone-1: fetching 25 % 12.5 MiB/s" in done.err.splitlines()

    def test_some_fail(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        cloud.next_phases = [PHASES, FAILED, PHASES]
        done = openstack("server", "clone", "web", "--count", 3, "--wait", "-f", "json")
        assert done.status == 1
        assert [row["Phase"] for row in done.json()] == ["complete", "failed", "complete"]
        assert done.json()[1]["Reason"] == "host b: PCR 4 is not as it should be"
        assert "1 of 3 clones did not come to be" in done.err

    def test_time_is_over(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        cloud.next_phases = [("fetching",)]
        done = openstack("server", "clone", "web", "--wait", "--timeout", 1, "-f", "json")
        assert done.status == 1
        assert [row["Phase"] for row in done.json()] == ["fetching"]
        assert "1 of 1 clones are not complete yet and go on" in done.err

    def test_a_server_that_nova_is_not_done_with_is_waited_for(
        self, cloud: Cloud, openstack: Openstack
    ):
        cloud.server("web")
        cloud.statuses = {"web-clone": ["BUILD", "BUILD", "ACTIVE"]}
        assert openstack("server", "clone", "web", "--wait").status == 0
        assert cloud.statuses == {"web-clone": []}

    def test_time_is_over_before_nova_is_done_with_a_server(
        self, cloud: Cloud, openstack: Openstack
    ):
        cloud.server("web")
        cloud.next_phases = [("complete",)]
        cloud.statuses = {"web-clone": ["BUILD"] * 10_000}
        done = openstack("server", "clone", "web", "--wait", "--timeout", 1, "-f", "json")
        assert done.status == 1
        assert [row["Phase"] for row in done.json()] == ["complete"]
        assert "1 of 1 clones are complete, but Nova still builds their servers" in done.err

    def test_a_server_that_nova_gives_up_fails_the_command(
        self, cloud: Cloud, openstack: Openstack
    ):
        cloud.server("web")
        cloud.statuses = {"web-clone-2": ["BUILD", "ERROR"]}
        done = openstack("server", "clone", "web", "--count", 2, "--wait", "-f", "json")
        assert done.status == 1
        assert [row["Phase"] for row in done.json()] == ["complete", "complete"]
        assert not done.json()[0]["Reason"]
        assert "its server is in ERROR" in done.json()[1]["Reason"]
        assert "1 of 2 clones are complete with a server in ERROR" in done.err

    @pytest.fixture
    def ctrl_c(self) -> Iterator[None]:
        """As at a terminal: a run in the background may have been started without it."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.usefixtures("ctrl_c")
    def test_ctrl_c_leaves_the_clones_alone_and_says_so(self, cloud: Cloud, openstack: Openstack):
        source = cloud.server("web")
        cloud.next_phases = [("fetching",)]

        def stop(cloud: Cloud) -> None:
            if len(cloud.requests("GET", "/trusted-clones")) == 3:
                os.kill(os.getpid(), signal.SIGINT)

        cloud.on_look = stop
        done = openstack("server", "clone", "web", "--wait")
        (clone,) = cloud.records
        assert done.status == 130
        assert "You stopped waiting; the clones go on." in done.err
        assert f"openstack server clone list {source}" in done.err
        assert f"openstack server clone abort {source} {clone}" in done.err
        assert not [verb for verb, _, _ in cloud.asked if verb == "DELETE"]

    def test_an_expired_token(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        cloud.on_look = Cloud.expire_tokens
        assert openstack("server", "clone", "web", "--wait").status == 0

    def test_a_token_that_cannot_be_renewed(self, cloud: Cloud, openstack: Openstack):
        source = cloud.server("web")

        def expire(cloud: Cloud) -> None:
            cloud.expire_tokens()
            cloud.accepts_passwords = False

        cloud.on_look = expire
        done = openstack("server", "clone", "web", "--wait")
        assert done.status == 1
        assert "log in again" in done.err
        assert (
            f"Waiting ended; the clones go on. To look:  openstack server clone list {source}"
            in (done.err)
        )

    def test_the_api_restarts(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        cloud.fail("GET", "/trusted-clones", times=2, status=503)
        cloud.fail("GET", "/trusted-clones", status=200, body=b'{"trusted_clones": []}', cut=7)
        done = openstack("server", "clone", "web", "--wait", "-f", "json")
        assert done.status == 0, done.err
        assert "the API answered 503 and no reason" in done.err
        assert "the cloud answers again" in done.err

    def test_the_api_does_not_come_back(
        self, cloud: Cloud, openstack: Openstack, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(waiting, "PATIENCE_S", 0.1)
        source = cloud.server("web")
        cloud.fail("GET", "/trusted-clones", times=100, status=503)
        done = openstack("server", "clone", "web", "--wait")
        assert done.status == 1
        assert f"the clones go on. To look:  openstack server clone list {source}" in done.err

    def test_the_source_is_deleted_meanwhile(self, cloud: Cloud, openstack: Openstack):
        source = cloud.server("web")

        def delete(cloud: Cloud) -> None:
            cloud.servers.pop(source, None)

        cloud.on_look = delete
        done = openstack("server", "clone", "web", "--wait", "-f", "json")
        assert done.status == 0, done.err
        assert [row["Phase"] for row in done.json()] == ["complete"]

    def test_a_clone_is_deleted_meanwhile(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")

        def delete(cloud: Cloud) -> None:
            for server in [key for key, name in cloud.servers.items() if name == "web-clone-1"]:
                cloud.forget(server)

        cloud.on_look = delete
        done = openstack("server", "clone", "web", "--count", 2, "--wait", "-f", "json")
        assert done.status == 1
        assert [row["Phase"] for row in done.json()] == ["gone", "complete"]
        assert "1 of 2 clones did not come to be" in done.err

    def test_a_reply_that_makes_no_sense(self, cloud: Cloud, openstack: Openstack):
        cloud.server("web")
        cloud.fail("GET", "/trusted-clones", status=200, body=b'{"trusted_clones": [{"id": 1}]}')
        done = openstack("server", "clone", "web", "--wait")
        assert done.status == 1
        assert "reply.trusted_clones[0]" in done.err
        assert "the clones go on" in done.err


class TestEvidence:
    def clone(self, cloud: Cloud, openstack: Openstack, recorded: Recorded, **changes: str):
        source = cloud.server("web", changes.get("source", recorded.source))
        cloud.new_server_ids = [changes.get("server", recorded.server)]
        cloud.evidence[cloud.new_server_ids[0]] = recorded.evidence
        files = ("--ca", recorded.ca, "--policy", recorded.policy)
        nonce = changes.get("nonce", recorded.nonce)
        words = ("--wait", "--nonce", nonce, "-f", "json")
        return openstack("server", "clone", source, *words, *files)

    def test_it_is_judged_when_the_files_are_given(
        self, cloud: Cloud, openstack: Openstack, recorded: Recorded
    ):
        done = self.clone(cloud, openstack, recorded)
        assert done.status == 0, done.err
        assert [row["Evidence"] for row in done.json()] == ["holds"]

    def test_the_files_may_stand_in_the_environment(
        self,
        cloud: Cloud,
        openstack: Openstack,
        recorded: Recorded,
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.setenv("OS_TRUSTED_CLONE_CA", str(recorded.ca))
        monkeypatch.setenv("OS_TRUSTED_CLONE_POLICY", str(recorded.policy))
        cloud.server("web", recorded.source)
        cloud.new_server_ids = [recorded.server]
        cloud.evidence[recorded.server] = recorded.evidence
        words = ("--wait", "--nonce", recorded.nonce, "-f", "json")
        done = openstack("server", "clone", "web", *words)
        assert [row["Evidence"] for row in done.json()] == ["holds"]

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"nonce": "00" * 16}, "trusted-clone.evidence.nonce"),
            ({"source": str(uuid.UUID(int=1))}, "trusted-clone.evidence.expected-source"),
            ({"server": str(uuid.UUID(int=2))}, "trusted-clone.evidence.expected-clone"),
        ],
        ids=["nonce", "source", "clone"],
    )
    def test_evidence_of_another_clone_fails_the_command(
        self,
        cloud: Cloud,
        openstack: Openstack,
        recorded: Recorded,
        changes: dict[str, str],
        code: str,
    ):
        done = self.clone(cloud, openstack, recorded, **changes)
        assert done.status == 1
        assert [row["Evidence"] for row in done.json()] == [f"DOES NOT HOLD: {code}"]
        assert "1 of 1 clones have no evidence that holds: do not trust them" in done.err

    def test_evidence_that_the_cloud_does_not_give(
        self, cloud: Cloud, openstack: Openstack, recorded: Recorded
    ):
        cloud.server("web")
        files = ("--ca", recorded.ca, "--policy", recorded.policy)
        done = openstack("server", "clone", "web", "--wait", "-f", "json", *files)
        assert done.status == 1
        assert done.json()[0]["Evidence"].startswith("missing: Clone ")

    def test_it_is_asked_for_again_while_the_api_restarts(
        self, cloud: Cloud, openstack: Openstack, recorded: Recorded
    ):
        cloud.fail("GET", "/evidence", times=2, status=502)
        assert self.clone(cloud, openstack, recorded).status == 0

    @pytest.mark.parametrize("words", [("--ca", "missing"), ("--ca", "a", "--policy", "b")])
    def test_a_mistyped_file_costs_no_clone(self, cloud: Cloud, openstack: Openstack, words):
        done = openstack("server", "clone", cloud.server("web"), "--wait", *words)
        assert done.status == 1
        assert not cloud.requests("POST", "/action")
