"""vTPMs on swtpm: new, derived from another's state, or a shadow of a frozen one.

A copy of a vTPM is a copy of an identity and of its random numbers, so ``new`` is the rule.
``derive`` keeps the storage hierarchy (what the source sealed still unseals) and nothing of the
endorsement hierarchy. ``shadow`` exists to quote, for moments.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tpm2_pytss import ESYS_TR, TPM2_CAP, TPM2_PT, TPM2_SU, TPMA_STARTUP

from nova_trusted_clone import ports
from nova_trusted_clone.tpm import nv, templates
from nova_trusted_clone.tpm.base import TpmError
from nova_trusted_clone.tpm.esys import EsysTpm, primary
from nova_trusted_clone.vtpm import blobs as state_blobs
from nova_trusted_clone.vtpm.base import VtpmGoneError, VtpmReadOnlyError, VtpmStateError
from nova_trusted_clone.vtpm.control import Blob
from nova_trusted_clone.vtpm.issuer import EkIssuer
from nova_trusted_clone.vtpm.pool import WarmPool
from nova_trusted_clone.vtpm.process import SwtpmProcess, owned_directory, wipe

_ENTROPY_SIZE = 48
"""Bytes stirred into a copied RNG state: a seed of libtpms' AES-256 CTR DRBG."""

_AUTH_SIZE = 32


class SwtpmInstance:
    """``ports.VtpmInstance`` on one swtpm process."""

    def __init__(
        self,
        process: SwtpmProcess,
        tpm: ports.Tpm,
        ek_chain: Sequence[bytes],
        ended: Callable[[SwtpmInstance], None],
        take: Callable[[SwtpmProcess], ports.VtpmBlobs],
    ) -> None:
        """:param ended: told when it was handed over or discarded
        :param take: takes the state that is handed over
        """
        self._process = process
        self._tpm = tpm
        self._ek_chain = tuple(ek_chain)
        self._ended = ended
        self._take = take
        self._gone = False

    @property
    def ek_chain(self) -> Sequence[bytes]:
        """The EK certificate and its intermediate, DER, leaf first."""
        return self._ek_chain

    @property
    def tpm(self) -> ports.Tpm:
        """Commands to it.

        :raises VtpmGoneError: after ``hand_over`` or ``discard``
        """
        if self._gone:
            raise VtpmGoneError("this vTPM was handed over or discarded")
        return self._tpm

    def hand_over(self) -> ports.VtpmBlobs:
        """Take the state, stop the process, wipe what it left."""
        if self._gone or isinstance(self._tpm, ShadowTpm):
            raise VtpmGoneError("this vTPM was handed over, discarded, or is a shadow")
        taken = self._take(self._process)
        self.discard()
        return taken

    def discard(self) -> None:
        """Stop the process and wipe its state; harmless when repeated."""
        self._gone = True
        self._process.discard()
        self._ended(self)


class ShadowTpm:
    """``ports.Tpm`` of a frozen vTPM's state, which quotes and reads but changes nothing."""

    def __init__(self, tpm: EsysTpm) -> None:
        """:param tpm: the shadow's TPM"""
        self._tpm = tpm

    def random(self, count: int) -> bytes:
        """Return ``count`` random bytes."""
        return self._tpm.random(count)

    def ak_public(self) -> bytes:
        """Return the frozen vTPM's AK."""
        return self._tpm.ak_public()

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> ports.Quote:
        """Quote by the frozen vTPM's AK."""
        return self._tpm.quote(qualifying_data, pcrs)

    def read_pcrs(self, pcrs: Sequence[int]) -> Mapping[int, bytes]:
        """Return the PCRs at the freeze."""
        return self._tpm.read_pcrs(pcrs)

    def extend(self, pcr: int, digest: bytes) -> None:
        """Refuse."""
        raise VtpmReadOnlyError("a shadow of a frozen vTPM does not extend PCRs")

    def close(self) -> None:
        """Nothing stays open."""


class SwtpmFactory:
    """``ports.VtpmFactory`` on swtpm. Close it: it ends every instance that is still its own."""

    def __init__(self, issuer: EkIssuer, state_root: pathlib.Path, pool_size: int = 0) -> None:
        """:param issuer: the host's vTPM CA
        :param state_root: a private directory, best on tmpfs; what dead processes left in it is
            cleared away
        :param pool_size: vTPMs kept manufactured
        """
        self._issuer = issuer
        self._directory = owned_directory(state_root)
        self._mutex = threading.Lock()
        self._live: set[SwtpmInstance] = set()
        self._pool = WarmPool(
            self._manufacture, SwtpmProcess.discard, lambda process: process.running, pool_size
        )

    def new(
        self,
        name: str,
        inherited: Sequence[tuple[int, bytes]],
        passphrase: ports.Passphrase | None = None,
    ) -> ports.VtpmInstance:
        """A freshly manufactured vTPM whose PCRs were extended by ``inherited``."""
        process = self._pool.take()
        with _discarded_on_error(process):
            tpm = EsysTpm(process.transport)
            with tpm.batch() as esys:
                chain = self._certify(esys, name)
                _close_platform_hierarchy(esys)
                for pcr, digest in inherited:
                    tpm.extend(pcr, digest)
            if passphrase is None:
                return self._adopt(process, tpm, chain)
            # It was made before it was known whose it would be.
            return self._adopt(
                process, tpm, chain, lambda one: self._encrypted(_state(one), passphrase)
            )

    def derive(
        self, name: str, source: ports.VtpmBlobs, passphrase: ports.Passphrase | None = None
    ) -> ports.VtpmInstance:
        """A vTPM with the storage hierarchy and PCRs of ``source``, its own endorsement hierarchy
        and random numbers.

        The source's EK, AK and every loaded or persistent object below them end with TPM2_ChangeEPS
        (part 3, 24.4). The EK is not made persistent: that takes the owner's authorization, which
        is the tenant's.
        """
        state_blobs.require_blobs(source)
        platform_auth = state_blobs.platform_authorization(source.volatile)
        process = self._resumed(source, passphrase, passphrase)
        with _discarded_on_error(process):
            tpm = EsysTpm(process.transport)
            with tpm.batch() as esys:
                tpm.stir_random(os.urandom(_ENTROPY_SIZE))  # before the new seed is drawn
                _require_platform(esys)
                esys.tr_set_auth(ESYS_TR.PLATFORM, platform_auth)
                esys.change_eps()
                nv.remove_identity(esys)  # certificates of keys that are no more
                chain = self._certify(esys, name)
                _close_platform_hierarchy(esys)
            return self._adopt(
                process, tpm, chain, lambda one: _state(one, encrypted=passphrase is not None)
            )

    def shadow(
        self, source: ports.VtpmBlobs, passphrase: ports.Passphrase | None = None
    ) -> ports.VtpmInstance:
        """A short-lived instance of a frozen vTPM's state, to quote by its AK.

        :raises VtpmError: too, when it is not the passphrase
        """
        state_blobs.require_blobs(source, encrypted=passphrase is not None)
        process = self._resumed(source, passphrase, passphrase)
        with _discarded_on_error(process):
            tpm = EsysTpm(process.transport)
            with tpm.batch() as esys:
                tpm.stir_random(os.urandom(_ENTROPY_SIZE))  # else its randomness is the source's
                certificate = nv.read_certificate(esys, templates.EK_CERTIFICATE_RSA)
            _require_ak(tpm)
            chain = () if certificate is None else (certificate, *self._issuer.intermediates)
            return self._adopt(process, ShadowTpm(tpm), chain)

    def decrypt(self, source: ports.VtpmBlobs, passphrase: ports.Passphrase) -> ports.VtpmBlobs:
        """The same state, encrypted no longer.

        swtpm gives state only as it takes it. So one with the migration key writes it into files, and one without reads
        them.

        :raises VtpmError: when it is not the passphrase
        """
        state_blobs.require_blobs(source, encrypted=True)
        process = self._resumed(source, None, passphrase)
        with _discarded_on_error(process):
            process.control.store_volatile()
            process.stop()
            process.start()
            process.control.init()
            plain = _state(process)
        process.discard()
        return plain

    def _encrypted(self, source: ports.VtpmBlobs, passphrase: ports.Passphrase) -> ports.VtpmBlobs:
        """The same state, encrypted: what an swtpm with a migration key is given plain it gives encrypted."""
        process = self._resumed(source, passphrase, passphrase)
        with _discarded_on_error(process):
            sealed = _state(process, encrypted=True)
        process.discard()
        return sealed

    @property
    def ready(self) -> int:
        """How many vTPMs wait in the pool."""
        return self._pool.ready

    def close(self) -> None:
        """Discard the pool and every instance that was neither handed over nor discarded."""
        self._pool.close()
        for instance in list(self._live):
            instance.discard()
        wipe(self._directory)

    def _manufacture(self) -> SwtpmProcess:
        """Make a new TPM, power it on and give it a persistent EK; it has no name yet."""
        process = SwtpmProcess(self._directory)
        with _discarded_on_error(process):
            process.manufacture()
            process.start()
            process.control.init()
            with EsysTpm(process.transport).batch() as esys:
                esys.startup(TPM2_SU.CLEAR)
                with primary(esys, templates.EK_RSA_TEMPLATE) as (handle, _public):
                    esys.tr_close(
                        esys.evict_control(ESYS_TR.OWNER, handle, templates.EK_HANDLE_RSA)
                    )
        return process

    def _resumed(
        self,
        source: ports.VtpmBlobs,
        key: ports.Passphrase | None,
        migration_key: ports.Passphrase | None,
    ) -> SwtpmProcess:
        """Start an swtpm in the very state of ``source``."""
        process = SwtpmProcess(self._directory)
        with _discarded_on_error(process):
            process.start(key, migration_key)
            process.control.set_state(Blob.PERMANENT, source.permanent)
            process.control.set_state(Blob.VOLATILE, source.volatile)
            if source.savestate:
                process.control.set_state(Blob.SAVESTATE, source.savestate)
            process.control.init()
        return process

    def _certify(self, esys: Any, name: str) -> Sequence[bytes]:
        """Issue the certificate of the TPM's RSA EK and write it where guests look for it."""
        chain = self._issuer.certify(_ek_public(esys), name)
        nv.write_certificate(esys, templates.EK_CERTIFICATE_RSA, chain[0])
        return chain

    def _adopt(
        self,
        process: SwtpmProcess,
        tpm: ports.Tpm,
        chain: Sequence[bytes],
        take: Callable[[SwtpmProcess], ports.VtpmBlobs] | None = None,
    ) -> SwtpmInstance:
        instance = SwtpmInstance(process, tpm, chain, self._forget, take or _state)
        with self._mutex:
            self._live.add(instance)
        return instance

    def _forget(self, instance: SwtpmInstance) -> None:
        with self._mutex:
            self._live.discard(instance)


def _state(process: SwtpmProcess, *, encrypted: bool = False) -> ports.VtpmBlobs:
    """Take a running swtpm's state.

    :param encrypted: whether it has a migration key
    """
    control = process.control
    control.store_volatile()
    taken = ports.VtpmBlobs(
        permanent=control.get_state(Blob.PERMANENT), volatile=control.get_state(Blob.VOLATILE)
    )
    state_blobs.require_blobs(taken, encrypted=encrypted)
    return taken


@contextlib.contextmanager
def _discarded_on_error(process: SwtpmProcess) -> Iterator[None]:
    try:
        yield
    except BaseException:
        process.discard()
        raise


def _ek_public(esys: Any) -> bytes:
    """Return the EK's TPMT_PUBLIC: of the persistent one where there is one, as making it again
    takes long."""
    if nv.handle_exists(esys, templates.EK_HANDLE_RSA):
        handle = esys.tr_from_tpmpublic(templates.EK_HANDLE_RSA)
        try:
            public, *_names = esys.read_public(handle)
        finally:
            esys.tr_close(handle)
        return bytes(public.publicArea.marshal())
    with primary(esys, templates.EK_RSA_TEMPLATE) as (_handle, public_area):
        return public_area


def _require_platform(esys: Any) -> None:
    """Raise ``VtpmStateError`` where the guest's firmware disabled the platform hierarchy."""
    _more, data = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.STARTUP_CLEAR, 1)
    if not int(data.data.tpmProperties[0].value) & TPMA_STARTUP.CLEAR_PHENABLE:
        raise VtpmStateError(
            "the guest's firmware disabled the platform hierarchy of its vTPM: it cannot be "
            "derived, only cloned as new"
        )


def _require_ak(tpm: EsysTpm) -> None:
    """Raise ``VtpmStateError`` where the guest keeps its endorsement hierarchy to itself."""
    try:
        tpm.ak_public()
    except TpmError as error:
        raise VtpmStateError(
            "the guest closed its vTPM's endorsement hierarchy (an authorization is set on it, or "
            f"it is disabled), so that its vTPM cannot vouch for the clone: {error}"
        ) from error


def _close_platform_hierarchy(esys: Any) -> None:
    """Give the platform hierarchy a random authorization, as firmware does before an operating
    system.

    The clone's firmware does not run before its next reboot; until then its guest could else
    replace the endorsement key that was certified. Nobody keeps the value: a reset clears it.
    """
    esys.hierarchy_change_auth(ESYS_TR.PLATFORM, os.urandom(_AUTH_SIZE))
