"""Rules of the action ``trustedClone`` and of the clones' records."""

from __future__ import annotations

from typing import Any

from nova.policies import base
from oslo_policy import policy

POLICY_ROOT = "os_compute_api:trusted-clone:%s"

CREATE = POLICY_ROOT % "create"
CREATE_HOST = POLICY_ROOT % "create:host"
INDEX = POLICY_ROOT % "index"
INDEX_ALL = POLICY_ROOT % "index:all_projects"
SHOW = POLICY_ROOT % "show"
SHOW_HOSTS = POLICY_ROOT % "show:hosts"
EVIDENCE = POLICY_ROOT % "evidence"
ABORT = POLICY_ROOT % "abort"

# Not for administrators of other projects: a clone belongs to whoever asks for it, and has the memory of the source.
# The project stands here a second time because rule:project_member_api is wider with enforce_new_defaults=False.
OWN_PROJECT_MEMBER = "rule:project_member_api and project_id:%(project_id)s"

_ACTION = [{"method": "POST", "path": "/servers/{server_id}/action (trustedClone)"}]
_RECORDS = "/servers/{server_id}/trusted-clones"
_RECORD = _RECORDS + "/{clone_id}"
_OF_PROJECT = "/trusted-clones"


def _rule(name: str, check: str, description: str, *operations: tuple[str, str]) -> Any:
    return policy.DocumentedRuleDefault(
        name=name,
        check_str=check,
        description=description,
        operations=[{"method": method, "path": path} for method, path in operations] or _ACTION,
        scope_types=["project"],
    )


RULES = (
    _rule(
        CREATE,
        OWN_PROJECT_MEMBER,
        "Make clones of a running server. The clones belong to the project and user that ask for them, and have the "
        "server's memory and disks, with all secrets in them: this should not be allowed across projects.",
    ),
    _rule(CREATE_HOST, base.ADMIN, "Name the host of the clones"),
    _rule(
        INDEX,
        base.PROJECT_READER_OR_ADMIN,
        "List the records of clones in which a server is the source or the clone, or those of a project",
        ("GET", _RECORDS),
        ("GET", _OF_PROJECT),
    ),
    _rule(
        INDEX_ALL,
        base.ADMIN,
        "List the records of clones of all projects",
        ("GET", _OF_PROJECT),
    ),
    _rule(SHOW, base.PROJECT_READER_OR_ADMIN, "Show the record of a clone", ("GET", _RECORD)),
    _rule(
        SHOW_HOSTS,
        base.ADMIN,
        "See the names of the hosts in the records of clones",
        ("GET", _RECORDS),
        ("GET", _RECORD),
        ("GET", _OF_PROJECT),
    ),
    _rule(
        EVIDENCE,
        base.PROJECT_READER_OR_ADMIN,
        "Get the evidence of a complete clone",
        ("GET", _RECORD + "/evidence"),
    ),
    _rule(
        ABORT,
        base.PROJECT_MEMBER_OR_ADMIN,
        "End a clone that is not complete",
        ("DELETE", _RECORD),
    ),
)
