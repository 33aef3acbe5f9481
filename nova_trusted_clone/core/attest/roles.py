"""Roles of certificates and the object identifiers that carry them.

EKs of hardware TPMs and of vTPMs share the TCG's extended key usage, so that it cannot tell a host
from a tenant's vTPM: a tenant could enrol as a host. Every authority of ours therefore carries a
role of its own, and each role has its own roots.

The identifiers stand under a UUID-derived arc (ITU-T X.667: 2.25.<UUID as a number>), which needs
no registration and cannot collide. The UUID b9675c88-9d94-4237-b327-5bc3122f456a was made at random
for this project and never changes.
"""

from __future__ import annotations

import enum
import re

from cryptography import x509

from nova_trusted_clone.core.errors import MalformedInput

ARC = "2.25.246443862602120541893494185251388212586"

TCG_EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")  # TCG EK Credential Profile 2.5, 3.2
TCG_AK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.3")
ORDER_SIGNER = x509.ObjectIdentifier(f"{ARC}.5")
AK_NAME = x509.ObjectIdentifier(f"{ARC}.10")  # extension: OCTET STRING of the TPM's name of the AK

HOST_URI = "urn:trusted-clone:host:"
HOST_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}", re.ASCII)


class Role(enum.Enum):
    """What a chain of certificates is for."""

    ATTESTATION = "attestation"  # AK certificates of hosts
    VTPM = "vtpm"  # EK certificates of vTPMs
    CONTROL = "control"  # signers of orders
    HOST_EK = "host-ek"  # EK certificates of hosts' own TPMs, from their makers

    @property
    def authority_usage(self) -> x509.ObjectIdentifier:
        """The extended key usage of this role's authorities."""
        return x509.ObjectIdentifier(f"{ARC}.{_AUTHORITY_ARCS[self]}")

    @property
    def leaf_usage(self) -> x509.ObjectIdentifier:
        """The extended key usage of this role's end certificates."""
        return _LEAF_USAGES[self]


_AUTHORITY_ARCS = {Role.ATTESTATION: 1, Role.VTPM: 2, Role.CONTROL: 3, Role.HOST_EK: 4}
_LEAF_USAGES = {
    Role.ATTESTATION: TCG_AK_CERTIFICATE,
    Role.VTPM: TCG_EK_CERTIFICATE,
    Role.CONTROL: ORDER_SIGNER,
    Role.HOST_EK: TCG_EK_CERTIFICATE,
}


def require_host_id(host_id: str) -> str:
    """Return ``host_id``; raise :class:`MalformedInput` unless it is 1–63 of a–z, 0–9, dot and
    hyphen.

    It names files and policy entries, so it can never be a path.
    """
    if not HOST_ID.fullmatch(host_id) or ".." in host_id:
        raise MalformedInput(
            f"host id: found {host_id[:80]!r}, expected 1–63 of a-z, 0-9, '.' and '-', no '..'"
        )
    return host_id
