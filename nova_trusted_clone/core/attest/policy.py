"""The operator's policy: which PCR values a host may have, and what else a clone needs.

Values are compared with reference values per class of hosts, never the source's with the
destination's: PCR 1 differs from machine to machine. The file is JSON:

.. code-block:: json

    {"version": 1,
     "host_classes": {"r650": {"pcrs": {"0": ["<64 hex digits>"], "...": [], "7": ["..."]}}},
     "hosts": {"compute-1": "r650"},
     "require_generation_id": true, "allow_without_vtpm": false, "allow_vtpm_derive": false,
     "max_order_seconds": 900}

Every order names the SHA-256 of the file's exact bytes, so that both hosts and the tenant speak of
the same policy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.core.attest import roles, strict_json
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput

MAX_POLICY_BYTES = 4 * 1024 * 1024
MAX_VALUES_PER_PCR = 256
DEFAULT_MAX_ORDER_SECONDS = 900
MOST_ORDER_SECONDS = 86400

_REQUIRED = (
    "version",
    "host_classes",
    "hosts",
    "require_generation_id",
    "allow_without_vtpm",
    "allow_vtpm_derive",
)


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy that was read completely.

    :ivar sha256: over the file's exact bytes
    :ivar host_classes: class, then PCR index, then the values that are good
    :ivar hosts: host id to class; a host that is not here is not trusted
    :ivar allow_without_vtpm: whether the host's AK alone may vouch where a server has no
        (certified) vTPM
    """

    sha256: bytes
    host_classes: Mapping[str, Mapping[int, frozenset[bytes]]]
    hosts: Mapping[str, str]
    require_generation_id: bool
    allow_without_vtpm: bool
    allow_vtpm_derive: bool
    max_order_seconds: int = DEFAULT_MAX_ORDER_SECONDS

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """Return the policy in ``data``.

        :raises MalformedInput: naming the place
        """
        raw = strict_json.load(data, "policy", MAX_POLICY_BYTES)
        strict_json.keys(raw, "policy", _REQUIRED, ("max_order_seconds",))
        strict_json.number(raw["version"], "policy.version", 1, 1)
        classes = _host_classes(raw["host_classes"])
        return cls(
            sha256=hashlib.sha256(data).digest(),
            host_classes=classes,
            hosts=_hosts(raw["hosts"], classes),
            require_generation_id=strict_json.flag(
                raw["require_generation_id"], "policy.require_generation_id"
            ),
            allow_without_vtpm=strict_json.flag(
                raw["allow_without_vtpm"], "policy.allow_without_vtpm"
            ),
            allow_vtpm_derive=strict_json.flag(
                raw["allow_vtpm_derive"], "policy.allow_vtpm_derive"
            ),
            max_order_seconds=strict_json.number(
                raw.get("max_order_seconds", DEFAULT_MAX_ORDER_SECONDS),
                "policy.max_order_seconds",
                1,
                MOST_ORDER_SECONDS,
            ),
        )

    def check_host(self, host_id: str, values: Mapping[int, bytes]) -> Verdict:
        """Judge a host's PCR 0–7; each that differs is named."""
        host_class = self.hosts.get(host_id)
        verdict = Verdict.of(
            "trusted-clone.policy.host",
            host_class is not None,
            f"host {host_id} of class {host_class or 'none'}",
            "a host that the policy names",
        )
        good = self.host_classes.get(host_class or "", {})
        for index in HOST_PCRS:
            value, allowed = values.get(index, b""), good.get(index, frozenset())
            verdict += Verdict.of(
                f"trusted-clone.policy.pcr-{index}",
                value in allowed,
                f"PCR {index} of {host_id} is {value.hex() or 'missing'}",
                _allowed_text(host_class, allowed),
            )
        return verdict


def _allowed_text(host_class: str | None, allowed: frozenset[bytes]) -> str:
    if not allowed:
        return "nothing: the policy has no value for it"
    shown = ", ".join(sorted(value.hex() for value in allowed)[:4])
    return f"one of class {host_class}'s {len(allowed)}: {shown}{' …' if len(allowed) > 4 else ''}"


def _host_classes(raw: Any) -> dict[str, dict[int, frozenset[bytes]]]:
    strict_json.keys(raw, "policy.host_classes", (), raw if isinstance(raw, dict) else ())
    classes: dict[str, dict[int, frozenset[bytes]]] = {}
    for name, body in raw.items():
        where = f"policy.host_classes.{name[:64]}"
        if not 0 < len(name) <= 64:
            raise MalformedInput(f"{where}: expected a class name of 1–64 characters")
        strict_json.keys(body, where, ("pcrs",))
        strict_json.keys(body["pcrs"], f"{where}.pcrs", [str(index) for index in HOST_PCRS])
        classes[name] = {
            index: _values(body["pcrs"][str(index)], f"{where}.pcrs.{index}") for index in HOST_PCRS
        }
    return classes


def _values(raw: Any, where: str) -> frozenset[bytes]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_VALUES_PER_PCR:
        raise MalformedInput(f"{where}: expected a list of 1–{MAX_VALUES_PER_PCR} values")
    return frozenset(
        strict_json.hexadecimal(value, f"{where}[{number}]", 32) for number, value in enumerate(raw)
    )


def _hosts(raw: Any, classes: Mapping[str, object]) -> dict[str, str]:
    strict_json.keys(raw, "policy.hosts", (), raw if isinstance(raw, dict) else ())
    hosts: dict[str, str] = {}
    for host_id, host_class in raw.items():
        where = f"policy.hosts.{host_id[:64]}"
        roles.require_host_id(host_id)
        hosts[host_id] = strict_json.text(host_class, where, 64)
        if host_class not in classes:
            raise MalformedInput(f"{where}: class {host_class!r} is not in policy.host_classes")
    return hosts


def learn(
    policy_json: bytes | None, host_id: str, host_class: str, values: Mapping[int, bytes]
) -> bytes:
    """Return the policy file with a golden host's PCR 0–7 as good values of its class.

    :param policy_json: the file so far; None begins one with the strictest settings
    :raises MalformedInput: if the file, the host id or the values are not good, or the host has
        another class
    """
    roles.require_host_id(host_id)
    if policy_json is None:
        raw: dict[str, Any] = {
            "version": 1,
            "host_classes": {},
            "hosts": {},
            "require_generation_id": True,
            "allow_without_vtpm": False,
            "allow_vtpm_derive": False,
        }
    else:
        Policy.parse(policy_json)
        raw = strict_json.load(policy_json, "policy", MAX_POLICY_BYTES)
    if raw["hosts"].get(host_id, host_class) != host_class:
        raise MalformedInput(
            f"policy.hosts.{host_id}: it is of class {raw['hosts'][host_id]!r}, not {host_class!r}"
        )
    pcrs = raw["host_classes"].setdefault(host_class, {"pcrs": {str(i): [] for i in HOST_PCRS}})
    for index in HOST_PCRS:
        value = values.get(index, b"")
        if len(value) != 32:
            raise MalformedInput(f"PCR {index}: expected a SHA-256 value of 32 bytes")
        known = pcrs["pcrs"][str(index)]
        if value.hex() not in known:
            known.append(value.hex())
    raw["hosts"][host_id] = host_class
    learned = json.dumps(raw, indent=2, sort_keys=True).encode() + b"\n"
    Policy.parse(learned)
    return learned
