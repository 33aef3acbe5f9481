"""The operator's authority: four roots, a signer of orders, and the register of hosts, in one
directory.

For labs and small clouds; a large one keeps the roots' keys in an HSM and uses the same formats.
The directory holds every private key of the operator: mode 0700, on a machine that runs no guests.

======================  ==============================================================
attestation-ca          certifies the AKs of hosts
vtpm-root               certifies each host's vTPM CA
control-ca, control     certifies the signer of orders, and that signer
host-ek-roots.pem       whose hardware TPMs may enrol: roots (or CAs) of TPM makers
anchors.pem             the first three roots: what hosts and tenants need
hosts.json              the register
======================  ==============================================================
"""

from __future__ import annotations

import pathlib
import secrets
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nova_trusted_clone.clone import private_files
from nova_trusted_clone.clone.registry import Registry
from nova_trusted_clone.clone.signer import ORDER_TERM_S, SIGNER, OrderSigner, Pair, read_pair
from nova_trusted_clone.clone.signer import AuthorityError as AuthorityError
from nova_trusted_clone.clone.signer import CloneTerms as CloneTerms
from nova_trusted_clone.core.attest import issue
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.order import SignedOrder

ROOT_TERM_S = 20 * 365 * 86400
"""Roots outlive the hosts; they are replaced by adding a second anchor."""

HOST_TERM_S = 5 * 365 * 86400
"""A host's certificates: about the life of the machine."""

SIGNER_TERM_S = 2 * 365 * 86400
"""The signer's key is on a machine that is online, so it is the one to renew most often."""

CLOCK_SKEW_S = 300

_ROOTS = {
    "attestation-ca": (Role.ATTESTATION, "attestation CA"),
    "vtpm-root": (Role.VTPM, "vTPM root"),
    "control-ca": (Role.CONTROL, "control CA"),
}


class Authority:
    """An authority's directory that exists."""

    def __init__(self, directory: pathlib.Path) -> None:
        """:raises AuthorityError: when there is none in ``directory``"""
        if not (directory / "anchors.pem").is_file():
            raise AuthorityError(f"{directory}: no authority here; make one with authority create")
        self._directory = directory
        self.registry = Registry(directory / "hosts.json")

    @classmethod
    def create(cls, directory: pathlib.Path, name: str, host_ek_roots: bytes) -> Authority:
        """Make an authority in ``directory``, which must be empty or new.

        :param name: the operator's, for the certificates' subjects
        :param host_ek_roots: PEM of the TPM makers' roots; checked, and kept as it is
        :raises AuthorityError: when something stands there already
        :raises MalformedInput: when the roots are not certificates
        """
        if not TrustAnchors.from_pem(b"", host_ek_roots).host_ek:
            raise MalformedInput("host EK roots: no certificate in it, expected at least one")
        private_files.make_directory(directory)
        if any(directory.iterdir()):
            raise AuthorityError(f"{directory}: not empty; an authority is never overwritten")
        roots = {
            file: _make_root(role, f"{name} {title}") for file, (role, title) in _ROOTS.items()
        }
        for file, pair in roots.items():
            _write_pair(directory, file, pair)
        _write_pair(directory, SIGNER, _make_signer(roots["control-ca"], f"{name} order signer"))
        private_files.write(directory / "host-ek-roots.pem", host_ek_roots, new=True)
        # Last: its presence tells that the directory is complete.
        bundle = b"".join(_pem(pair.certificate) for pair in roots.values())
        private_files.write(directory / "anchors.pem", bundle, new=True)
        return cls(directory)

    @property
    def directory(self) -> pathlib.Path:
        """Where it is."""
        return self._directory

    def anchors_pem(self) -> bytes:
        """Return the bundle that hosts and tenants get."""
        return (self._directory / "anchors.pem").read_bytes()

    def anchors(self) -> TrustAnchors:
        """Return every root, those of hosts' TPMs too."""
        return TrustAnchors.from_pem(
            self.anchors_pem(), (self._directory / "host-ek-roots.pem").read_bytes()
        )

    def certify_ak(self, host_id: str, ak_public: bytes) -> bytes:
        """Return a certificate, DER, for a host's AK; the caller has proved whose it is."""
        pair = self._pair("attestation-ca")
        return issue.issue_ak_certificate(
            pair.key,
            pair.certificate,
            host_id,
            ak_public,
            serial=_serial(),
            not_before=_now() - CLOCK_SKEW_S,
            not_after=_now() + HOST_TERM_S,
        )

    def certify_vtpm_ca(self, host_id: str, public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Return a certificate, DER, for a host's vTPM CA; the caller has proved whose it is."""
        pair = self._pair("vtpm-root")
        return issue.issue_vtpm_ca(
            pair.key,
            pair.certificate,
            host_id,
            public_key,
            serial=_serial(),
            not_before=_now() - CLOCK_SKEW_S,
            not_after=_now() + HOST_TERM_S,
        )

    def sign_order(self, terms: CloneTerms, lifetime_s: int = ORDER_TERM_S) -> SignedOrder:
        """Return a signed order for ``terms``, with the AK names under which both hosts enrolled.

        :raises RegistryError: when one of them is not
        """
        return OrderSigner(self._directory).sign(terms, lifetime_s)

    def _pair(self, name: str) -> Pair:
        return read_pair(self._directory, name)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM (PKCS #8), not encrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _make_root(role: Role, name: str) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue.make_root(
        role,
        name,
        key,
        serial=_serial(),
        not_before=_now() - CLOCK_SKEW_S,
        not_after=_now() + ROOT_TERM_S,
    )
    return Pair(key, certificate)


def _make_signer(root: Pair, name: str) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue.issue_control_certificate(
        root.key,
        root.certificate,
        name,
        key.public_key(),
        serial=_serial(),
        not_before=_now() - CLOCK_SKEW_S,
        not_after=_now() + SIGNER_TERM_S,
    )
    return Pair(key, certificate)


def _write_pair(directory: pathlib.Path, name: str, pair: Pair) -> None:
    private_files.write(directory / f"{name}.key", key_pem(pair.key), new=True)
    private_files.write(directory / f"{name}.pem", _pem(pair.certificate), new=True)


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def _serial() -> int:
    return secrets.randbits(127) + 1


def _now() -> int:
    return int(time.time())
