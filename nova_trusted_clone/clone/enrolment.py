"""Enrolment of a host, on the host: it asks, proves that its AK lives in its TPM, and installs the
grant.

The vTPM CA's key is made here and never leaves. The AK itself quotes over the request, so that a
vTPM CA key swapped on the way is noticed. The authority's side is ``admission``.
"""

from __future__ import annotations

import hashlib
import pathlib
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nova_trusted_clone.clone import private_files
from nova_trusted_clone.clone.authority import key_pem
from nova_trusted_clone.clone.enrolment_files import (
    Challenge,
    Grant,
    Request,
    Response,
    proof_of,
    public_der,
    quoted_data,
)
from nova_trusted_clone.clone.identity import AK_CHAIN, AK_PUBLIC, VTPM_CA, VTPM_CA_KEY
from nova_trusted_clone.core.attest import certchain, certificate, tpm_structs
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.core.attest.roles import Role, require_host_id
from nova_trusted_clone.tpm.base import EnrolmentTpm

_REQUEST = "request.json"
_NEW_KEY = "vtpm-ca.key.new"


class EnrolmentError(Exception):
    """An enrolment that cannot go on; the message names the host and what to do."""


def request(tpm: EnrolmentTpm, host_id: str, identity: pathlib.Path) -> Request:
    """Make the host's vTPM CA key in ``identity`` and return the request for its certificates.

    A former identity stays in use until :func:`install`.
    """
    require_host_id(host_id)
    private_files.make_directory(identity)
    key = ec.generate_private_key(ec.SECP256R1())
    unsigned = Request(
        host_id=host_id,
        ek_certificate=tpm.ek_certificate(),
        ak_public=tpm.ak_public(),
        vtpm_ca_public=public_der(key.public_key()),
        possession=b"",
    )
    possession = key.sign(unsigned.statement(), ec.ECDSA(hashes.SHA256()))
    made = Request(**{**vars(unsigned), "possession": possession})
    private_files.write(identity / _NEW_KEY, key_pem(key))
    private_files.write(identity / _REQUEST, made.encode())
    return made


def respond(tpm: EnrolmentTpm, identity: pathlib.Path, challenged: Challenge) -> Response:
    """Open the authority's credential with the TPM and return the proof.

    :raises EnrolmentError: when the challenge answers another request
    :raises TpmError: when the credential is not for this TPM and AK
    """
    asked = _own_request(identity)
    digest = hashlib.sha256(asked.statement()).digest()
    if challenged.request_sha256 != digest or challenged.host_id != asked.host_id:
        raise EnrolmentError(
            f"challenge for {challenged.host_id}: it answers another request than the last one "
            f"of {asked.host_id}; send the last request to the authority"
        )
    secret = tpm.activate_credential(challenged.id_object, challenged.encrypted_secret)
    proof = proof_of(secret, asked)
    pcrs = tpm.read_pcrs(HOST_PCRS)
    made = tpm.quote(quoted_data(asked, proof), HOST_PCRS)
    return Response(
        host_id=asked.host_id,
        proof=proof,
        attest=made.attest,
        signature=made.signature,
        pcrs=tuple(pcrs[pcr] for pcr in HOST_PCRS),
    )


def install(identity: pathlib.Path, granted: Grant) -> None:
    """Write the certificates beside the key that never left this host, after checking that they are
    for it.

    :raises EnrolmentError: when they are for another host, AK or key
    """
    asked = _own_request(identity)
    new_key = identity / _NEW_KEY
    if not new_key.is_file():
        raise EnrolmentError(f"{new_key}: missing; make a new request")
    _require_ours(asked, granted)
    anchors = certchain.TrustAnchors.from_pem(granted.anchors)
    now_s = int(time.time())
    certchain.verify_chain(granted.ak_certificate, (), anchors, Role.ATTESTATION, now_s).require()
    private_files.write(identity / AK_PUBLIC, asked.ak_public)
    private_files.write(identity / AK_CHAIN, _pem(granted.ak_certificate))
    private_files.write(identity / VTPM_CA, _pem(granted.vtpm_ca_certificate))
    private_files.write(identity / "anchors.pem", granted.anchors)
    new_key.replace(identity / VTPM_CA_KEY)


def _require_ours(asked: Request, granted: Grant) -> None:
    host_id, ak_name = certchain.ak_certificate_identity(granted.ak_certificate)
    key = tpm_structs.parse_attestation_key(asked.ak_public)
    ca = certificate.read(granted.vtpm_ca_certificate, "vTPM CA certificate")
    if not (host_id == granted.host_id == asked.host_id == certchain.host_of(ca.der)):
        raise EnrolmentError(f"grant for {host_id}: expected one for {asked.host_id}")
    if ak_name != key.name:
        raise EnrolmentError(f"grant for {host_id}: it certifies another AK than this host's")
    ca_key = ca.public_key
    if (
        not isinstance(ca_key, ec.EllipticCurvePublicKey)
        or public_der(ca_key) != asked.vtpm_ca_public
    ):
        raise EnrolmentError(f"grant for {host_id}: it certifies another vTPM CA than this host's")


def _own_request(identity: pathlib.Path) -> Request:
    try:
        return Request.decode((identity / _REQUEST).read_bytes())
    except FileNotFoundError as error:
        raise EnrolmentError(f"{identity}: no request was made here; make one first") from error


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
