"""The files of an enrolment, which travel between a host and the authority.

==========  ===================
====================================================================== request     host to authority
EK certificate, AK, the vTPM CA's public key; signed by the vTPM CA's key challenge   authority to
host    a secret that only the TPM of that EK with that AK can open response    host to authority
proof of the secret; a quote by the AK over the request and the proof grant       authority to host
certificates of the AK and the vTPM CA, and the anchors ==========  ===================
======================================================================

JSON, bytes in base64; nothing in them is secret. Each is untrusted until its receiver judged it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import json
from typing import Any, ClassVar, Self

import cbor2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from nova_trusted_clone.core.attest import roles, strict_json
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.core.errors import MalformedInput

MAX_FILE = 256 * 1024
_MAX_FIELD = 64 * 1024


@dataclasses.dataclass(frozen=True)
class EnrolmentFile:
    """What they share: a kind, a host id, and fields of bytes (or tuples of bytes) in base64."""

    KIND: ClassVar[str]
    host_id: str

    def encode(self) -> bytes:
        """Return the file's content."""
        raw: dict[str, Any] = {"format": f"trusted-clone-enrolment-{self.KIND}/1"}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bytes):
                raw[field.name] = base64.b64encode(value).decode()
            elif isinstance(value, tuple):
                raw[field.name] = [base64.b64encode(item).decode() for item in value]
            else:
                raw[field.name] = value
        return json.dumps(raw, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the file in ``data``.

        :raises MalformedInput: naming the field
        """
        what = f"enrolment {cls.KIND}"
        raw = strict_json.load(data, what, MAX_FILE)
        fields = [field.name for field in dataclasses.fields(cls)]
        strict_json.keys(raw, what, ["format", *fields])
        expected = f"trusted-clone-enrolment-{cls.KIND}/1"
        if raw["format"] != expected:
            raise MalformedInput(f"{what}.format: found {raw['format']!r:.80}, expected {expected}")
        values = {name: _value(raw[name], f"{what}.{name}") for name in fields if name != "host_id"}
        host_id = strict_json.text(raw["host_id"], f"{what}.host_id", 63)
        made = cls(host_id=roles.require_host_id(host_id), **values)
        made.check_shape(what)
        return made

    def check_shape(self, what: str) -> None:
        """Raise ``MalformedInput`` where a list stands for bytes, or bytes for a list."""
        for field in dataclasses.fields(self):
            wanted = tuple if str(field.type).startswith("tuple") else bytes
            value = getattr(self, field.name)
            if field.name != "host_id" and not isinstance(value, wanted):
                raise MalformedInput(f"{what}.{field.name}: expected {wanted.__name__}")


def _value(raw: object, where: str) -> bytes | tuple[bytes, ...]:
    if isinstance(raw, list):
        if len(raw) > len(HOST_PCRS):
            raise MalformedInput(f"{where}: {len(raw)} items, expected at most {len(HOST_PCRS)}")
        return tuple(_bytes(item, f"{where}[{number}]") for number, item in enumerate(raw))
    return _bytes(raw, where)


def _bytes(raw: object, where: str) -> bytes:
    text = strict_json.text(raw, where, _MAX_FIELD)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedInput(f"{where}: not base64 ({error})") from error


@dataclasses.dataclass(frozen=True)
class Request(EnrolmentFile):
    """A host asks.

    :ivar ek_certificate: DER, from the TPM
    :ivar ak_public: TPMT_PUBLIC
    :ivar vtpm_ca_public: SubjectPublicKeyInfo, DER
    :ivar possession: signature by the vTPM CA's key over :meth:`statement`
    """

    KIND: ClassVar[str] = "request"
    ek_certificate: bytes
    ak_public: bytes
    vtpm_ca_public: bytes
    possession: bytes

    def statement(self) -> bytes:
        """Return what is asked, without the signature, as one injective encoding."""
        return cbor2.dumps(
            [
                "trusted-clone/1/enrolment request",
                self.host_id,
                self.ek_certificate,
                self.ak_public,
                self.vtpm_ca_public,
            ]
        )


@dataclasses.dataclass(frozen=True)
class Challenge(EnrolmentFile):
    """The authority's TPM credential (TPM2_MakeCredential).

    :ivar request_sha256: of the request's statement
    """

    KIND: ClassVar[str] = "challenge"
    request_sha256: bytes
    id_object: bytes
    encrypted_secret: bytes


@dataclasses.dataclass(frozen=True)
class Response(EnrolmentFile):
    """The host's proof.

    :ivar proof: HMAC of the request by the secret
    :ivar pcrs: values of PCR 0 to 7, which the quote names
    """

    KIND: ClassVar[str] = "response"
    proof: bytes
    attest: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True)
class Grant(EnrolmentFile):
    """What an enrolled host gets.

    :ivar ak_certificate: DER, as is ``vtpm_ca_certificate``
    :ivar anchors: PEM, the operator's roots
    """

    KIND: ClassVar[str] = "grant"
    ak_certificate: bytes
    vtpm_ca_certificate: bytes
    anchors: bytes


def quoted_data(request: Request, proof: bytes) -> bytes:
    """Return the qualifying data by which the AK takes the whole request, its vTPM CA too, as
    its own."""
    digest = hashlib.sha256(request.statement()).digest()
    return hashlib.sha256(cbor2.dumps(["trusted-clone/1/enrolment", digest, proof])).digest()


def proof_of(secret: bytes, request: Request) -> bytes:
    """Return the proof that ``secret`` is known, for this request alone."""
    message = b"trusted-clone/1/enrolment proof\0" + request.statement()
    return hmac.digest(secret, message, "sha256")


def public_der(key: PublicKeyTypes) -> bytes:
    """Return a public key's SubjectPublicKeyInfo, DER."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
