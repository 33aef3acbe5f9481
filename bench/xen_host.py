"""What the bench does in dom0 of a Xen host: ``python -m bench.xen_host NAME UUID ROUNDS``.

A line of JSON for each round: seconds of ``xl save -c`` and of the product's freeze of the same domain, how long the domain
stood still in each, and how long hashing and signing what was captured takes, as an exporter does it. Whether the domain
stands still is asked of Xen by one and the same loop for both.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import libvirt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import FREEZE_ID_BYTES, Region
from nova_trusted_clone.datapath.book import Sealer
from nova_trusted_clone.datapath.serving import WINDOW
from nova_trusted_clone.hypervisor import drivers
from nova_trusted_clone.ports import Frozen, RegionSource

URI = "xen:///system"
STATE = pathlib.Path("/var/lib/nova-trusted-clone")
POLL_S = 0.002
# Between two freezes a guest runs on, as in life.
BETWEEN_S = 3.0


class Watch:
    """How long a domain stands still, within a block of code."""

    def __init__(self, xl: Any, domain: int) -> None:
        self._xl = xl
        self._domain = domain
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.window_s = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        stopped: float | None = None
        while not self._ended.wait(POLL_S):
            if self._xl.is_suspended(self._domain):
                stopped = stopped or time.monotonic()
            elif stopped is not None:
                self.window_s += time.monotonic() - stopped
                stopped = None


def timed(xl: Any, domain: int, work: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of some work and the domain's standstill in it."""
    time.sleep(BETWEEN_S)
    with Watch(xl, domain) as watch:
        began = time.monotonic()
        result = work()
        seconds = time.monotonic() - began
    return {"seconds": seconds, "window_s": watch.window_s, "result": result}


def own(name: str, place: pathlib.Path) -> None:
    """Xen's own: saved to a file, and left running."""
    subprocess.run(["xl", "save", "-c", name, str(place / "own")], check=True, capture_output=True)


def sealed(frozen: Frozen) -> float:
    """Read, hash and sign the captured memory as the exporter does; seconds."""
    sealer = Sealer.of(bytes(FREEZE_ID_BYTES), Ed25519PrivateKey.generate())
    began = time.monotonic()
    for number, one in enumerate(one for one in frozen.regions if one.kind == "ram"):
        _seal(sealer, Region(number + 1, "ram", one.name, one.size_bytes), one)
    return time.monotonic() - began


def _seal(sealer: Sealer, region: Region, source: RegionSource) -> None:
    place: Any = source.source
    with open(place["path"], "rb") as file:
        segments = range(-(-region.size_bytes // SEGMENT_BYTES))
        for batch in (segments[at : at + WINDOW] for at in range(0, len(segments), WINDOW)):
            drafts = []
            for index in batch:
                file.seek(place["offset"] + index * SEGMENT_BYTES)
                size = min(SEGMENT_BYTES, region.size_bytes - index * SEGMENT_BYTES)
                drafts.append(sealer.describe(region, index, file.read(size)).encode())
            sealer.sign(drafts)


def main() -> int:
    """Measure and print."""
    name, server_uuid, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # Only a Xen host has it.
    import nova_trusted_clone.hypervisor.xen._xl as xl

    with libvirt.open(URI) as connection:
        domain = connection.lookupByUUIDString(server_uuid).ID()
    source = drivers.source(URI, STATE)
    for turn in range(rounds):
        place = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp"))
        found: dict[str, Any] = {}

        def freeze(place: pathlib.Path = place) -> Frozen:
            return source.freeze(server_uuid, place, place / "unused")

        ways = [("own", lambda place=place: own(name, place)), ("product", freeze)]
        for way, work in ways[turn % 2 :] + ways[: turn % 2]:
            found[way] = timed(xl, domain, work)
            frozen = found[way].pop("result")
            if frozen is not None:
                found["seal_s"] = sealed(frozen)
                found["told_pause_s"] = frozen.pause_s
                source.release(server_uuid, place)
        shutil.rmtree(place)
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
