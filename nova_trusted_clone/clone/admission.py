"""Enrolment of a host, at the authority: who may enrol, and proof before any certificate.

The AK that gets the certificate is the one that the TPM activated; the EK chains to a maker whom
the operator named; one EK is one host, and whoever comes first keeps it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import pathlib
import secrets
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nova_trusted_clone.clone import private_files
from nova_trusted_clone.clone.authority import Authority
from nova_trusted_clone.clone.enrolment import EnrolmentError
from nova_trusted_clone.clone.enrolment_files import (
    Challenge,
    Grant,
    Request,
    Response,
    proof_of,
    public_der,
    quoted_data,
)
from nova_trusted_clone.clone.registry import EnrolledHost
from nova_trusted_clone.core.attest import certchain, certificate, credential, quote, tpm_structs
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.core.attest.roles import Role, require_host_id
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput

PENDING_TERM_S = 86400
"""A challenge is answered by a person with a file, within a day."""

_SECRET_SIZE = 32


def challenge(authority: Authority, asked: Request) -> Challenge:
    """Judge a request and return a credential for its EK and its AK's name; keep the secret.

    :raises Refused: when the EK does not chain to a named maker, or the AK is not one to trust
    :raises RegistryError: when host or EK are taken
    """
    ek, _ak = _judge_request(authority, asked)
    key = tpm_structs.parse_attestation_key(asked.ak_public)
    authority.registry.require_free(asked.host_id, _sha256(public_der(ek)))
    secret = secrets.token_bytes(_SECRET_SIZE)
    id_object, encrypted = credential.make_credential(
        ek, key.name, secret, secrets.token_bytes(_SECRET_SIZE)
    )
    _keep_pending(authority, asked, secret)
    return Challenge(
        host_id=asked.host_id,
        request_sha256=_sha256(asked.statement()),
        id_object=id_object,
        encrypted_secret=encrypted,
    )


def grant(authority: Authority, answered: Response) -> Grant:
    """Judge the proof and certify the very AK and vTPM CA of the request that was challenged.

    A challenge is good for one answer, right or wrong.

    :raises EnrolmentError: when nothing is pending for this host, or it is too old
    :raises Refused: when proof or quote do not hold
    :raises RegistryError: when host or EK were taken in between
    """
    asked, secret = _take_pending(authority, answered.host_id)
    ek, ak = _judge_request(authority, asked)
    _judge_response(asked, ak, secret, answered).require()
    vtpm_ca = serialization.load_der_public_key(asked.vtpm_ca_public)
    assert isinstance(vtpm_ca, ec.EllipticCurvePublicKey)  # judged with the request
    host = EnrolledHost(asked.host_id, _sha256(public_der(ek)), ak.name, int(time.time()))
    with authority.registry.claiming(host):
        return Grant(
            host_id=asked.host_id,
            ak_certificate=authority.certify_ak(asked.host_id, asked.ak_public),
            vtpm_ca_certificate=authority.certify_vtpm_ca(asked.host_id, vtpm_ca),
            anchors=authority.anchors_pem(),
        )


def _judge_request(
    authority: Authority, asked: Request
) -> tuple[credential.EkPublicKey, tpm_structs.AttestationKey]:
    """Return EK and AK of a request that holds."""
    chain = certchain.verify_chain(
        asked.ek_certificate, (), authority.anchors(), Role.HOST_EK, int(time.time())
    )
    verdict = chain + Verdict.of(
        "trusted-clone.enrolment.possession",
        _possession_holds(asked),
        "the vTPM CA's signature over the request",
        "a good one by a P-256 key",
    )
    verdict.require()
    ek = certificate.read(asked.ek_certificate, "EK certificate").public_key
    if not isinstance(ek, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise MalformedInput("EK certificate: expected an RSA-2048 or P-256 key")
    return ek, tpm_structs.parse_attestation_key(asked.ak_public)


def _possession_holds(asked: Request) -> bool:
    try:
        key = serialization.load_der_public_key(asked.vtpm_ca_public)
    except (ValueError, TypeError) as error:
        raise MalformedInput(f"enrolment request.vtpm_ca_public: no key ({error})") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    try:
        key.verify(asked.possession, asked.statement(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _judge_response(
    asked: Request, ak: tpm_structs.AttestationKey, secret: bytes, answered: Response
) -> Verdict:
    verdict = Verdict.of(
        "trusted-clone.enrolment.proof",
        hmac.compare_digest(answered.proof, proof_of(secret, asked)),
        f"a proof of {len(answered.proof)} bytes",
        "one that only the TPM of this EK with this AK can make",
    )
    if len(answered.pcrs) != len(HOST_PCRS):
        raise MalformedInput(f"enrolment response.pcrs: expected {len(HOST_PCRS)} values")
    quoted, _facts = quote.verify_quote(
        ak,
        answered.attest,
        answered.signature,
        qualifying_data=quoted_data(asked, answered.proof),
        pcrs=dict(zip(HOST_PCRS, answered.pcrs, strict=True)),
    )
    return verdict + quoted


def _pending_file(authority: Authority, host_id: str) -> pathlib.Path:
    directory = authority.directory / "pending"
    private_files.make_directory(directory)
    return directory / f"{require_host_id(host_id)}.json"


def _keep_pending(authority: Authority, asked: Request, secret: bytes) -> None:
    raw = {
        "request": asked.encode().decode(),
        "secret": secret.hex(),
        "expires_at": int(time.time()) + PENDING_TERM_S,
    }
    private_files.write(_pending_file(authority, asked.host_id), json.dumps(raw).encode())


def _take_pending(authority: Authority, host_id: str) -> tuple[Request, bytes]:
    path = _pending_file(authority, host_id)
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise EnrolmentError(
            f"host {host_id}: no challenge is pending; challenge its request first"
        ) from error
    path.unlink()
    if raw["expires_at"] < int(time.time()):
        raise EnrolmentError(f"host {host_id}: its challenge expired; challenge its request anew")
    return Request.decode(raw["request"].encode()), bytes.fromhex(raw["secret"])


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
