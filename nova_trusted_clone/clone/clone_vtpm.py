"""The vTPM that a clone gets: made for the conversation, or derived of the source's; its state is kept until the restore."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

from nova_trusted_clone.clone.helpers import pack_vtpm, unpack_vtpm
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.kept import Rejected
from nova_trusted_clone.core.protocol.events import VtpmIdentity
from nova_trusted_clone.ports import (
    Identity,
    Passphrase,
    PassphraseUnavailable,
    Quote,
    VtpmBlobs,
    VtpmInstance,
)

VTPM_PCRS = tuple(range(1, 8))
# Files of a vTPM's state, which is secret: made for the conversation, and derived of the source's.
MADE, DERIVED = "vtpm", "vtpm-derived"


class CloneVtpm:
    """One clone's vTPM before the clone runs.

    :param derives: whether the order says that it is derived of the source's
    """

    def __init__(
        self, host: Host, directory: pathlib.Path, identity: Identity, *, derives: bool
    ) -> None:
        self.derives = derives
        self._host = host
        self._directory = directory
        self._identity = identity
        self._running: VtpmInstance | None = None

    @contextlib.contextmanager
    def made(self, inherited: Sequence[tuple[int, bytes]]) -> Iterator[VtpmIdentity]:
        """A new one, which quotes within the block; its state is kept afterwards.

        :raises Rejected: when its passphrase cannot be had
        """
        new = self._host.vtpms.new(self._identity.uuid, inherited, self._passphrase())
        with self._runs(new, "new", MADE) as identity:
            yield identity

    @contextlib.contextmanager
    def derived(self, source: VtpmBlobs) -> Iterator[VtpmIdentity]:
        """One derived of the source's; as ``made``."""
        new = self._host.vtpms.derive(self._identity.uuid, source, self._passphrase())
        with self._runs(new, "derive", DERIVED) as identity:
            yield identity

    @contextlib.contextmanager
    def _runs(self, instance: VtpmInstance, mode: str, name: str) -> Iterator[VtpmIdentity]:
        self._running = instance
        try:
            yield VtpmIdentity(
                mode=mode,
                ek_chain=tuple(instance.ek_chain),
                ak_public=instance.tpm.ak_public(),
                pcr_values=dict(instance.tpm.read_pcrs(VTPM_PCRS)),
            )
            self._keep(instance.hand_over(), name)
        finally:
            instance.discard()
            self._running = None

    def _passphrase(self) -> Passphrase | None:
        """What the clone's vTPM's state is encrypted by, where the control plane named a secret for that."""
        side = self._identity.host_side
        if side is None or side.vtpm_secret is None:
            return None
        try:
            return self._host.passphrases(self._identity.uuid, side.vtpm_secret)
        except PassphraseUnavailable as error:
            raise Rejected(str(error)) from error

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> Quote:
        """Quote by the one that runs."""
        assert self._running is not None
        return self._running.tpm.quote(qualifying_data, pcrs)

    def _keep(self, blobs: VtpmBlobs, name: str) -> None:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_bytes(pack_vtpm(blobs))

    def kept(self) -> VtpmBlobs | None:
        """The one that the clone gets; where it is derived never the one that only proved this host."""
        path = self._directory / (DERIVED if self.derives else MADE)
        return unpack_vtpm(path.read_bytes()) if path.exists() else None

    def forget(self) -> None:
        """Nothing of it is needed here any more; harmless when repeated."""
        for name in (MADE, DERIVED):
            (self._directory / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """End the one that runs, if one does."""
        if self._running is not None:
            self._running.discard()
