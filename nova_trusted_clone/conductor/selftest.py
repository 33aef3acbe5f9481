"""Whether a conductor's files fit together, and whether those whom it needs answer. Nothing is changed."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from nova_trusted_clone.clone.registry import Registry
from nova_trusted_clone.clone.signer import AuthorityError, OrderSigner
from nova_trusted_clone.core.attest import certchain
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.rpc.compute import ComputeAPI
from nova_trusted_clone.rpc.conductor import ConductorAPI
from nova_trusted_clone.rpc.errors import CloneError, NotFound, Unavailable

RENEW_S = 30 * 86400
"""A signer's certificate that ends within so long is worth a word."""

NOBODY = "00000000-0000-4000-8000-000000000000"
"""A server that does not exist: whoever answers that it does not, answers."""


class Grade(enum.Enum):
    """How a check went."""

    GOOD = "ok"
    DOUBTFUL = "LOOK"
    BAD = "FAILED"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check's result, in words."""

    grade: Grade
    text: str


def check_signer(options: Any, now_s: int | None = None) -> Finding:
    """Judge the signing key, its certificate by the anchors, and the register.

    :param options: of group [trusted_clone_conductor]
    """
    now_s = int(time.time()) if now_s is None else now_s
    directory = pathlib.Path(options.signer_path)
    try:
        certificate = OrderSigner(directory).certificate()
        anchors = TrustAnchors.from_pem(pathlib.Path(options.anchors_file).read_bytes())
        hosts = Registry(directory / "hosts.json").hosts()
    except (AuthorityError, CoreError, OSError) as error:
        return Finding(Grade.BAD, f"orders cannot be signed: {error}")
    verdict = certchain.verify_chain(certificate, (), anchors, Role.CONTROL, now_s)
    if not verdict.ok:
        return Finding(Grade.BAD, f"{directory}: hosts will refuse this signer's orders: {verdict}")
    if not certchain.verify_chain(certificate, (), anchors, Role.CONTROL, now_s + RENEW_S).ok:
        return Finding(Grade.DOUBTFUL, f"{directory}: the signer's certificate ends within 30 days")
    if len(hosts) < 2:
        return Finding(
            Grade.DOUBTFUL,
            f"{directory}/hosts.json: {len(hosts)} hosts are enrolled; a clone needs two",
        )
    return Finding(Grade.GOOD, f"the signer is good, {len(hosts)} hosts are enrolled")


def check_trust(options: Any) -> Finding:
    """Judge the anchors and the policy, and whether the policy names the hosts that are enrolled."""
    try:
        anchors = TrustAnchors.from_pem(pathlib.Path(options.anchors_file).read_bytes())
        policy = Policy.parse(pathlib.Path(options.policy_file).read_bytes())
        enrolled = set(Registry(pathlib.Path(options.signer_path) / "hosts.json").hosts())
    except (CoreError, OSError) as error:
        return Finding(Grade.BAD, f"evidence cannot be verified: {error}")
    missing = [
        role.value for role in (Role.ATTESTATION, Role.VTPM, Role.CONTROL) if not anchors.of(role)
    ]
    if missing:
        return Finding(Grade.BAD, f"{options.anchors_file}: no root for {', '.join(missing)}")
    strangers = sorted(enrolled - set(policy.hosts))
    if strangers:
        names = ", ".join(strangers)
        text = f"{options.policy_file}: enrolled hosts that it does not name: {names}"
        return Finding(Grade.DOUBTFUL, text)
    return Finding(
        Grade.GOOD, f"policy {policy.sha256.hex()[:16]}… names {len(policy.hosts)} hosts"
    )


def check_conductor(context: Any, api: ConductorAPI) -> Finding:
    """Ask the conductor, through the broker, for a record."""
    try:
        api.list(context, {"limit": 1})
    except CloneError as error:
        return Finding(Grade.BAD, f"the conductor: {error}")
    return Finding(Grade.GOOD, "the conductor answers")


def check_computes(context: Any, api: ComputeAPI, hosts: Iterable[str]) -> list[Finding]:
    """Ask computes, by nova's names of their hosts, for a server that does not exist."""
    return [
        _check_compute(host, functools.partial(api.inspect, context, host, NOBODY))
        for host in hosts
    ]


def _check_compute(host: str, ask: Callable[[], Any]) -> Finding:
    try:
        ask()
    except NotFound:
        return Finding(Grade.GOOD, f"host {host} answers")
    except Unavailable as error:
        return Finding(Grade.BAD, f"host {host}: {error}")
    except CloneError as error:
        return Finding(Grade.DOUBTFUL, f"host {host} answers: {error}")
    return Finding(Grade.BAD, f"host {host} knows a server that does not exist")
