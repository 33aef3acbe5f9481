"""The contract of a TPM adapter: its errors, its limits, and what enrolment needs beyond
``ports.Tpm``.

Quotes and reads name the SHA-256 bank only; every digest is 32 bytes. An adapter serves one
process; two processes that share one TPM are kept apart by the adapter (``esys``) or by the
kernel's resource manager.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nova_trusted_clone import ports

DIGEST_SIZE = 32
"""SHA-256, the one bank that this project uses."""

PCR_COUNT = 24
"""PC Client platforms have 24 PCRs (TCG PC Client Platform TPM Profile, 4.6)."""

MAX_RANDOM = 1024
"""Bytes a caller may ask for at once; more would keep other users of the TPM waiting."""


class TpmError(Exception):
    """Something between this program and the TPM went wrong; the message names the TPM and the
    step."""


class TpmUnreachableError(TpmError):
    """The TPM's transport cannot be opened, broke or did not answer in time."""


class TpmBusyError(TpmError):
    """Another process holds the TPM and did not let go in time."""


class NoEkCertificateError(TpmError):
    """The TPM carries no certificate of its endorsement key."""


class CredentialRefusedError(TpmError):
    """The TPM did not release the credential: it was made for another AK or another EK."""


class EnrolmentTpm(ports.Tpm, Protocol):
    """A TPM during enrolment: it also shows its endorsement key and proves that the AK lives
    beside it."""

    def ek_certificate(self) -> bytes:
        """Return the EK certificate, DER, as its maker wrote it.

        :raises NoEkCertificateError: when there is none
        """

    def ek_public(self) -> bytes:
        """Return the TPMT_PUBLIC of the EK that the certificate is about, marshalled."""

    def activate_credential(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """Return the secret of a credential made for this AK and this EK (TPM 2.0 Library, part 3,
        12.5).

        :param id_object: a TPMS_ID_OBJECT, marshalled (HMAC and encrypted secret)
        :param encrypted_secret: the seed, encrypted to the EK
        :raises CredentialRefusedError: when it is another's
        """


def require_digest(what: str, value: bytes) -> None:
    """Raise ``ValueError`` unless ``value`` is a SHA-256 digest."""
    if len(value) != DIGEST_SIZE:
        raise ValueError(f"{what}: {len(value)} bytes, expected {DIGEST_SIZE}")


def require_pcrs(pcrs: Sequence[int]) -> tuple[int, ...]:
    """Return ``pcrs`` in ascending order; raise ``ValueError`` when empty, repeated or out of
    range."""
    ordered = tuple(sorted(pcrs))
    if not ordered or len(set(ordered)) != len(ordered):
        raise ValueError(f"PCR selection {list(pcrs)}: expected distinct indices, at least one")
    if ordered[0] < 0 or ordered[-1] >= PCR_COUNT:
        raise ValueError(f"PCR selection {list(pcrs)}: expected indices 0 to {PCR_COUNT - 1}")
    return ordered


def require_count(count: int) -> None:
    """Raise ``ValueError`` unless ``count`` random bytes may be asked for at once."""
    if not 0 < count <= MAX_RANDOM:
        raise ValueError(f"{count} random bytes: expected 1 to {MAX_RANDOM}")
