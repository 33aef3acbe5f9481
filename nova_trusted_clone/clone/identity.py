"""What enrolment installed on a host: the directory that the host's services read.

============  =====================================================================
ak.pem        the AK's certificate (and intermediates), leaf first
ak.pub        the AK's TPMT_PUBLIC
vtpm-ca.pem   the certificate of this host's vTPM CA
vtpm-ca.key   its key, made here
anchors.pem   the operator's roots, as of the enrolment
============  =====================================================================
"""

from __future__ import annotations

import dataclasses
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nova_trusted_clone.core.attest import certchain, tpm_structs
from nova_trusted_clone.core.errors import CoreError

AK_CHAIN = "ak.pem"
AK_PUBLIC = "ak.pub"
VTPM_CA = "vtpm-ca.pem"
VTPM_CA_KEY = "vtpm-ca.key"


class IdentityError(Exception):
    """The identity directory is missing or not whole; the message names the file."""


@dataclasses.dataclass(frozen=True)
class HostIdentity:
    """An enrolled host.

    :ivar host_id: as the AK certificate has it
    :ivar ak_public: TPMT_PUBLIC
    :ivar ak_chain: DER, leaf first, without the root
    """

    directory: pathlib.Path
    host_id: str
    ak_public: bytes
    ak_chain: tuple[bytes, ...]

    @property
    def vtpm_ca_key(self) -> pathlib.Path:
        """PEM of the vTPM CA's key."""
        return self.directory / VTPM_CA_KEY

    @property
    def vtpm_ca_certificate(self) -> pathlib.Path:
        """PEM of the vTPM CA's certificate."""
        return self.directory / VTPM_CA


def load(directory: pathlib.Path) -> HostIdentity:
    """Return the identity in ``directory``.

    :raises IdentityError: when the host is not enrolled, or certificate and AK do not belong
        together
    """
    try:
        path = directory / AK_CHAIN
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
        chain = tuple(item.public_bytes(serialization.Encoding.DER) for item in certificates)
        host_id, ak_name = certchain.ak_certificate_identity(chain[0])
        path = directory / AK_PUBLIC
        ak_public = path.read_bytes()
        key = tpm_structs.parse_attestation_key(ak_public)
    except (OSError, ValueError, CoreError) as error:
        raise IdentityError(f"{path}: {error}; enrol this host") from error
    if ak_name != key.name:
        raise IdentityError(
            f"identity in {directory}: {AK_CHAIN} certifies another AK than {AK_PUBLIC}"
        )
    return HostIdentity(directory, host_id, ak_public, chain)
