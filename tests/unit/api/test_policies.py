"""Policy as operators meet it: by oslo.policy's tools, and by the table of who may do what."""

from __future__ import annotations

import contextlib
import io

import pytest
from oslo_config import cfg
from oslo_policy import generator

from nova_trusted_clone import policies
from nova_trusted_clone.policies import trusted_clone as rules

ADMIN, MEMBER, READER, OTHER = "admin,member,reader", "member,reader", "reader", "other"


def test_the_sample_has_every_rule_with_its_path_and_what_it_is_for():
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        generator.generate_sample(["--namespace", "nova-trusted-clone"], conf=cfg.ConfigOpts())
    for rule in policies.list_rules():
        assert f'#"{rule.name}": "{rule.check_str}"' in said.getvalue()
        for operation in rule.operations:
            assert f"# {operation['method']}  {operation['path']}" in said.getvalue()
        assert rule.scope_types == ["project"]
        assert rule.description


def test_names_are_novas_kind_of_names():
    names = [rule.name for rule in policies.list_rules()]
    assert len(set(names)) == len(names) == 8
    assert all(name.startswith("os_compute_api:trusted-clone:") for name in names)


# Who, by role, within the server's project: what is answered where all else is well.
TABLE = {
    rules.CREATE: {ADMIN: True, MEMBER: True, READER: False, OTHER: False},
    rules.CREATE_HOST: {ADMIN: True, MEMBER: False, READER: False, OTHER: False},
    rules.INDEX: {ADMIN: True, MEMBER: True, READER: True, OTHER: False},
    rules.INDEX_ALL: {ADMIN: True, MEMBER: False, READER: False, OTHER: False},
    rules.SHOW: {ADMIN: True, MEMBER: True, READER: True, OTHER: False},
    rules.SHOW_HOSTS: {ADMIN: True, MEMBER: False, READER: False, OTHER: False},
    rules.EVIDENCE: {ADMIN: True, MEMBER: True, READER: True, OTHER: False},
    rules.ABORT: {ADMIN: True, MEMBER: True, READER: False, OTHER: False},
}


# The request that each rule decides, with what stands for ids.
_LIST = "/servers/{source}/trusted-clones"
REQUESTS = {
    rules.CREATE: ("POST", "/servers/{source}/action", {"trustedClone": {}}),
    rules.CREATE_HOST: ("POST", "/servers/{source}/action", {"trustedClone": {"host": "host-a"}}),
    rules.INDEX: ("GET", _LIST, None),
    rules.INDEX_ALL: ("GET", "/trusted-clones?all_projects=1", None),
    rules.SHOW: ("GET", _LIST + "/{clone}", None),
    rules.SHOW_HOSTS: ("GET", _LIST + "/{clone}", None),
    rules.EVIDENCE: ("GET", _LIST + "/{clone}/evidence", None),
    rules.ABORT: ("DELETE", _LIST + "/{clone}", None),
}


@pytest.mark.parametrize(
    ("rule", "roles"), [(rule, roles) for rule, row in TABLE.items() for roles in row]
)
def test_who_may_do_what(world, rule, roles):
    source = world.server()
    record = world.conductor.record(source, world.server(), phase="complete")
    world.conductor.evidences[record["id"]] = {"format": "x", "messages": {}}
    method, path, body = REQUESTS[rule]
    path = path.format(source=source, clone=record["id"])
    reply = world.call(method, path, body, roles=roles)
    if rule == rules.SHOW_HOSTS:
        assert ("host" in (reply.body.get("trusted_clone") or {})) is TABLE[rule][roles]
    else:
        assert (reply.status != 403) is TABLE[rule][roles], reply.body


def test_the_old_roles_do_not_let_anybody_clone_across_projects(world):
    """With enforce_new_defaults=False nova's own rule would let every administrator do it."""
    check = next(rule.check_str for rule in policies.list_rules() if rule.name == rules.CREATE)
    assert "and project_id:%(project_id)s" in check
