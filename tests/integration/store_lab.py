"""A freeze of made-up regions, an exporter in this process, and store processes, all on loopback."""

from __future__ import annotations

import base64
import contextlib
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.leaf import digest_segment
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath import mounts, processes
from nova_trusted_clone.datapath.control import ControlClient
from nova_trusted_clone.datapath.exporter import Exporter, ExporterSettings, ReplyFilter
from nova_trusted_clone.datapath.sources import FakeSource, SegmentSource

FREEZE = bytes(range(16))
RAM = Region(1, "ram", "pc.ram", 64 << 20)
DISK = Region(2, "disk", "vda", (8 << 20) + 4096 + 512)
DEVICE = Region(3, "device", "device", 70_001)


def image(size: int, seed: int) -> bytes:
    """Bytes with runs of zero pages, as a guest's memory has."""
    chooser = random.Random(seed)
    content = bytearray(chooser.randbytes(size))
    for _ in range(size >> 20):
        start = chooser.randrange(size // 4096) * 4096
        end = min(size, start + chooser.choice((1, 3, 40, 300)) * 4096)
        content[start:end] = bytes(end - start)
    return bytes(content)


CONTENT = {region.id: image(region.size_bytes, region.id) for region in (RAM, DISK, DEVICE)}

# A segment of the RAM with hardly a zero leaf, in its middle.
PLACE = next(
    index
    for index in range(30, 64)
    if len(digest_segment(CONTENT[1][index << 20 : (index + 1) << 20])[1]) > 200 * 32
)


def sources() -> list[FakeSource]:
    """A fresh source for each region."""
    return [FakeSource(region, CONTENT[region.id]) for region in (RAM, DISK, DEVICE)]


@contextlib.contextmanager
def exporting(
    directory: pathlib.Path,
    given: list[SegmentSource] | list[FakeSource],
    reply_filter: ReplyFilter = lambda reply: reply,
    page_key: Ed25519PrivateKey | None = None,
    settings: ExporterSettings | None = None,
) -> Iterator[tuple[Exporter, int]]:
    """An exporter that serves these sources."""
    key = page_key or Ed25519PrivateKey.generate()
    exporter = Exporter(FREEZE, key, directory, settings=settings, reply_filter=reply_filter)
    try:
        port = exporter.listen("127.0.0.1")
        if given:
            exporter.publish(given)
        yield exporter, port
    finally:
        exporter.close()


class StoreProcess:
    """A store process in its directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.mount = directory / "mnt"
        self.client = ControlClient(directory / "control.sock")
        self.process = processes.start("nova_trusted_clone.cmd.store", directory)
        processes.wait_for_path(directory / "control.sock", self.process, 60)

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """A control operation."""
        return self.client.call(operation, **arguments)

    @property
    def certificate(self) -> bytes:
        """Its certificate."""
        return base64.b64decode(self.call("identity")["certificate"])

    def connect(self, exporter: Exporter, port: int, clone_id: str = "clone") -> None:
        """Have the exporter admit it, and tell it where the exporter is."""
        exporter.admit(self.certificate, clone_id)
        self.call(
            "connect",
            host="127.0.0.1",
            port=port,
            peer_certificate=base64.b64encode(exporter.certificate_der).decode(),
            freeze_id=FREEZE.hex(),
        )

    def fetch(self, exporter: Exporter, **more: Any) -> None:
        """Begin to fetch, and mount."""
        self.call(
            "fetch",
            page_key=base64.b64encode(exporter.page_key_public).decode(),
            freeze_id=FREEZE.hex(),
            regions=[
                {"id": r.id, "kind": r.kind, "name": r.name, "size_bytes": r.size_bytes}
                for r in (RAM, DISK, DEVICE)
            ],
            **more,
        )
        self.call("mount", path=str(self.mount))

    def wait(self, limit_s: float = 60.0) -> dict[str, Any]:
        """Wait until it is complete or failed."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            status = self.call("wait_complete", limit_s=1.0)
            if status["complete"] or status["reason"]:
                return status
        raise AssertionError(f"neither complete nor failed within {limit_s} s: {status}")

    def end(self) -> None:
        """End it by SIGTERM; unmount what a killed one left."""
        self.process.end()
        mounts.unmount(self.directory)


@contextlib.contextmanager
def storing(directory: pathlib.Path) -> Iterator[StoreProcess]:
    """A store process that is ended in any case."""
    store = StoreProcess(directory)
    try:
        yield store
    finally:
        store.end()


_MAP = """
import hashlib, mmap, pathlib, sys
with pathlib.Path(sys.argv[1]).open("r+b") as file:
    view = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
print(hashlib.sha256(view).hexdigest())
view[4096:4100] = b"mine"
"""


def digest_through_mmap(path: pathlib.Path) -> str:
    """SHA-256 of a file that another process maps privately, as QEMU does, and then writes to.

    Another process, because a page fault here would hold the interpreter that the exporter needs.
    """
    command = [sys.executable, "-c", _MAP, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def text(raw: bytes) -> str:
    """Bytes as the control channel gives them."""
    return base64.b64encode(raw).decode()
