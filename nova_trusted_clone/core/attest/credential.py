"""TPM2_MakeCredential without a TPM (TPM 2.0 Library, part 1, 24; part 3, 12.6).

Only the TPM that holds the EK, with the very AK of that name loaded, gets the secret out: so an
authority that sees the secret again knows that the AK lives in the TPM whose EK it checked. For the
storage keys of the TCG's default EK templates: SHA-256, AES-128-CFB.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nova_trusted_clone.core.attest.tpm_structs import NAME_BYTES
from nova_trusted_clone.core.errors import MalformedInput

EkPublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def make_credential(
    ek_public_key: EkPublicKey, ak_name: bytes, secret: bytes, seed: bytes
) -> tuple[bytes, bytes]:
    """Return (id_object, encrypted_secret), the contents of TPM2B_ID_OBJECT and
    TPM2B_ENCRYPTED_SECRET.

    :param ak_name: the TPM's name of the AK, 34 bytes
    :param secret: at most 32 bytes, fresh and random
    :param seed: 32 fresh random bytes, used once
    :raises MalformedInput: if a length is wrong, or the EK is neither RSA-2048 nor P-256
    """
    if len(ak_name) != NAME_BYTES or len(seed) != 32 or not 1 <= len(secret) <= 32:
        raise MalformedInput(
            "credential: expected a name of 34 bytes, a seed of 32 and a secret of 1–32"
        )
    if isinstance(ek_public_key, rsa.RSAPublicKey) and ek_public_key.key_size == 2048:
        shared, encrypted = seed, _wrap_rsa(ek_public_key, seed)
    elif isinstance(ek_public_key, ec.EllipticCurvePublicKey) and isinstance(
        ek_public_key.curve, ec.SECP256R1
    ):
        shared, encrypted = _agree_ecc(ek_public_key, seed)
    else:
        raise MalformedInput("credential: expected an EK of RSA-2048 or P-256")
    return _protect(shared, ak_name, secret), encrypted


def _protect(seed: bytes, ak_name: bytes, secret: bytes) -> bytes:
    """Encrypt, then authenticate together with the AK's name (part 1, 24.4 and 24.5)."""
    key = kdf_a(seed, b"STORAGE", ak_name, 16)
    encrypted = _aes_cfb(key, struct.pack(">H", len(secret)) + secret)
    integrity_key = kdf_a(seed, b"INTEGRITY", b"", 32)
    integrity = hmac.digest(integrity_key, encrypted + ak_name, "sha256")
    return struct.pack(">H", len(integrity)) + integrity + encrypted


def _wrap_rsa(ek: rsa.RSAPublicKey, seed: bytes) -> bytes:
    """Part 1, B.10.3: OAEP with the null-terminated label."""
    sha256 = hashes.SHA256()
    return ek.encrypt(seed, padding.OAEP(padding.MGF1(sha256), sha256, b"IDENTITY\0"))


def _agree_ecc(ek: ec.EllipticCurvePublicKey, seed: bytes) -> tuple[bytes, bytes]:
    """Part 1, C.6.3: one-pass ECDH; the ephemeral key is made of ``seed``."""
    scalar = int.from_bytes(hashlib.sha512(b"trusted-clone/1/ephemeral" + seed).digest(), "big")
    ephemeral = ec.derive_private_key(scalar % (_P256_ORDER - 1) + 1, ec.SECP256R1())
    own, theirs = ephemeral.public_key().public_numbers(), ek.public_numbers()
    z = ephemeral.exchange(ec.ECDH(), ek)
    own_x, own_y = own.x.to_bytes(32, "big"), own.y.to_bytes(32, "big")
    parties = own_x + theirs.x.to_bytes(32, "big")
    # KDFe (part 1, 11.4.10.3): one round of SHA-256 gives all 256 bits.
    shared = hashlib.sha256(struct.pack(">I", 1) + z + b"IDENTITY\0" + parties).digest()
    return shared, struct.pack(">H", 32) + own_x + struct.pack(">H", 32) + own_y


def kdf_a(key: bytes, label: bytes, context: bytes, count: int) -> bytes:
    """Return ``count`` bytes of KDFa over HMAC-SHA-256 (part 1, 11.4.10.2); at most 32, which is
    one round."""
    message = struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", count * 8)
    return hmac.digest(key, message, "sha256")[:count]


def _aes_cfb(key: bytes, plain: bytes) -> bytes:
    """AES-CFB-128 with a zero IV, written out: the library keeps the mode for decrepit uses
    only."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    feedback, out = bytes(16), b""
    for start in range(0, len(plain), 16):
        chunk = plain[start : start + 16]
        stream = block.update(feedback)
        feedback = bytes(a ^ b for a, b in zip(chunk, stream, strict=False))
        out += feedback
    return out
