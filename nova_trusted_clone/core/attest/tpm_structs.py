"""Strict reading of the TPM 2.0 structures that a verifier needs, and nothing more.

Every TPM2B has a length limit of its own, trailing bytes are refused, and only the two kinds of
attestation key that are worth trusting are understood: P-256/ECDSA/SHA-256 and
RSA-2048/RSASSA/SHA-256 (TPM 2.0 Library, part 2: TPMT_PUBLIC 12.2.4, TPMS_ATTEST 10.12.8,
TPMT_SIGNATURE 11.3.4). No TSS is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from nova_trusted_clone.core.errors import MalformedInput

ALG_RSA, ALG_ECC, ALG_SHA256, ALG_NULL, ALG_RSASSA, ALG_ECDSA = 0x01, 0x23, 0x0B, 0x10, 0x14, 0x18
ECC_NIST_P256 = 0x0003
GENERATED_VALUE = (
    0xFF544347  # TPM_GENERATED: only the TPM puts it in front of what a restricted key signs
)
ST_ATTEST_QUOTE = 0x8018
RH_ENDORSEMENT = 0x4000000B

FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 0x2, 0x10, 0x20
USER_WITH_AUTH, ADMIN_WITH_POLICY, NO_DA = 0x40, 0x80, 0x400
RESTRICTED, SIGN = 0x10000, 0x40000
# A key without one of these can be imported, duplicated or made to sign a forged quote.
REQUIRED_ATTRIBUTES = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
ALLOWED_ATTRIBUTES = REQUIRED_ATTRIBUTES | USER_WITH_AUTH | ADMIN_WITH_POLICY | NO_DA

MAX_PUBLIC_BYTES = 1024
MAX_ATTEST_BYTES = 2048
MAX_SIGNATURE_BYTES = 600
NAME_BYTES = 34  # nameAlg, then SHA-256

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Reader:
    """A cursor over big-endian TPM structures that never reads past the end."""

    def __init__(self, data: bytes, what: str, limit: int) -> None:
        if not isinstance(data, bytes):
            raise MalformedInput(f"{what}: found {type(data).__name__}, expected bytes")
        if len(data) > limit:
            raise MalformedInput(f"{what}: found {len(data)} bytes, expected at most {limit}")
        self._data = data
        self._what = what
        self._offset = 0

    def take(self, count: int, field: str) -> bytes:
        """Return the next ``count`` bytes."""
        value = self._data[self._offset : self._offset + count]
        if len(value) != count:
            raise MalformedInput(f"{self._what}: {field} ends after {len(value)} of {count} bytes")
        self._offset += count
        return value

    def uint(self, size: int, field: str) -> int:
        """Return the next ``size`` bytes as an unsigned number."""
        return int.from_bytes(self.take(size, field), "big")

    def sized(self, most: int, field: str) -> bytes:
        """Return the next TPM2B's content, at most ``most`` bytes."""
        count = self.uint(2, f"{field}'s length")
        if count > most:
            raise MalformedInput(
                f"{self._what}: {field} claims {count} bytes, expected at most {most}"
            )
        return self.take(count, field)

    def end(self) -> None:
        """Raise unless everything has been read."""
        if self._offset != len(self._data):
            rest = len(self._data) - self._offset
            raise MalformedInput(f"{self._what}: {rest} bytes follow its end, expected none")


@dataclasses.dataclass(frozen=True)
class AttestationKey:
    """The public half of an attestation key whose attributes are good.

    :ivar name: the TPM's name for it: nameAlg and SHA-256 of the TPMT_PUBLIC, 34 bytes
    :ivar raw: the TPMT_PUBLIC
    """

    public_key: PublicKey
    name: bytes
    raw: bytes

    @property
    def scheme(self) -> int:
        """The only signature algorithm that is accepted from it."""
        return ALG_RSASSA if isinstance(self.public_key, rsa.RSAPublicKey) else ALG_ECDSA

    @property
    def qualified_name(self) -> bytes:
        """Its qualified name as a primary of the endorsement hierarchy (part 1, 16).

        A key of another hierarchy has another one: its quotes carry obfuscated reset counters and
        cannot be compared.
        """
        parent = struct.pack(">I", RH_ENDORSEMENT)
        return struct.pack(">H", ALG_SHA256) + hashlib.sha256(parent + self.name).digest()


def parse_attestation_key(tpmt: bytes) -> AttestationKey:
    """Return the key in a marshalled TPMT_PUBLIC.

    :raises MalformedInput: if it is not exactly a TPMT_PUBLIC, or one of a key that could sign a
        forged quote
    """
    reader = Reader(tpmt, "attestation key", MAX_PUBLIC_BYTES)
    key_type, name_alg, attributes = (
        reader.uint(2, "type"),
        reader.uint(2, "nameAlg"),
        reader.uint(4, "objectAttributes"),
    )
    reader.sized(64, "authPolicy")
    _require("nameAlg", name_alg, ALG_SHA256)
    if attributes & REQUIRED_ATTRIBUTES != REQUIRED_ATTRIBUTES or attributes & ~ALLOWED_ATTRIBUTES:
        raise MalformedInput(
            f"attestation key: found attributes {attributes:#x}, expected a restricted signing"
            f" key, fixed to its TPM and made by it ({REQUIRED_ATTRIBUTES:#x})",
            code="trusted-clone.key.attributes",
        )
    _require("symmetric algorithm", reader.uint(2, "symmetric"), ALG_NULL)
    if key_type == ALG_RSA:
        public_key: PublicKey = _rsa_key(reader)
    elif key_type == ALG_ECC:
        public_key = _ecc_key(reader)
    else:
        raise MalformedInput(f"attestation key: found type {key_type:#x}, expected RSA or ECC")
    name = struct.pack(">H", ALG_SHA256) + hashlib.sha256(tpmt).digest()
    return AttestationKey(public_key, name, tpmt)


def _require(field: str, found: int, expected: int) -> None:
    if found != expected:
        raise MalformedInput(
            f"attestation key: found {field} {found:#x}, expected {expected:#x}",
            code="trusted-clone.key.algorithm",
        )


def _rsa_key(reader: Reader) -> rsa.RSAPublicKey:
    _require("scheme", reader.uint(2, "scheme"), ALG_RSASSA)
    _require("scheme's hash", reader.uint(2, "scheme's hash"), ALG_SHA256)
    _require("key bits", reader.uint(2, "keyBits"), 2048)
    exponent = reader.uint(4, "exponent") or 65537  # part 2, 12.2.3.5: zero means the default
    _require("exponent", exponent, 65537)
    modulus = reader.sized(256, "modulus")
    reader.end()
    if len(modulus) != 256 or not modulus[0] & 0x80 or not modulus[-1] & 1:
        raise MalformedInput(
            "attestation key: the modulus is not an odd number of exactly 2048 bits"
        )
    return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "big")).public_key()


def _ecc_key(reader: Reader) -> ec.EllipticCurvePublicKey:
    _require("scheme", reader.uint(2, "scheme"), ALG_ECDSA)
    _require("scheme's hash", reader.uint(2, "scheme's hash"), ALG_SHA256)
    _require("curve", reader.uint(2, "curveID"), ECC_NIST_P256)
    _require("key derivation", reader.uint(2, "kdf"), ALG_NULL)
    x, y = reader.sized(32, "x"), reader.sized(32, "y")
    reader.end()
    try:
        return ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        ).public_key()
    except ValueError as error:
        raise MalformedInput("attestation key: the point is not on curve P-256") from error


@dataclasses.dataclass(frozen=True)
class PcrSelection:
    """One bank of a quote's selection: the hash algorithm and the chosen indexes, ascending."""

    algorithm: int
    pcrs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Attest:
    """A TPMS_ATTEST of the quote type, read and not judged (its header's magic and type are kept
    for the judge)."""

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


def attest_header(attest: bytes) -> tuple[int, int]:
    """Return magic and type of a TPMS_ATTEST."""
    reader = Reader(attest, "attestation", MAX_ATTEST_BYTES)
    return reader.uint(4, "magic"), reader.uint(2, "type")


def parse_attest(attest: bytes) -> Attest:
    """Return the fields of a marshalled TPMS_ATTEST with the body of a quote.

    :raises MalformedInput: if it is not exactly that; magic and type are for :func:`attest_header`
    """
    reader = Reader(attest, "attestation", MAX_ATTEST_BYTES)
    reader.take(6, "magic and type")
    signer, extra = reader.sized(68, "qualifiedSigner"), reader.sized(64, "extraData")
    clock, reset, restart = (
        reader.uint(8, "clock"),
        reader.uint(4, "resetCount"),
        reader.uint(4, "restartCount"),
    )
    safe, firmware = reader.uint(1, "safe"), reader.uint(8, "firmwareVersion")
    if safe > 1:
        raise MalformedInput(f"attestation: found safe {safe}, expected 0 or 1")
    banks = reader.uint(4, "number of banks")
    if banks > 16:  # HASH_COUNT of the largest known TPM is below this
        raise MalformedInput(f"attestation: found {banks} banks, expected at most 16")
    selections = tuple(_selection(reader) for _ in range(banks))
    digest = reader.sized(64, "pcrDigest")
    reader.end()
    return Attest(signer, extra, clock, reset, restart, bool(safe), firmware, selections, digest)


def _selection(reader: Reader) -> PcrSelection:
    algorithm, size = reader.uint(2, "bank"), reader.uint(1, "sizeofSelect")
    if size != 3:  # 24 PCRs, as the PC Client profile has them
        raise MalformedInput(
            f"attestation: found a selection of {size} bytes, expected 3 (24 PCRs)"
        )
    bits = int.from_bytes(reader.take(3, "pcrSelect"), "little")
    return PcrSelection(algorithm, tuple(i for i in range(24) if bits >> i & 1))


def signature_holds(key: AttestationKey, message: bytes, signature: bytes) -> bool:
    """Return whether a marshalled TPMT_SIGNATURE over ``message`` is the key's, by its own
    algorithm.

    ECDSA signatures are malleable: never use their bytes as an identity.

    :raises MalformedInput: if it is not exactly a TPMT_SIGNATURE of the key's algorithm
    """
    reader = Reader(signature, "signature", MAX_SIGNATURE_BYTES)
    for field, expected in (("algorithm", key.scheme), ("hash", ALG_SHA256)):
        found = reader.uint(2, field)
        if found != expected:
            raise MalformedInput(
                f"signature: found {field} {found:#x}, expected the key's, {expected:#x}",
                code="trusted-clone.quote.algorithm",
            )
    try:
        if isinstance(key.public_key, rsa.RSAPublicKey):
            raw = reader.sized(256, "RSA signature")
            reader.end()
            key.public_key.verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            r = int.from_bytes(reader.sized(32, "r"), "big")
            s = int.from_bytes(reader.sized(32, "s"), "big")
            reader.end()
            key.public_key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
