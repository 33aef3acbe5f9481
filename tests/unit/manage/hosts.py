"""A software host with a TPM of a maker, and an operator who knows the maker."""

import dataclasses
import functools
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nova_trusted_clone.core.attest import issue
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.tpm.fake import SoftwareTpm, shared_keys

YEAR_S = 365 * 86400


@dataclasses.dataclass(frozen=True)
class Maker:
    """A maker of TPMs."""

    key: ec.EllipticCurvePrivateKey
    root: bytes

    @property
    def pem(self) -> bytes:
        certificate = x509.load_der_x509_certificate(self.root)
        return certificate.public_bytes(serialization.Encoding.PEM)

    def tpm(self, label: str) -> SoftwareTpm:
        """A TPM that left the factory with an EK certificate; the same keys for the same label."""
        keys = shared_keys(label)
        now = int(time.time())
        certificate = issue.issue_ek_certificate(
            self.key,
            self.root,
            keys.endorsement.public_key(),
            f"TPM {label}",
            serial=7,
            not_before=now - 600,
            not_after=now + YEAR_S,
        )
        return SoftwareTpm(keys, certificate)


@functools.cache
def maker(name: str = "maker") -> Maker:
    key = ec.generate_private_key(ec.SECP256R1())
    now = int(time.time())
    # issue_ek_certificate marks leaves with the TCG's usage, which hosts' EKs share with vTPMs'.
    root = issue.make_root(
        Role.HOST_EK, name, key, serial=1, not_before=now - 600, not_after=now + YEAR_S
    )
    return Maker(key, root)
