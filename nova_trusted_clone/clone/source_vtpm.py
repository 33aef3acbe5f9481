"""The frozen server's vTPM: it vouches for what is sent, and hands its state on only where the order says so."""

from __future__ import annotations

import logging
import pathlib

from nova_trusted_clone.clone.batch import Batch, FreezeFailed
from nova_trusted_clone.clone.helpers import pack_vtpm
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.core.protocol.events import VtpmIdentity
from nova_trusted_clone.core.protocol.proofs import certified_vtpm
from nova_trusted_clone.ports import (
    Frozen,
    Passphrase,
    PassphraseUnavailable,
    RegionSource,
    VtpmInstance,
)

LOG = logging.getLogger(__name__)
VTPM_PCRS = tuple(range(1, 8))


class SourceVtpm:
    """What a freeze does with the vTPM of its server."""

    def __init__(self, host: Host, server_uuid: str, batch: Batch) -> None:
        self._host = host
        self._server_uuid = server_uuid
        self._batch = batch
        self._passphrase: Passphrase | None = None
        self._is_readable = True

    def fetch_passphrase(self, secret_uuid: str) -> None:
        """Get what encrypts the vTPM's state, before anything is changed; without it the vTPM cannot vouch.

        :raises FreezeFailed: where the clones cannot do without
        """
        try:
            self._passphrase = self._host.passphrases(self._server_uuid, secret_uuid)
        except PassphraseUnavailable as error:
            if self._derives or not self._batch.first.ground.policy.allow_without_vtpm:
                raise FreezeFailed(str(error)) from error
            LOG.info("the host vouches for the server: %s", error)
            self._is_readable = False

    @property
    def _derives(self) -> bool:
        return self._batch.first.order.vtpm_mode == "derive"

    def regions(self, frozen: Frozen, directory: pathlib.Path) -> list[RegionSource]:
        """Its state, where the order says that the clone's is derived from it; else nothing of it leaves the host.

        :param directory: private; takes the state for as long as the freeze is there
        """
        if frozen.vtpm is None or not self._derives:
            return []
        state = frozen.vtpm
        if self._passphrase is not None:
            state = self._host.vtpms.decrypt(state, self._passphrase)
        path = directory / "vtpm"
        path.touch(mode=0o600)
        path.write_bytes(pack_vtpm(state))
        return [
            RegionSource("vtpm", "vtpm", path.stat().st_size, {"type": "file", "path": str(path)})
        ]

    def vouching(self, frozen: Frozen) -> VtpmInstance | None:
        """The frozen vTPM if it can vouch; else none, where the policy lets the host's AK vouch alone.

        :raises FreezeFailed: where it does not
        """
        if frozen.vtpm is None or not self._is_readable:
            return None
        shadow = self._host.vtpms.shadow(frozen.vtpm, self._passphrase)
        ground = self._batch.first.ground
        verdict = certified_vtpm(
            shadow.ek_chain, self._host.local.host_id, ground.anchors, self._host.now()
        )
        if verdict.ok:
            return shadow
        shadow.discard()
        if not ground.policy.allow_without_vtpm:
            raise FreezeFailed(
                f"the server's vTPM is not one of this host's ({verdict}), and the policy does not let the host vouch alone"
            )
        LOG.info("the host vouches for server %s: %s", self._server_uuid, verdict)
        return None


def identity_of(vtpm: VtpmInstance | None) -> VtpmIdentity | None:
    """Who vouches, in the protocol's words."""
    if vtpm is None:
        return None
    return VtpmIdentity(
        mode="source",
        ek_chain=tuple(vtpm.ek_chain),
        ak_public=vtpm.tpm.ak_public(),
        pcr_values=dict(vtpm.tpm.read_pcrs(VTPM_PCRS)),
    )
