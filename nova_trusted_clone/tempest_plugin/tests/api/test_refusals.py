"""What cannot be cloned is refused with the status that says why, and nothing is made."""

from __future__ import annotations

from tempest.common import waiters
from tempest.lib import decorators, exceptions
from tempest.lib.common.utils import data_utils

from nova_trusted_clone.tempest_plugin.tests.base import TrustedCloneTest


class TestRefusals(TrustedCloneTest):
    """400, 404 and 409."""

    @decorators.idempotent_id("0b6d8c2e-7a64-4a5d-8f0b-3c1d2e4f5a13")
    def test_bad_requests_name_their_field(self) -> None:
        server = self.a_server()
        for wanted in ({"count": 0}, {"count": 10000}, {"name": "n" * 300}, {"nonce": "not hex"}):
            self.assertRaises(
                exceptions.BadRequest, self.clones_client.create, server["id"], **wanted
            )
        self.assertEqual([], self.clones_client.list_clones(server["id"]))

    @decorators.idempotent_id("6e1f4d3c-2b5a-4c7d-9e8f-0a1b2c3d4e14")
    def test_a_server_that_is_not_there_is_not_found(self) -> None:
        self.assertRaises(exceptions.NotFound, self.clones_client.create, data_utils.rand_uuid())

    @decorators.idempotent_id("9a8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c15")
    def test_a_stopped_server_is_refused(self) -> None:
        server = self.a_server()
        self.servers_client.stop_server(server["id"])
        waiters.wait_for_server_status(self.servers_client, server["id"], "SHUTOFF")
        self.assertRaises(exceptions.Conflict, self.clones_client.create, server["id"])
