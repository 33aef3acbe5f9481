"""Orders: one for each destination of a freeze, signed by the operator's signing key."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.clone.registry import RegistryError
from nova_trusted_clone.clone.signer import AuthorityError, CloneTerms, OrderSigner
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol.order import check_terms
from nova_trusted_clone.objects.clone import Attempt, Freeze, Group


class OrderRefused(Exception):
    """No order is signed; the text says why.

    :ivar code: stable
    """

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Orders:
    """Signs the orders of this control plane."""

    def __init__(
        self, signer_directory: pathlib.Path, policy_file: pathlib.Path, lifetime_s: int
    ) -> None:
        self._signer = OrderSigner(signer_directory)
        self._policy_file = policy_file
        self._lifetime_s = lifetime_s

    def require_enrolled(self, host_id: str) -> None:
        """Raise unless the register has a host.

        :raises OrderRefused: naming it
        """
        try:
            self._signer.registry.get(host_id)
        except RegistryError as error:
            raise OrderRefused(str(error), "trusted-clone.host.not-enrolled") from error
        except (CoreError, OSError) as error:
            raise _unusable(error) from error

    def policy(self) -> tuple[Policy, bytes]:
        """Return the policy of now, and the file's bytes.

        :raises OrderRefused: when it cannot be used
        """
        try:
            data = self._policy_file.read_bytes()
            return Policy.parse(data), data
        except (CoreError, OSError) as error:
            raise _unusable(error) from error

    def require_clonable(self, inspection: Mapping[str, Any], group: Group, policy: Policy) -> None:
        """Raise unless a server, as its host describes it, can be cloned as the group asks.

        The source's engine asks all this again, of itself; here it is asked before anything begins.

        :raises OrderRefused: naming every reason
        """
        found = list(inspection["obstacles"])
        if not inspection["running"]:
            found.append("the server is not running")
        if policy.require_generation_id and not inspection["has_generation_id"]:
            found.append("the server has no generation id, which the policy requires")
        if inspection["has_vtpm"] == (group.vtpm == "none"):
            has = "a" if inspection["has_vtpm"] else "no"
            found.append(f"the server has {has} vTPM, and the request says vtpm={group.vtpm}")
        if found:
            raise OrderRefused("; ".join(dict.fromkeys(found)), "trusted-clone.source.obstacles")
        if inspection["policy_sha256"] != policy.sha256.hex():
            raise OrderRefused(
                f"host {inspection['host_id']} has another policy file (SHA-256 "
                f"{inspection['policy_sha256'][:16]}…) than the "
                f"conductor ({policy.sha256.hex()[:16]}…): bring the same file to both",
                "trusted-clone.policy.differs",
            )

    def sign(
        self,
        freeze: Freeze,
        attempt: Attempt,
        group: Group,
        inspection: Mapping[str, Any],
        policy: Policy,
    ) -> bytes:
        """Return the signed order of one attempt.

        :raises OrderRefused: when a host is not enrolled, the policy does not allow it, or the key cannot be used
        """
        terms = CloneTerms(
            clone_id=bytes.fromhex(attempt.id),
            freeze_group=bytes.fromhex(freeze.id),
            project_id=group.project_id,
            user_id=group.user_id,
            source_server=uuid.UUID(group.source_server).bytes,
            destination_server=uuid.UUID(attempt.server_id).bytes,
            source_host=inspection["host_id"],
            destination_host=attempt.host_id,
            disks=tuple((target, size) for target, size in inspection["disks"]),
            memory_bytes=inspection["memory_bytes"],
            policy_sha256=policy.sha256,
            vtpm_mode=group.vtpm,
            memory_mode=group.memory,
            tenant_nonce=bytes.fromhex(group.nonce),
        )
        try:
            lifetime_s = min(self._lifetime_s, policy.max_order_seconds)
            signed = self._signer.sign(terms, lifetime_s)
            verdict = check_terms(signed.order(), policy)
            raw = signed.encode()
        except RegistryError as error:
            raise OrderRefused(str(error), "trusted-clone.host.not-enrolled") from error
        except (AuthorityError, CoreError, OSError) as error:
            raise _unusable(error) from error
        if not verdict.ok:
            raise OrderRefused(f"order: {verdict}", verdict.failures[0].code)
        return raw


def _unusable(error: Exception) -> OrderRefused:
    return OrderRefused(f"the conductor cannot sign: {error}", "trusted-clone.signer.unusable")
