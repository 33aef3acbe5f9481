"""The host's vTPM CA: certificates for the EKs of this host's vTPMs, in one way for new and derived
ones.

The CA's key was made on this host at enrolment and never leaves it; the operator's vTPM root
certified it with the host's id, so that a vTPM's EK certificate tells on which host it was made.
"""

from __future__ import annotations

import pathlib
import secrets
import struct
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nova_trusted_clone.core.attest import issue
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.tpm import templates
from nova_trusted_clone.vtpm.base import VtpmError

TERM_S = 10 * 365 * 86400
"""A server may live for years and its EK certificate cannot be renewed in place; the host's CA
may end earlier, which ends it too."""

CLOCK_SKEW_S = 300
"""Hosts' clocks differ: a certificate is valid from a little earlier than now."""

_MAX_NAME = 64
"""RFC 5280, ub-common-name."""


class EkIssuer:
    """Issues EK certificates by the host's vTPM CA."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: bytes,
        *,
        kept_by_host: bool = False,
    ) -> None:
        """:param certificate: the CA's own, DER
        :param kept_by_host: the guests of this host see nothing of their vTPMs (Xen), which each certificate says
        """
        self._kept_by_host = kept_by_host
        self._key = key
        self._certificate = certificate

    def __repr__(self) -> str:
        """Say nothing of the key."""
        return "EkIssuer()"

    @classmethod
    def from_files(
        cls, key_file: pathlib.Path, certificate_file: pathlib.Path, *, kept_by_host: bool = False
    ) -> EkIssuer:
        """Read the CA that enrolment installed, both in PEM.

        :param kept_by_host: as for the class
        :raises VtpmError: when they cannot be read or do not belong together
        """
        try:
            path = key_file
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            path = certificate_file
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise VtpmError(f"the host's vTPM CA: {path}: {error}; enrol the host") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise VtpmError(f"{key_file}: expected an elliptic-curve key, as enrolment makes it")
        if certificate.public_key() != key.public_key():
            raise VtpmError(f"{certificate_file}: another key's certificate than {key_file}")
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(key, der, kept_by_host=kept_by_host)

    @property
    def intermediates(self) -> tuple[bytes, ...]:
        """The certificates between an EK's and the operator's vTPM root, DER."""
        return (self._certificate,)

    def certify(self, ek_public: bytes, name: str) -> tuple[bytes, ...]:
        """Return the chain of a new EK certificate, DER, leaf first, without the root.

        :param ek_public: the RSA EK's TPMT_PUBLIC, from the TPM itself
        :param name: for people; cut to what a certificate holds
        """
        now_s = int(time.time())
        try:
            leaf = issue.issue_ek_certificate(
                self._key,
                self._certificate,
                rsa_key_of(ek_public),
                name[:_MAX_NAME],
                serial=secrets.randbits(127) + 1,
                not_before=now_s - CLOCK_SKEW_S,
                not_after=now_s + TERM_S,
                kept_by_host=self._kept_by_host,
            )
        except CoreError as error:
            raise VtpmError(f"EK certificate for {name!r}: {error}") from error
        return (leaf, *self.intermediates)


def rsa_key_of(ek_public: bytes) -> rsa.RSAPublicKey:
    """Return the key of an EK's TPMT_PUBLIC that came from template L-1.

    :raises VtpmError: when it is another kind of key
    """
    head = templates.EK_RSA_TEMPLATE[:-256]
    if len(ek_public) != len(templates.EK_RSA_TEMPLATE) or not ek_public.startswith(head):
        raise VtpmError("EK: expected an RSA-2048 key of the TCG's default template, found another")
    exponent = struct.unpack_from(">I", head, len(head) - 6)[0] or 65537
    return rsa.RSAPublicNumbers(exponent, int.from_bytes(ek_public[-256:], "big")).public_key()
