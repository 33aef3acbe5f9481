"""A TPM made of a P-256 key and a PCR bank, and everything forged that a test wants.

It signs real TPMS_ATTEST structures; each field can be replaced before it is signed, which no real
TPM would do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AK_ATTRIBUTES = 0x50072  # fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign


def key_from(seed: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same seed."""
    return ec.derive_private_key(
        int.from_bytes(hashlib.sha256(seed.encode()).digest(), "big") >> 1, ec.SECP256R1()
    )


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def ecc_public(
    key: ec.EllipticCurvePublicKey,
    attributes: int = AK_ATTRIBUTES,
    *,
    name_alg: int = 0x0B,
    symmetric: int = 0x10,
    scheme: int = 0x18,
    scheme_hash: int = 0x0B,
    curve: int = 3,
) -> bytes:
    """TPMT_PUBLIC of an ECC key."""
    numbers = key.public_numbers()
    return (
        struct.pack(">HHI", 0x23, name_alg, attributes)
        + sized(b"")
        + struct.pack(">HHHHH", symmetric, scheme, scheme_hash, curve, 0x10)
        + sized(numbers.x.to_bytes(32, "big"))
        + sized(numbers.y.to_bytes(32, "big"))
    )


def rsa_public(key: rsa.RSAPublicKey, attributes: int = AK_ATTRIBUTES) -> bytes:
    """TPMT_PUBLIC of an RSA-2048 key with RSASSA."""
    return (
        struct.pack(">HHI", 1, 0x0B, attributes)
        + sized(b"")
        + struct.pack(">HHHHI", 0x10, 0x14, 0x0B, key.key_size, 0)
        + sized(key.public_numbers().n.to_bytes(256, "big"))
    )


def sign(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, data: bytes) -> bytes:
    """TPMT_SIGNATURE over ``data``."""
    if isinstance(key, rsa.RSAPrivateKey):
        raw = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return struct.pack(">HH", 0x14, 0x0B) + sized(raw)
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return (
        struct.pack(">HH", 0x18, 0x0B) + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))
    )


@dataclasses.dataclass
class SoftwareTpm:
    """Counters and a PCR bank beside an AK."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    pcrs: dict[int, bytes] = dataclasses.field(
        default_factory=lambda: {i: bytes(32) for i in range(24)}
    )
    clock: int = 1000
    reset_count: int = 7
    restart_count: int = 2
    firmware: int = 0x2024_0001

    @property
    def ak_public(self) -> bytes:
        public = self.key.public_key()
        return rsa_public(public) if isinstance(public, rsa.RSAPublicKey) else ecc_public(public)

    @property
    def ak_name(self) -> bytes:
        return b"\x00\x0b" + hashlib.sha256(self.ak_public).digest()

    def extend(self, measured: Iterable[tuple[int, bytes]]) -> None:
        for pcr, digest in measured:
            self.pcrs[pcr] = hashlib.sha256(self.pcrs[pcr] + digest).digest()

    def reboot(self) -> None:
        """Everything as before, the log replayed: only the counters tell."""
        self.reset_count += 1

    def attest(
        self,
        qualifying_data: bytes,
        pcrs: Sequence[int],
        *,
        magic: int = 0xFF544347,
        kind: int = 0x8018,
        signer: bytes | None = None,
        banks: Sequence[tuple[int, Sequence[int]]] | None = None,
        digest: bytes | None = None,
        tail: bytes = b"",
    ) -> bytes:
        """TPMS_ATTEST, every field as told."""
        self.clock += 1
        if signer is None:
            signer = b"\0\x0b" + hashlib.sha256(b"\x40\0\0\x0b" + self.ak_name).digest()
        if digest is None:
            digest = hashlib.sha256(b"".join(self.pcrs[i] for i in sorted(pcrs))).digest()
        selection = b"".join(
            struct.pack(">HB", bank, 3) + sum(1 << i for i in chosen).to_bytes(3, "little")
            for bank, chosen in (banks if banks is not None else [(0x0B, pcrs)])
        )
        count = len(banks) if banks is not None else 1
        return (
            struct.pack(">IH", magic, kind)
            + sized(signer)
            + sized(qualifying_data)
            + struct.pack(
                ">QIIBQ", self.clock, self.reset_count, self.restart_count, 1, self.firmware
            )
            + struct.pack(">I", count)
            + selection
            + sized(digest)
            + tail
        )

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> tuple[bytes, bytes]:
        """(TPMS_ATTEST, TPMT_SIGNATURE), honest."""
        attest = self.attest(qualifying_data, pcrs)
        return attest, sign(self.key, attest)
