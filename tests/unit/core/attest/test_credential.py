"""MakeCredential, undone by hand as a TPM would: the right AK's name opens it, another does not."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from nova_trusted_clone.core.attest.credential import _aes_cfb, kdf_a, make_credential
from nova_trusted_clone.core.errors import MalformedInput
from tests.unit.core.software_tpm import key_from

NAME = b"\0\x0b" + hashlib.sha256(b"ak").digest()
SECRET, SEED = hashlib.sha256(b"secret").digest(), hashlib.sha256(b"seed").digest()


def keystream(key: bytes, encrypted: bytes) -> bytes:
    """CFB decryption by means of encryption: each block's stream is the encryption of the last
    ciphertext."""
    plain = b""
    for start in range(0, len(encrypted), 16):
        before = encrypted[start - 16 : start] if start else None
        block = encrypted[start : start + 16]
        # Encrypting a zero block after `before` yields the stream for this one.
        stream = _aes_cfb(key, bytes(16)) if before is None else _raw(key, before)
        plain += bytes(a ^ b for a, b in zip(block, stream, strict=False))
    return plain


def _raw(key: bytes, block: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def activate(seed: bytes, name: bytes, id_object: bytes) -> bytes | None:
    integrity, encrypted = id_object[2:34], id_object[34:]
    expected = hmac.digest(kdf_a(seed, b"INTEGRITY", b"", 32), encrypted + name, "sha256")
    if integrity != expected:
        return None
    return keystream(kdf_a(seed, b"STORAGE", name, 16), encrypted)[2:]


def test_the_holder_of_an_rsa_ek_opens_it() -> None:
    ek = rsa.generate_private_key(65537, 2048)
    id_object, wrapped = make_credential(ek.public_key(), NAME, SECRET, SEED)
    sha256 = hashes.SHA256()
    seed = ek.decrypt(wrapped, padding.OAEP(padding.MGF1(sha256), sha256, b"IDENTITY\0"))
    assert activate(seed, NAME, id_object) == SECRET
    assert activate(seed, NAME[:-1] + b"x", id_object) is None


def test_the_holder_of_an_ecc_ek_opens_it() -> None:
    ek = key_from("ek")
    id_object, point = make_credential(ek.public_key(), NAME, SECRET, SEED)
    x, y = point[2:34], point[36:68]
    ephemeral = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
    ).public_key()
    own_x = ek.public_key().public_numbers().x.to_bytes(32, "big")
    shared = ek.exchange(ec.ECDH(), ephemeral)
    seed = hashlib.sha256(b"\0\0\0\1" + shared + b"IDENTITY\0" + x + own_x).digest()
    assert activate(seed, NAME, id_object) == SECRET


@pytest.mark.parametrize(
    ("name", "secret", "seed"),
    [(NAME[1:], SECRET, SEED), (NAME, b"", SEED), (NAME, SECRET * 2, SEED), (NAME, SECRET, b"")],
)
def test_wrong_lengths_are_refused(name: bytes, secret: bytes, seed: bytes) -> None:
    with pytest.raises(MalformedInput):
        make_credential(key_from("ek").public_key(), name, secret, seed)


def test_a_weak_ek_is_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key()
    with pytest.raises(MalformedInput, match="RSA-2048"):
        make_credential(weak, NAME, SECRET, SEED)
