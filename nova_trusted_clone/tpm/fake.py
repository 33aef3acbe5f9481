"""A TPM that needs no TPM: real keys, real TPMS_ATTEST bytes and signatures, PCRs and counters, all
in memory.

For tests and for whole clones in one process. What it vouches for proves nothing about any
hardware.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import os
import struct
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nova_trusted_clone import ports
from nova_trusted_clone.core.attest.credential import kdf_a
from nova_trusted_clone.tpm import base, templates

_MAGIC = 0xFF544347
_QUOTE = 0x8018
_FIRMWARE = 0x2026_0101_0000_0001


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys that a TPM is born with; the same keys make the same TPM, for a reboot or a
    copied state."""

    attestation: ec.EllipticCurvePrivateKey
    endorsement: rsa.RSAPrivateKey

    @classmethod
    def generate(cls) -> Keys:
        """Make new ones."""
        return cls(
            ec.generate_private_key(ec.SECP256R1()),
            rsa.generate_private_key(public_exponent=65537, key_size=2048),
        )


class SoftwareTpm:
    """``ports.Tpm`` and ``EnrolmentTpm`` in memory."""

    def __init__(
        self,
        keys: Keys | None = None,
        certificate: bytes | None = None,
        *,
        pcrs: Mapping[int, bytes] | None = None,
    ) -> None:
        """:param certificate: the EK certificate, DER; without one enrolment is refused
        :param pcrs: values to start with, of a state that was copied
        """
        self.keys = keys or Keys.generate()
        self.certificate = certificate
        self._pcrs = {**_power_on_values(), **(pcrs or {})}
        self._clock_ms = 1
        self._resets = 1
        self._restarts = 0

    def reboot(self) -> None:
        """Reset: PCRs start over, the reset counter advances, keys stay."""
        self._pcrs = _power_on_values()
        self._resets += 1
        self._restarts = 0

    def random(self, count: int) -> bytes:
        """Return random bytes of the operating system."""
        base.require_count(count)
        return os.urandom(count)

    def ak_public(self) -> bytes:
        """Return the AK's TPMT_PUBLIC."""
        return templates.ecc_signing_public(*_point(self.keys.attestation.public_key()))

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> ports.Quote:
        """Quote as TPM2_Quote does (part 2, 10.12.8; part 3, 18.4)."""
        base.require_digest("qualifying data", qualifying_data)
        selected = base.require_pcrs(pcrs)
        self._clock_ms += 1
        digest = hashlib.sha256(b"".join(self._pcrs[pcr] for pcr in selected)).digest()
        attest = (
            struct.pack(">IH", _MAGIC, _QUOTE)
            + _sized(templates.qualified_name_of_primary(self.ak_public()))
            + _sized(qualifying_data)
            + struct.pack(">QIIBQ", self._clock_ms, self._resets, self._restarts, 1, _FIRMWARE)
            + struct.pack(">IHB", 1, templates.ALG_SHA256, 3)
            + sum(1 << pcr for pcr in selected).to_bytes(3, "little")
            + _sized(digest)
        )
        return ports.Quote(attest, self._sign(attest))

    def read_pcrs(self, pcrs: Sequence[int]) -> Mapping[int, bytes]:
        """Return the values by index."""
        return {pcr: self._pcrs[pcr] for pcr in base.require_pcrs(pcrs)}

    def extend(self, pcr: int, digest: bytes) -> None:
        """Extend ``pcr`` by ``digest``."""
        base.require_pcrs([pcr])
        base.require_digest("PCR event digest", digest)
        self._pcrs[pcr] = hashlib.sha256(self._pcrs[pcr] + digest).digest()

    def ek_certificate(self) -> bytes:
        """Return the EK certificate that was given."""
        if self.certificate is None:
            raise base.NoEkCertificateError("this software TPM was made without an EK certificate")
        return self.certificate

    def ek_public(self) -> bytes:
        """Return the EK's TPMT_PUBLIC."""
        modulus = self.keys.endorsement.public_key().public_numbers().n
        return templates.rsa_endorsement_public(modulus.to_bytes(256, "big"))

    def activate_credential(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """Return the secret, as TPM2_ActivateCredential does (part 1, 24)."""
        try:
            return self._activate(id_object, encrypted_secret)
        except (ValueError, struct.error) as error:
            raise base.CredentialRefusedError(
                f"software TPM: the credential is for another AK or EK ({error})"
            ) from error

    def close(self) -> None:
        """Nothing is open."""

    def _sign(self, message: bytes) -> bytes:
        der = self.keys.attestation.sign(message, ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return (
            struct.pack(">HH", templates.ALG_ECDSA, templates.ALG_SHA256)
            + _sized(r.to_bytes(32, "big"))
            + _sized(s.to_bytes(32, "big"))
        )

    def _activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        name = templates.name_of(self.ak_public())
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        seed = self.keys.endorsement.decrypt(encrypted_secret, oaep)
        (size,) = struct.unpack_from(">H", id_object)
        integrity, encrypted = id_object[2 : 2 + size], id_object[2 + size :]
        key = kdf_a(seed, b"INTEGRITY", b"", 32)
        if not hmac.compare_digest(integrity, hmac.digest(key, encrypted + name, "sha256")):
            raise ValueError("integrity")
        plain = _aes_cfb_decrypted(kdf_a(seed, b"STORAGE", name, 16), encrypted)
        (length,) = struct.unpack_from(">H", plain)
        if len(plain) != 2 + length:
            raise ValueError("length")
        return plain[2:]


def _power_on_values() -> dict[int, bytes]:
    """PCR 17 to 22 start as ones until a dynamic launch, the rest as zeros (PC Client Platform
    TPM Profile, 4.6.2)."""
    ones = range(17, 23)
    return {pcr: (b"\xff" if pcr in ones else b"\0") * 32 for pcr in range(base.PCR_COUNT)}


def _point(public: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    numbers = public.public_numbers()
    return numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")


def _sized(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _aes_cfb_decrypted(key: bytes, data: bytes) -> bytes:
    """AES-CFB with a zero IV, of ECB: cryptography keeps moving its CFB."""
    block, feedback, plain = Cipher(algorithms.AES(key), modes.ECB()).encryptor(), bytes(16), b""
    for start in range(0, len(data), 16):
        chunk = data[start : start + 16]
        stream = block.update(feedback)
        plain += bytes(a ^ b for a, b in zip(chunk, stream, strict=False))
        feedback = chunk
    return plain


@functools.cache
def shared_keys(label: str) -> Keys:
    """Return the same keys for the same ``label`` within a process: RSA keys take long to make,
    tests are many."""
    del label  # it is the cache's key
    return Keys.generate()
