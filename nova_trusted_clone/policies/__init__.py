"""Who may do what by the API: defaults, registered with nova's own enforcer.

An operator overrides them where nova's are overridden: in ``policy.yaml`` and ``policy.d`` of nova-api.

Leans on nova.policy: its one enforcer, and its rules ``project_member_api``, ``project_reader_or_admin`` and so on.
"""

from __future__ import annotations

from typing import Any

from nova import policy as nova_policy

from nova_trusted_clone.policies import trusted_clone


def list_rules() -> list[Any]:
    """Return every default: entry point ``oslo.policy.policies``."""
    return list(trusted_clone.RULES)


def register() -> None:
    """Make the rules known to nova's enforcer; once or many times is the same."""
    nova_policy.init()
    enforcer = nova_policy._ENFORCER
    enforcer.register_defaults(
        [rule for rule in list_rules() if rule.name not in enforcer.registered_rules]
    )


def get_enforcer() -> Any:
    """Return nova's enforcer with the rules: entry point ``oslo.policy.enforcer``, for oslo.policy's tools."""
    nova_policy.get_enforcer()
    register()
    return nova_policy._ENFORCER
