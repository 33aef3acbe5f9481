"""The public templates of the keys that this project uses, marshalled, in one place.

A primary key is derived from the hierarchy's seed and its template: the same template gives the
same key after every boot, so nothing needs to be stored, and a change here makes other keys and
voids every enrolment.
"""

from __future__ import annotations

import hashlib
import struct

# TPM_ALG_ID (TPM 2.0 Library, part 2, 6.3)
ALG_RSA = 0x0001
ALG_AES = 0x0006
ALG_SHA256 = 0x000B
ALG_NULL = 0x0010
ALG_ECDSA = 0x0018
ALG_ECC = 0x0023
ALG_CFB = 0x0043
ECC_P256 = 0x0003

RH_ENDORSEMENT = 0x4000000B

# TPMA_OBJECT (part 2, 8.3)
FIXED_TPM = 1 << 1
FIXED_PARENT = 1 << 4
SENSITIVE_DATA_ORIGIN = 1 << 5
USER_WITH_AUTH = 1 << 6
ADMIN_WITH_POLICY = 1 << 7
NO_DA = 1 << 10
RESTRICTED = 1 << 16
DECRYPT = 1 << 17
SIGN = 1 << 18

AK_ATTRIBUTES = (
    FIXED_TPM
    | FIXED_PARENT
    | SENSITIVE_DATA_ORIGIN
    | USER_WITH_AUTH
    | NO_DA  # the AK has no authorization value to guess: a lockout must not stop attestation
    | RESTRICTED  # signs only what the TPM itself made: an unrestricted key could forge quotes
    | SIGN
)
"""Why a primary in the endorsement hierarchy: only there are reset and restart counters shown
plainly in a quote; elsewhere they
are obfuscated and a reboot could not be told."""

AK_LABEL = hashlib.sha256(b"trusted-clone/1/attestation key").digest()
"""Stands in ``unique.x``, so that the key is this project's own and not another program's from
the same common template."""

EK_ATTRIBUTES = (
    FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT
)

EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicySecret(TPM_RH_ENDORSEMENT): TCG EK Credential Profile 2.x, B.2."""

EK_CERTIFICATE_RSA = 0x01C00002
"""NV index of the RSA-2048 EK's certificate (EK Credential Profile, 2.2.1.4)."""

EK_CERTIFICATE_ECC = 0x01C0000A
"""NV index of the P-256 EK's certificate."""

EK_HANDLE_RSA = 0x81010001
"""Persistent handle at which guests look for the RSA EK (TCG Provisioning Guidance, 7.8)."""


def _sized(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def ecc_signing_public(x: bytes, y: bytes) -> bytes:
    """Return a TPMT_PUBLIC of an AK by its point; with the label as ``x`` and no ``y`` it is the
    template."""
    return (
        struct.pack(">HHI", ALG_ECC, ALG_SHA256, AK_ATTRIBUTES)
        + _sized(b"")
        + struct.pack(">HHHHH", ALG_NULL, ALG_ECDSA, ALG_SHA256, ECC_P256, ALG_NULL)
        + _sized(x)
        + _sized(y)
    )


def _ek_head(kind: int) -> bytes:
    return (
        struct.pack(">HHI", kind, ALG_SHA256, EK_ATTRIBUTES)
        + _sized(EK_POLICY)
        + struct.pack(">HHHH", ALG_AES, 128, ALG_CFB, ALG_NULL)
    )


def rsa_endorsement_public(modulus: bytes) -> bytes:
    """Return a TPMT_PUBLIC of an RSA-2048 EK (template L-1); 256 zeros as the modulus is the
    template."""
    return _ek_head(ALG_RSA) + struct.pack(">HI", 2048, 0) + _sized(modulus)


def ecc_endorsement_public(x: bytes, y: bytes) -> bytes:
    """Return a TPMT_PUBLIC of a P-256 EK (template L-2); zeros as the point are the template."""
    return _ek_head(ALG_ECC) + struct.pack(">HH", ECC_P256, ALG_NULL) + _sized(x) + _sized(y)


AK_TEMPLATE = ecc_signing_public(AK_LABEL, b"")
EK_RSA_TEMPLATE = rsa_endorsement_public(bytes(256))
EK_ECC_TEMPLATE = ecc_endorsement_public(bytes(32), bytes(32))


def name_of(public: bytes) -> bytes:
    """Return the TPM name of an object with a SHA-256 name algorithm (part 1, 16)."""
    return struct.pack(">H", ALG_SHA256) + hashlib.sha256(public).digest()


def qualified_name_of_primary(public: bytes) -> bytes:
    """Return the qualified name of a primary in the endorsement hierarchy (part 1, 26.5)."""
    digest = hashlib.sha256(struct.pack(">I", RH_ENDORSEMENT) + name_of(public)).digest()
    return struct.pack(">H", ALG_SHA256) + digest
