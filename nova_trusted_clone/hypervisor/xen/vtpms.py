"""The vTPMs that a host keeps for its Xen domains.

A PV or PVH domain has no device model that could carry a TPM, and that of Debian's Xen carries none for HVM. So a domain's
vTPM stays with its host: it was made like any other, inherits the host's PCR 1-7, and its AK vouches for the domain in a
clone. The guest itself sees no TPM.
"""

from __future__ import annotations

import os
import pathlib
import re

import cbor2

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.ports import VtpmBlobs

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAX_BYTES = 4 << 20


class HostVtpms:
    """States by the UUIDs of their servers, each a private file."""

    def __init__(self, directory: pathlib.Path) -> None:
        """:param directory: private; made when it is needed"""
        self._directory = directory

    def has(self, server_uuid: str) -> bool:
        """Whether this host keeps one for the server."""
        return self._path(server_uuid).exists()

    def keep(self, server_uuid: str, blobs: VtpmBlobs) -> None:
        """Keep a vTPM for a server, whole or not at all."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(server_uuid)
        scratch = path.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(cbor2.dumps([blobs.permanent, blobs.volatile, blobs.savestate]))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def read(self, server_uuid: str) -> VtpmBlobs | None:
        """The state of a server's; None where it has none.

        :raises MalformedState: it is none; nothing of it is in the message, as it is secret
        """
        try:
            with self._path(server_uuid).open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        parts = None
        if len(raw) <= _MAX_BYTES:
            try:
                parts = cbor2.loads(raw, max_depth=1, allow_indefinite=False)
            except cbor2.CBORDecodeError:
                parts = None
        if not isinstance(parts, list) or [type(part) for part in parts] != [bytes] * 3:
            raise MalformedState(f"{self._path(server_uuid)}: not a vTPM's state")
        return VtpmBlobs(*parts)

    def forget(self, server_uuid: str) -> None:
        """The server is no more; harmless when it had none."""
        self._path(server_uuid).unlink(missing_ok=True)

    def _path(self, server_uuid: str) -> pathlib.Path:
        if not _UUID.fullmatch(server_uuid):
            raise MalformedState(f"server {server_uuid[:64]!r}: not a UUID")
        return self._directory / server_uuid
