"""The rules that decide what is shown, as ``policies`` names them. What is asked for the API decides again."""

from __future__ import annotations

from nova_trusted_clone.dashboard.apps import SERVICE

Rules = tuple[tuple[str, str], ...]


def _rule(name: str) -> Rules:
    return ((SERVICE, f"os_compute_api:trusted-clone:{name}"),)


CREATE = _rule("create")
INDEX = _rule("index")
INDEX_ALL = _rule("index:all_projects")
SHOW = _rule("show")
EVIDENCE = _rule("evidence")
ABORT = _rule("abort")
