"""What the tests share: a server that can be cloned, and a clone that is waited for."""

from __future__ import annotations

import json
import pathlib
import secrets
import time
from typing import Any

from tempest import config
from tempest.common import waiters
from tempest.lib import exceptions
from tempest.lib.common.utils import test_utils
from tempest.scenario import manager

from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.protocol.evidence import verify_evidence

CONF = config.CONF


class TrustedCloneTest(manager.ScenarioTest):
    """Needs two hosts that can clone."""

    credentials = ("primary", "admin")

    @classmethod
    def skip_checks(cls) -> None:
        super().skip_checks()
        if not CONF.service_available.trusted_clone:
            raise cls.skipException("trusted clones are not available")
        if CONF.compute.min_compute_nodes < 2:
            raise cls.skipException("a clone goes to another host: two are needed")

    @classmethod
    def setup_clients(cls) -> None:
        super().setup_clients()
        cls.clones_client = cls.os_primary.trusted_clone.TrustedCloneClient()

    def a_server(self, **wanted: Any) -> dict[str, Any]:
        """A running server with a key that logs into it, and a group that lets ping and ssh in."""
        self.keypair = self.create_keypair()
        group = self.create_security_group()
        found: dict[str, Any] = self.create_server(
            flavor=CONF.trusted_clone.flavor_ref or CONF.compute.flavor_ref,
            key_name=self.keypair["name"],
            security_groups=[{"name": group["name"]}],
            **wanted,
        )
        return found

    def require_answers(self, server: dict[str, Any]) -> None:
        """The server is reached on its own address, as ``validation.connect_method`` says, and logged into."""
        if not CONF.validation.run_validation:
            return
        shown = self.servers_client.show_server(server["id"])["server"]
        address = self.get_server_ip(shown)
        if CONF.trusted_clone.guest_login:
            self.check_vm_connectivity(
                address, private_key=self.keypair["private_key"], server=shown
            )
        else:
            self.assertTrue(self.ping_ip_address(address, server=shown), f"{address} is silent")

    def clone(self, server: dict[str, Any], **wanted: Any) -> dict[str, Any]:
        """Order clones; their servers go with the test."""
        made: dict[str, Any] = self.clones_client.create(server["id"], **wanted)
        for new in made["servers"]:
            self.addCleanup(
                waiters.wait_for_server_termination, self.servers_client, new["id"], True
            )
            self.addCleanup(
                test_utils.call_and_ignore_notfound_exc,
                self.servers_client.delete_server,
                new["id"],
            )
        return made

    def await_complete(self, server_id: str, clone_id: str) -> dict[str, Any]:
        """Wait until a clone is complete.

        :raises exceptions.TempestException: it failed, with its reason
        :raises exceptions.TimeoutException: it is not within the time
        """
        deadline = time.monotonic() + CONF.trusted_clone.build_timeout
        while True:
            record: dict[str, Any] = self.clones_client.show(server_id, clone_id)
            if record["phase"] == "complete":
                return record
            if record["phase"] in ("failed", "aborted"):
                raise exceptions.TempestException(
                    f"clone {clone_id} {record['phase']}: {record['reason']}"
                )
            if time.monotonic() > deadline:
                raise exceptions.TimeoutException(f"clone {clone_id} is still {record['phase']}")
            time.sleep(CONF.trusted_clone.build_interval)

    def require_evidence(self, server_id: str, clone_id: str, nonce: str) -> None:
        """Fetch the evidence, and verify it where the operator's files are there."""
        evidence = self.clones_client.evidence(server_id, clone_id)
        options = CONF.trusted_clone
        if not options.anchors_file or not options.policy_file:
            return
        verdict, _summary = verify_evidence(
            json.dumps(evidence).encode(),
            TrustAnchors.from_pem(pathlib.Path(options.anchors_file).read_bytes()),
            Policy.parse(pathlib.Path(options.policy_file).read_bytes()),
            bytes.fromhex(nonce),
        )
        self.assertTrue(verdict.ok, str(verdict))

    @staticmethod
    def a_nonce() -> str:
        """As a tenant chooses it."""
        return secrets.token_hex(16)
