"""The store process of one freeze on this host, shared by its clones here."""

from __future__ import annotations

import os
import pathlib
import threading
import time
from typing import Any

from nova_trusted_clone.clone.helpers import Helper, decode, encode
from nova_trusted_clone.clone.pace import Pace
from nova_trusted_clone.datapath import mounts
from nova_trusted_clone.datapath.control import ControlError
from nova_trusted_clone.datapath.errors import DatapathError
from nova_trusted_clone.datapath.processes import ProcessFailed

STORE = "nova_trusted_clone.cmd.store"
POLL_S = 0.02
# Siblings share a store and its mount: only one of them may make it.
_MOUNTING = threading.Lock()


class StoreFailed(Exception):
    """The store ended, or says that the transfer cannot go on; with the reason."""


class Store:
    """Starts, joins and asks the store of a freeze."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self._helper = Helper(STORE, directory)

    @property
    def mount_path(self) -> pathlib.Path:
        """Where its files are mounted: QEMU, another user, goes through to it, and into nothing else of ours."""
        return self.directory.parent.parent / "mnt" / self.directory.name

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._helper.alive

    def start(self) -> None:
        """Start it, or join the one that a sibling started."""
        try:
            self._helper.start()
        except ProcessFailed as error:
            raise StoreFailed(str(error)) from error

    def certificate(self) -> bytes:
        """The certificate of its end of the channel, DER."""
        return decode(self._call("identity")["certificate"])

    def copy_early(
        self,
        *,
        address: str,
        port: int,
        certificate: bytes,
        freeze_id: bytes,
        regions: list[dict[str, Any]],
    ) -> None:
        """Begin to copy disks as they are before the freeze; what is copied is believed only by the frozen manifests."""
        self._connect(address, port, certificate, freeze_id)
        self._call("early", regions=regions)

    def _connect(self, address: str, port: int, certificate: bytes, freeze_id: bytes) -> None:
        self._call(
            "connect",
            host=address,
            port=port,
            peer_certificate=encode(certificate),
            freeze_id=freeze_id.hex(),
        )

    def fetch(
        self,
        *,
        address: str,
        port: int,
        certificate: bytes,
        freeze_id: bytes,
        page_key: bytes,
        regions: list[dict[str, Any]],
        mode: str,
        limit_s: float,
    ) -> None:
        """Begin to fetch; a sibling's repetition must name the very same freeze."""
        self._connect(address, port, certificate, freeze_id)
        self._call(
            "fetch",
            page_key=encode(page_key),
            freeze_id=freeze_id.hex(),
            regions=regions,
            mode=mode,
            network_limit_s=limit_s,
        )
        with _MOUNTING:
            if self._call("status").get("mount") is None:
                self._mount()

    def _mount(self) -> None:
        for path in (self.mount_path.parent, self.mount_path):
            path.mkdir(exist_ok=True)
            path.chmod(0o711)
        try:
            connection = mounts.connect(self.mount_path)
        except (DatapathError, OSError) as error:
            raise StoreFailed(f"the store's mount: {error}") from error
        files = [] if connection is None else [connection]
        try:
            self._call("mount", files=files, path=str(self.mount_path))
        finally:
            for descriptor in files:
                os.close(descriptor)

    def add_clone(self, name: str) -> None:
        """Make the directory in which a clone's RAM files appear."""
        self._call("add_clone", name=name)

    def read_region(self, region_id: int) -> pathlib.Path:
        """Wait until a region is verified whole and return a file of its bytes."""
        pace = Pace(POLL_S)
        while True:
            reply = self._call("read_region", region=region_id)
            if reply.get("path"):
                return pathlib.Path(reply["path"])
            self.status()
            time.sleep(pace.pause_s)

    def status(self) -> dict[str, Any]:
        """How far it is.

        :raises StoreFailed: when it failed or is gone
        """
        status = self._call("status")
        if status.get("reason"):
            raise StoreFailed(str(status["reason"]))
        return status

    def stop(self) -> None:
        """End it, unmount, and remove what it kept."""
        self._helper.stop()
        mounts.unmount(self.mount_path)
        if self.mount_path.exists():
            self.mount_path.rmdir()

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            return self._helper.call(operation, **arguments)
        except ProcessFailed as error:
            raise StoreFailed(str(error)) from error
        except (ControlError, OSError) as error:
            raise StoreFailed(f"the store: {error}") from error
