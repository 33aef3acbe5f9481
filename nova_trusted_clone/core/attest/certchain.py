"""Judging a chain of certificates against the roots of its role (RFC 5280, 6, without policies and
names).

Chains are short and their issuers known, so the order is given by the peer and every rule stands
here: no path building, no fetching, no revocation (an AK certificate is short-lived; a host is
revoked by taking it out of the policy).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nova_trusted_clone.core.attest import certificate, roles
from nova_trusted_clone.core.attest.certificate import Certificate
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput

MAX_CHAIN = 4  # leaf, two intermediates, root
MAX_BUNDLE_BYTES = 256 * 1024
_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


@dataclasses.dataclass(frozen=True)
class TrustAnchors:
    """The roots, DER, each good for one role only."""

    attestation: tuple[bytes, ...] = ()
    vtpm: tuple[bytes, ...] = ()
    control: tuple[bytes, ...] = ()
    host_ek: tuple[bytes, ...] = ()

    @classmethod
    def from_pem(cls, bundle: bytes, host_ek_bundle: bytes = b"") -> TrustAnchors:
        """Return the anchors of a PEM bundle; each root's role is told by its extended key usage.

        :param host_ek_bundle: roots of makers of TPMs, which cannot know our roles: good for hosts'
            EKs only
        :raises MalformedInput: naming the subject of a certificate without exactly one role
        """
        found: dict[Role, list[bytes]] = {role: [] for role in Role}
        for anchor in _read_bundle(bundle, "anchors"):
            found[_role_of(anchor)].append(anchor.der)
        found[Role.HOST_EK] += [
            anchor.der for anchor in _read_bundle(host_ek_bundle, "host EK anchors")
        ]
        return cls(
            attestation=tuple(found[Role.ATTESTATION]),
            vtpm=tuple(found[Role.VTPM]),
            control=tuple(found[Role.CONTROL]),
            host_ek=tuple(found[Role.HOST_EK]),
        )

    def of(self, role: Role) -> tuple[bytes, ...]:
        """Return the roots of one role."""
        return {
            Role.ATTESTATION: self.attestation,
            Role.VTPM: self.vtpm,
            Role.CONTROL: self.control,
            Role.HOST_EK: self.host_ek,
        }[role]


def _read_bundle(bundle: bytes, what: str) -> list[Certificate]:
    if len(bundle) > MAX_BUNDLE_BYTES:
        raise MalformedInput(
            f"{what}: found {len(bundle)} bytes, expected at most {MAX_BUNDLE_BYTES}"
        )
    if not bundle.strip():
        return []
    try:
        loaded = x509.load_pem_x509_certificates(bundle)
        encoded = [item.public_bytes(serialization.Encoding.DER) for item in loaded]
    except certificate.UNREADABLE as error:
        raise MalformedInput(f"{what}: not a PEM bundle of certificates ({error})") from error
    # The parser passes over a block that was cut off: a root would be missing without a word.
    begun = bundle.count(_PEM_BEGIN)
    if begun != len(loaded):
        raise MalformedInput(f"{what}: {begun} certificates begin and {len(loaded)} are whole")
    return [certificate.read(der, f"{what}, number {n}") for n, der in enumerate(encoded, 1)]


def _role_of(anchor: Certificate) -> Role:
    found = [role for role in Role if role.authority_usage in anchor.usages]
    if len(found) != 1 or not anchor.is_authority:
        kinds = ", ".join(role.value for role in found) or "none"
        raise MalformedInput(
            f"anchor {anchor.subject}: found roles {kinds}, expected an authority with exactly"
            " one role in its extended key usage; make roots with the manage command",
            code="trusted-clone.certificate.role",
        )
    return found[0]


def verify_chain(
    leaf_der: bytes,
    intermediates: Sequence[bytes],
    anchors: TrustAnchors,
    role: Role,
    now: int,
) -> Verdict:
    """Judge whether ``leaf_der`` chains to a root of ``role`` at ``now`` (seconds since 1970).

    :param intermediates: the leaf's issuer first, without the root
    """
    if len(intermediates) > MAX_CHAIN - 2:
        return Verdict.of(
            "trusted-clone.certificate.length",
            False,
            f"{len(intermediates)} intermediates",
            f"at most {MAX_CHAIN - 2}",
        )
    try:
        chain = [certificate.read(leaf_der, f"{role.value} certificate")]
        for number, der in enumerate(intermediates, 1):
            chain.append(certificate.read(der, f"{role.value} intermediate {number}"))
        roots = [certificate.read(der, f"{role.value} root") for der in anchors.of(role)]
    except MalformedInput as error:
        return Verdict.of(
            "trusted-clone.certificate.malformed", False, error, "readable certificates"
        )
    root = next((root for root in roots if root.issued(chain[-1])), None)
    verdict = Verdict.of(
        "trusted-clone.certificate.anchor",
        root is not None,
        f"{chain[-1].subject}, issued by {chain[-1].issuer}",
        f"one issued by one of the {len(roots)} {role.value} roots",
    )
    chain += [root] if root is not None else []
    verdict += _judge_leaf(chain[0], role)
    for depth, issuer in enumerate(chain[1:]):
        verdict += Verdict.of(
            "trusted-clone.certificate.issuer",
            issuer.issued(chain[depth]),
            f"{chain[depth].subject} beside {issuer.subject}",
            "the latter to have issued the former",
        )
        verdict += _judge_authority(issuer, depth, role, is_root=issuer is root)
    return verdict + Verdict.joined(_judge_any(item, now, item is root) for item in chain)


def _judge_leaf(leaf: Certificate, role: Role) -> Verdict:
    verdict = Verdict.of(
        "trusted-clone.certificate.leaf",
        not leaf.is_authority and not leaf.certifies,
        f"{leaf.subject}{' (an authority)' if leaf.is_authority else ''}",
        "an end certificate",
    )
    usable = leaf.encrypts if role in (Role.VTPM, Role.HOST_EK) else leaf.signs
    return verdict + Verdict.of(
        "trusted-clone.certificate.role",
        role.leaf_usage in leaf.usages and usable,
        f"{leaf.subject} for {_usages_text(leaf)}",
        f"a key usage fit for, and the extended key usage {role.leaf_usage.dotted_string}",
    )


def _judge_authority(issuer: Certificate, below: int, role: Role, *, is_root: bool) -> Verdict:
    """``below`` is the number of authorities between ``issuer`` and the leaf."""
    verdict = Verdict.of(
        "trusted-clone.certificate.authority",
        issuer.is_authority and issuer.certifies,
        issuer.subject,
        "an authority by basicConstraints and keyUsage",
    )
    limit = issuer.path_length
    verdict += Verdict.of(
        "trusted-clone.certificate.path-length",
        limit is None or below <= limit,
        f"{below} authorities below {issuer.subject}",
        f"at most {limit}",
    )
    if role is Role.HOST_EK:
        return verdict  # makers of TPMs know nothing of our roles; their roots are named apart
    others = [
        other for other in Role if other is not role and other.authority_usage in issuer.usages
    ]
    return verdict + Verdict.of(
        "trusted-clone.certificate.role",
        role.authority_usage in issuer.usages and not others,
        f"{'root' if is_root else 'intermediate'} {issuer.subject} for {_usages_text(issuer)}",
        f"the {role.value} role alone ({role.authority_usage.dotted_string})",
    )


def _judge_any(item: Certificate, now: int, is_root: bool) -> Verdict:
    verdict = Verdict.of(
        "trusted-clone.certificate.expired",
        item.valid_at(now),
        f"{item.subject}, valid from {item.not_before} to {item.not_after}",
        f"one valid at {now}",
    )
    verdict += Verdict.of(
        "trusted-clone.certificate.key",
        # A root is trusted for being named, not for what it says of itself.
        item.key_is_strong and (is_root or item.signature_is_strong),
        item.subject,
        "a key of P-256, Ed25519 or RSA from 2048 bits, signed over SHA-2",
    )
    return verdict + Verdict.of(
        "trusted-clone.certificate.critical",
        not item.unknown_critical,
        f"{item.subject} with critical {', '.join(item.unknown_critical) or 'none'}",
        "no critical extension that is not understood",
    )


def _usages_text(item: Certificate) -> str:
    return ", ".join(sorted(usage.dotted_string for usage in item.usages)) or "no usage"


def host_of(der: bytes, what: str = "certificate") -> str:
    """Return the host id in a certificate's alternative name (of an AK, or of a host's vTPM
    authority).

    :raises MalformedInput: unless there is exactly one
    """
    uris = certificate.read(der, what).uris
    found = [uri for uri in uris if uri.startswith(roles.HOST_URI)]
    if len(found) != 1:
        raise MalformedInput(f"{what}: found {len(found)} URIs {roles.HOST_URI}…, expected one")
    return roles.require_host_id(found[0].removeprefix(roles.HOST_URI))


def ak_certificate_identity(der: bytes) -> tuple[str, bytes]:
    """Return host id and TPM name of the AK that a (verified) AK certificate vouches for.

    The name covers the key's attributes, which its public key alone does not.

    :raises MalformedInput: if one of them is missing
    """
    name = certificate.read(der, "AK certificate").ak_name
    if name is None:
        raise MalformedInput(
            f"AK certificate: no extension {roles.AK_NAME.dotted_string} with the AK's name"
        )
    return host_of(der, "AK certificate"), name
