"""The router: beside nova's routes, never in their place."""

from __future__ import annotations

import nova.policy
import webob
from nova.api.openstack.compute import routes

from nova_trusted_clone import policies
from nova_trusted_clone.api import router, servers
from nova_trusted_clone.virt import servers as received
from tests.unit.api.fakes import PROJECT


def test_the_versions_of_this_api(world):
    for path in ("/trusted-clone", f"/{PROJECT}/trusted-clone"):
        reply = world.call("GET", path)
        assert reply.status == 200
        (version,) = reply.body["versions"]
        assert (version["id"], version["status"]) == ("v1.1", "CURRENT")
        assert version["links"][0]["href"].endswith(path)
    assert world.call("GET", "/trusted-clone?x=1").status == 400


def test_novas_routes_come_first_and_are_all_there(world):
    """A request that is not for trusted clones is found before ours are looked at."""
    paths = [path for path, _methods in routes.ROUTE_LIST]
    made = router.APIRouterV21()
    found = [route.routepath for route in made.map.matchlist]
    ours = [index for index, path in enumerate(found) if "trusted-clone" in path]
    assert len(ours) == 2 * 6
    assert min(ours) == len(found) - len(ours)
    assert len(found) >= 2 * len([path for path in paths if path])


def test_another_projects_id_in_the_url_is_refused(world):
    reply = world.call("GET", f"/{'0e' * 16}/servers/{world.server()}/trusted-clones")
    assert reply.status == 400


def test_methods_that_are_not_there(world):
    path = f"/servers/{world.server()}/trusted-clones"
    assert world.call("POST", path, {}).status in (404, 405)
    assert world.call("DELETE", path).status in (404, 405)


def test_nobody_gets_in_without_a_user(world):
    request = webob.Request.blank("/v2.1/trusted-clone")
    assert request.get_response(world.app).status_int == 401


def test_the_policy_is_registered_once_and_with_novas_enforcer(world):
    policies.register()
    policies.register()
    known = nova.policy._ENFORCER.registered_rules
    assert {rule.name for rule in policies.list_rules()} <= set(known)
    assert "os_compute_api:servers:create" in known


def test_what_the_api_marks_is_what_a_host_receives():
    assert (servers.GROUP_MARK, servers.SOURCE_MARK) == (received.GROUP, received.SOURCE)
