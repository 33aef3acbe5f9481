"""vTPMs without swtpm: software TPMs whose blobs are tickets to what is kept in memory.

One process only: both hosts of a test share ``_STATES``, as real blobs carry the state themselves.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence

from nova_trusted_clone import ports
from nova_trusted_clone.tpm.fake import Keys, SoftwareTpm
from nova_trusted_clone.vtpm.base import VtpmGoneError, VtpmReadOnlyError, VtpmStateError
from nova_trusted_clone.vtpm.issuer import EkIssuer


@dataclasses.dataclass(frozen=True)
class _State:
    keys: Keys
    pcrs: Mapping[int, bytes]
    chain: tuple[bytes, ...]
    passphrase: ports.Passphrase | None


_STATES: dict[bytes, _State] = {}


def blobs_of(
    tpm: SoftwareTpm, chain: Sequence[bytes], passphrase: ports.Passphrase | None = None
) -> ports.VtpmBlobs:
    """Return blobs for a software TPM that runs in a pretended guest."""
    state = _State(tpm.keys, dict(tpm.read_pcrs(range(24))), tuple(chain), passphrase)
    return _blobs(state)


def _blobs(state: _State) -> ports.VtpmBlobs:
    ticket = secrets.token_bytes(16)
    _STATES[ticket] = state
    return ports.VtpmBlobs(permanent=ticket, volatile=b"volatile")


def _state_of(blobs: ports.VtpmBlobs, passphrase: ports.Passphrase | None = None) -> _State:
    state = _STATES.get(blobs.permanent)
    if state is None:
        raise VtpmStateError("permanent state: not one of this process's fake vTPMs")
    if state.passphrase != passphrase:
        raise VtpmStateError("permanent state: encrypted by another passphrase, or by none")
    return state


class FakeVtpmInstance:
    """``ports.VtpmInstance`` in memory."""

    def __init__(
        self,
        tpm: SoftwareTpm,
        chain: Sequence[bytes],
        passphrase: ports.Passphrase | None = None,
        *,
        shadow: bool = False,
    ) -> None:
        """:param passphrase: what its state is encrypted by
        :param shadow: quotes only
        """
        self._tpm, self._chain, self._shadow, self._gone = tpm, tuple(chain), shadow, False
        self._passphrase = passphrase

    @property
    def ek_chain(self) -> Sequence[bytes]:
        """The EK certificate and its intermediates, DER, leaf first."""
        return self._chain

    @property
    def tpm(self) -> ports.Tpm:
        """Commands to it."""
        if self._gone:
            raise VtpmGoneError("this vTPM was handed over or discarded")
        return self._tpm

    def hand_over(self) -> ports.VtpmBlobs:
        """Return its state."""
        if self._gone or self._shadow:
            raise VtpmGoneError("this vTPM was handed over, discarded, or is a shadow")
        self._gone = True
        return blobs_of(self._tpm, self._chain, self._passphrase)

    def discard(self) -> None:
        """Forget it."""
        self._gone = True


class _ShadowTpm(SoftwareTpm):
    def extend(self, pcr: int, digest: bytes) -> None:
        """Refuse."""
        raise VtpmReadOnlyError("a shadow of a frozen vTPM does not extend PCRs")


class FakeVtpmFactory:
    """``ports.VtpmFactory`` in memory, with real EK certificates by a host's vTPM CA."""

    def __init__(self, issuer: EkIssuer, make_keys: Callable[[], Keys] = Keys.generate) -> None:
        """:param make_keys: keys for each new vTPM"""
        self._issuer, self._make_keys = issuer, make_keys

    def new(
        self,
        name: str,
        inherited: Sequence[tuple[int, bytes]],
        passphrase: ports.Passphrase | None = None,
    ) -> ports.VtpmInstance:
        """A vTPM with new keys, extended by ``inherited``."""
        tpm = SoftwareTpm(self._make_keys())
        for pcr, digest in inherited:
            tpm.extend(pcr, digest)
        return FakeVtpmInstance(tpm, self._certify(tpm, name), passphrase)

    def derive(
        self, name: str, source: ports.VtpmBlobs, passphrase: ports.Passphrase | None = None
    ) -> ports.VtpmInstance:
        """A vTPM with new keys and the PCRs of ``source``."""
        tpm = SoftwareTpm(self._make_keys(), pcrs=_state_of(source).pcrs)
        return FakeVtpmInstance(tpm, self._certify(tpm, name), passphrase)

    def shadow(
        self, source: ports.VtpmBlobs, passphrase: ports.Passphrase | None = None
    ) -> ports.VtpmInstance:
        """The very keys and PCRs of ``source``, to quote."""
        state = _state_of(source, passphrase)
        tpm = _ShadowTpm(state.keys, state.chain[0] if state.chain else None, pcrs=state.pcrs)
        return FakeVtpmInstance(tpm, state.chain, shadow=True)

    def decrypt(self, source: ports.VtpmBlobs, passphrase: ports.Passphrase) -> ports.VtpmBlobs:
        """The same state, encrypted no longer."""
        return _blobs(dataclasses.replace(_state_of(source, passphrase), passphrase=None))

    def close(self) -> None:
        """Nothing is kept warm."""

    def _certify(self, tpm: SoftwareTpm, name: str) -> tuple[bytes, ...]:
        chain = self._issuer.certify(tpm.ek_public(), name)
        tpm.certificate = chain[0]
        return chain
