"""A real TPM 2.0, through libtss2's ESAPI: the host's hardware TPM, or an swtpm.

Every call opens the TPM, makes the AK again from its template, does its work, flushes and closes (2
ms on swtpm), so that two processes of one host take turns and nothing is left in the TPM's few
object slots. ``batch`` joins several calls into one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMT_HA,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMU_HA,
    TSS2_Exception,
)

from nova_trusted_clone import ports
from nova_trusted_clone.tpm import base, connection, nv, templates

_RANDOM_AT_ONCE = 32
"""A TPM may return as little as its largest digest per TPM2_GetRandom (part 3, 16.1)."""

_PCRS_AT_ONCE = 8
"""TPML_DIGEST, what TPM2_PCR_Read returns, holds eight digests."""

_EKS = (
    (templates.EK_CERTIFICATE_RSA, templates.EK_RSA_TEMPLATE),
    (templates.EK_CERTIFICATE_ECC, templates.EK_ECC_TEMPLATE),
)


class EsysTpm:
    """``ports.Tpm`` and ``EnrolmentTpm`` on a real TPM 2.0. Safe to use from several threads."""

    def __init__(self, transport: str, *, lock_wait_s: float = connection.LOCK_WAIT_S) -> None:
        """:param transport: ``device:/dev/tpmrm0`` or ``swtpm:<Unix data socket>``"""
        self._transport = connection.Transport.parse(transport)
        self._lock_wait_s = lock_wait_s
        self._mutex = threading.RLock()
        self._esys: Any = None

    def __repr__(self) -> str:
        """Return where the TPM is."""
        return f"EsysTpm({str(self._transport)!r})"

    @contextlib.contextmanager
    def batch(self) -> Iterator[Any]:
        """Hold the TPM for several calls; yields the ESAPI. Nested batches share the outermost
        connection."""
        with self._mutex:
            if self._esys is not None:
                yield self._esys
                return
            with connection.opened(self._transport, self._lock_wait_s) as esys:
                self._esys = esys
                try:
                    yield esys
                finally:
                    self._esys = None

    def random(self, count: int) -> bytes:
        """Return ``count`` bytes of the TPM's random number generator."""
        base.require_count(count)
        out = bytearray()
        with self.batch() as esys:
            while len(out) < count:
                out += bytes(esys.get_random(min(_RANDOM_AT_ONCE, count - len(out))))
        return bytes(out)

    def stir_random(self, entropy: bytes) -> None:
        """Mix ``entropy`` (at most 128 bytes) into the TPM's random number generator."""
        with self.batch() as esys:
            esys.stir_random(entropy)

    def ak_public(self) -> bytes:
        """Return the AK's TPMT_PUBLIC, marshalled."""
        with self.batch() as esys, primary(esys, templates.AK_TEMPLATE) as (_handle, public):
            return public

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> ports.Quote:
        """Quote the SHA-256 bank's ``pcrs`` by the AK."""
        base.require_digest("qualifying data", qualifying_data)
        selection = _selection(base.require_pcrs(pcrs))
        with self.batch() as esys, primary(esys, templates.AK_TEMPLATE) as (handle, _public):
            attest, signature = esys.quote(handle, selection, qualifying_data)
        return ports.Quote(bytes(attest), bytes(signature.marshal()))

    def read_pcrs(self, pcrs: Sequence[int]) -> Mapping[int, bytes]:
        """Return the SHA-256 bank's values by index."""
        wanted = base.require_pcrs(pcrs)
        values: dict[int, bytes] = {}
        with self.batch() as esys:
            for start in range(0, len(wanted), _PCRS_AT_ONCE):
                part = wanted[start : start + _PCRS_AT_ONCE]
                _counter, _selected, digests = esys.pcr_read(_selection(part))
                found = [bytes(digest) for digest in digests]
                if [len(digest) for digest in found] != [base.DIGEST_SIZE] * len(part):
                    raise base.TpmError(
                        f"TPM {self._transport}: {len(found)} of {len(part)} PCR values; "
                        "is its SHA-256 bank active?"
                    )
                values.update(zip(part, found, strict=True))
        return values

    def extend(self, pcr: int, digest: bytes) -> None:
        """Extend the SHA-256 bank's ``pcr`` by ``digest``."""
        base.require_pcrs([pcr])
        base.require_digest("PCR event digest", digest)
        values = TPML_DIGEST_VALUES(
            [TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))]
        )
        with self.batch() as esys:
            esys.pcr_extend(ESYS_TR(pcr), values)

    def ek_certificate(self) -> bytes:
        """Return the EK certificate from NV: the RSA EK's, else the P-256 EK's."""
        with self.batch() as esys:
            return self._endorsement(esys)[0]

    def ek_public(self) -> bytes:
        """Return the TPMT_PUBLIC of the EK that the certificate is about."""
        with self.batch() as esys:
            _certificate, template = self._endorsement(esys)
            with primary(esys, template) as (_handle, public):
                return public

    def activate_credential(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """Return the secret of a credential made for this AK and this EK."""
        with self.batch() as esys:
            _certificate, template = self._endorsement(esys)
            with (
                primary(esys, templates.AK_TEMPLATE) as (ak, _ak_public),
                primary(esys, template) as (ek, _ek_public),
                _ek_session(esys) as session,
            ):
                try:
                    secret = esys.activate_credential(
                        ak,
                        ek,
                        TPM2B_ID_OBJECT(id_object),
                        TPM2B_ENCRYPTED_SECRET(encrypted_secret),
                        session1=ESYS_TR.PASSWORD,
                        session2=session,
                    )
                except TSS2_Exception as error:
                    raise base.CredentialRefusedError(
                        f"TPM {self._transport}: the credential is for another AK or EK ({error})"
                    ) from error
        return bytes(secret)

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _endorsement(self, esys: Any) -> tuple[bytes, bytes]:
        """Return the EK certificate that the TPM has, and the template of its key."""
        for index, template in _EKS:
            certificate = nv.read_certificate(esys, index)
            if certificate is not None:
                return certificate, template
        raise base.NoEkCertificateError(
            f"TPM {self._transport}: no EK certificate at NV 0x{_EKS[0][0]:08x} or "
            f"0x{_EKS[1][0]:08x}; have its maker's tool write one"
        )


@contextlib.contextmanager
def primary(esys: Any, template: bytes) -> Iterator[tuple[Any, bytes]]:
    """Make a primary in the endorsement hierarchy; yield its handle and TPMT_PUBLIC; flush it."""
    public_area, _rest = TPMT_PUBLIC.unmarshal(template)
    handle, public, *_creation = esys.create_primary(
        None, TPM2B_PUBLIC(publicArea=public_area), ESYS_TR.ENDORSEMENT
    )
    try:
        yield handle, bytes(public.publicArea.marshal())
    finally:
        esys.flush_context(handle)


@contextlib.contextmanager
def _ek_session(esys: Any) -> Iterator[Any]:
    """A policy session that satisfies the EK's PolicySecret(endorsement)."""
    session = esys.start_auth_session(
        tpm_key=ESYS_TR.NONE,
        bind=ESYS_TR.NONE,
        session_type=TPM2_SE.POLICY,
        symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
        auth_hash=TPM2_ALG.SHA256,
    )
    try:
        esys.policy_secret(
            ESYS_TR.ENDORSEMENT, session, nonce_tpm=b"", cp_hash_a=b"", policy_ref=b"", expiration=0
        )
        yield session
    finally:
        esys.flush_context(session)


def _selection(pcrs: Sequence[int]) -> Any:
    return TPML_PCR_SELECTION.parse("sha256:" + ",".join(str(pcr) for pcr in pcrs))
