"""A server is cloned while it runs: the clone answers on its own address, is itself, and can prove what it is."""

from __future__ import annotations

from tempest.common import utils, waiters
from tempest.lib import decorators

from nova_trusted_clone.tempest_plugin.tests.base import TrustedCloneTest


class TestTrustedClone(TrustedCloneTest):
    """Boot, clone, reach, prove."""

    @decorators.idempotent_id("5cf2bb5e-6f0a-4a8e-8f0c-0d1e4d3a7b11")
    @decorators.attr(type="slow")
    @utils.services("compute", "network")
    def test_a_clone_answers_on_its_own_address_and_has_evidence(self) -> None:
        source = self.a_server(wait_until="ACTIVE")
        self.require_answers(source)
        nonce = self.a_nonce()
        made = self.clone(source, name="tempest-clone", nonce=nonce)
        self.assertEqual(nonce, made["nonce"])
        (new,), (record,) = made["servers"], made["clones"]
        self.assertEqual(new["id"], record["server_id"])

        waiters.wait_for_server_status(self.servers_client, new["id"], "ACTIVE")
        complete = self.await_complete(source["id"], record["id"])
        self.assertEqual(source["id"], complete["source_id"])
        self.assertGreater(complete["pause_us"], 0)

        self._require_another_self(source, new)
        for server in (source, new):
            self.require_answers(server)
        self.require_evidence(source["id"], record["id"], nonce)

    def _require_another_self(self, source: dict[str, str], new: dict[str, str]) -> None:
        ports = {
            server["id"]: self.os_admin.ports_client.list_ports(device_id=server["id"])["ports"]
            for server in (source, new)
        }
        theirs = [{port["mac_address"] for port in found} for found in ports.values()]
        self.assertFalse(theirs[0] & theirs[1], "source and clone share a MAC address")
        hosts = {self.get_host_for_server(server["id"]) for server in (source, new)}
        self.assertEqual(2, len(hosts), "the clone is on its source's host")

    @decorators.idempotent_id("b3f0b0a4-5d0b-4f7f-9a55-7d2b5a0c8e12")
    @decorators.attr(type="slow")
    @utils.services("compute", "network")
    def test_an_aborted_clone_leaves_its_source_as_it_was(self) -> None:
        source = self.a_server()
        (record,) = self.clone(source, memory="eager")["clones"]
        self.clones_client.abort(source["id"], record["id"])
        found = self.clones_client.show(source["id"], record["id"])
        self.assertIn(found["phase"], ("aborted", "failed", "complete"))
        shown = self.servers_client.show_server(source["id"])["server"]
        self.assertEqual("ACTIVE", shown["status"])
