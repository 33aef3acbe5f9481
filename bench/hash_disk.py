"""The paper's Figure 5: time to hash a disk of 1, 2, 4 … 64 GiB.

The product's path: QEMU's NBD server, the exporter's NBD client, then a segment's leaves hashed and
its manifest signed. A full disk is measured up to a part of 2 GiB, holes up to 8 GiB; what is larger
is extrapolated from the time of its part, and marked so in the JSON and in the plot. The file's data
is in the page cache: a disk that is slower than that is the limit itself.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import content, drawing, machine, nbd_server
from bench.figure import AT_MOST, Figure
from bench.report import Report, Settings
from bench.sampling import Samples, by_turns, named_json, seconds
from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.book import Sealer
from nova_trusted_clone.datapath.serving import WINDOW
from nova_trusted_clone.hypervisor.qemu.nbd import DiskSource

NAME = "hash_disk"
TITLE = "Hashing disks (the paper's Figure 5)"
GIB = 1 << 30
SIZES_GIB = (1, 2, 4, 8, 16, 32, 64)
# Of a disk that is partly used, so much is data.
SAME_DATA_GIB = 1
FREEZE = bytes(16)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What is really read.

    :ivar data: sizes of full disks, bytes, the largest last
    :ivar holes: bytes of holes
    """

    data: tuple[int, ...]
    holes: int

    @property
    def most(self) -> int:
        """The largest full disk that is read whole."""
        return self.data[-1]


# A full disk as large as this fits into the page cache of the least machine with a lab.
FULL_RUN = Parts((GIB, 2 * GIB), 8 * GIB)
QUICK_RUN = Parts((GIB // 4,), GIB)


class _Disk:
    """A disk of ``parts.data`` of data, then holes, and the ways of reading it."""

    def __init__(self, image: pathlib.Path, source: DiskSource, sealer: Sealer) -> None:
        self._file = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        self._source = source
        self._sealer = sealer

    def hash(self, segments: range) -> None:
        """Read, hash and sign, as the exporter does."""
        for batch in (segments[at : at + WINDOW] for at in range(0, len(segments), WINDOW)):
            self._sealer.sign([self._described(index) for index in batch])

    def _described(self, index: int) -> bytes:
        data = self._source.read(index)
        return self._sealer.describe(self._source.region, index, data).encode()

    def read(self, segments: range) -> None:
        """Only read, by the same path."""
        for index in segments:
            self._source.read(index)

    def limit(self, segments: range) -> None:
        """Read the file itself and hash it by OpenSSL, 1 MiB at a time."""
        for index in segments:
            data = os.pread(self._file, SEGMENT_BYTES, index * SEGMENT_BYTES)
            hashlib.sha256(data).digest()

    def close(self) -> None:
        """Let go."""
        self._source.close()
        os.close(self._file)


def _segments(first_bytes: int, length_bytes: int) -> range:
    return range(first_bytes // SEGMENT_BYTES, (first_bytes + length_bytes) // SEGMENT_BYTES)


def _on_two(pool: concurrent.futures.Executor, work: Callable[[range], None], over: range) -> None:
    list(pool.map(work, (over[::2], over[1::2])))


def measure(settings: Settings) -> Report:
    """Measure."""
    facts = machine.facts()
    parts = QUICK_RUN if settings.quick else FULL_RUN
    whole = SIZES_GIB[-1] * GIB
    image = settings.disk_scratch / "disk.raw"
    settings.say(f"a disk with {parts.most >> 20} MiB of data")
    content.sparse(image, parts.most, whole)
    with nbd_server.serving(image, settings.disk_scratch) as path:
        source = DiskSource(Region(1, "disk", "vda", whole), path, nbd_server.EXPORT)
        disk = _Disk(image, source, Sealer.of(FREEZE, Ed25519PrivateKey.generate()))
        try:
            found, holes = _measure(settings, disk, parts)
        finally:
            disk.close()
    measured = {str(size): named_json(ways) for size, ways in found.items()}
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "measured_bytes": dataclasses.asdict(parts),
            "measured_seconds": {"full": measured, "holes": holes.to_json()},
            "sizes": [row(size * GIB, found, holes, parts) for size in SIZES_GIB],
        },
        figures=_figures(found[parts.most]),
        notes=(
            f"full disks were read whole up to {parts.most >> 20} MiB and holes up to {parts.holes >> 20} MiB;"
            " larger ones are extrapolated from those: 'extrapolated' in their row says so",
            f"mostly-holes: {SAME_DATA_GIB} GiB of data, the rest holes; added up from both parts",
            "data comes from the page cache",
        ),
    )


def _measure(
    settings: Settings, disk: _Disk, parts: Parts
) -> tuple[dict[int, dict[str, Samples]], Samples]:
    """Seconds of every way by the size of a full disk, and of the holes."""
    rounds = 3 if settings.quick else 5
    disk.limit(_segments(0, parts.most))  # into the page cache
    found = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for size in parts.data:
            settings.say(f"hashing {size >> 20} MiB of data")
            data = _segments(0, size)
            found[size] = _timed(
                {
                    "product": functools.partial(disk.hash, data),
                    "read-only": functools.partial(disk.read, data),
                    "openssl": functools.partial(disk.limit, data),
                    "product-two": functools.partial(_on_two, pool, disk.hash, data),
                },
                rounds,
            )
    settings.say(f"hashing {parts.holes >> 20} MiB of holes")
    holes = _segments(parts.most, parts.holes)
    return found, _timed({"holes": functools.partial(disk.hash, holes)}, rounds)["holes"]


def _timed(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, Samples]:
    ways = {name: functools.partial(seconds, work) for name, work in works.items()}
    return by_turns(ways, rounds)


def row(
    size: int, found: dict[int, dict[str, Samples]], holes: Samples, parts: Parts
) -> dict[str, Any]:
    """Seconds for a disk of this size: measured, or the largest measured one's times how much larger it is."""
    base = size if size in found else parts.most
    full = {name: one.median * size / base for name, one in found[base].items()}
    some = min(size, SAME_DATA_GIB * GIB)
    data_s = found[base]["product"].median * some / base
    holes_s = holes.median * (size - some) / parts.holes
    times = {**full, "mostly-holes": data_s + holes_s}
    return {
        "gib": size // GIB,
        "seconds": {name: round(value, 4) for name, value in times.items()},
        "extrapolated": {**dict.fromkeys(full, base != size), "mostly-holes": True},
    }


def _figures(found: dict[str, Samples]) -> tuple[Figure, ...]:
    """What hashing and signing add to reading, beside what OpenSSL needs to hash the same bytes."""
    rounds = zip(*(found[name].values for name in ("product", "read-only", "openssl")), strict=True)
    added = Samples(tuple((whole - read) / limit for whole, read, limit in rounds))
    name = "disk: what hashing and signing add to reading / file read and hashed by OpenSSL"
    return (Figure.of(name, AT_MOST, 1.1, added),)


LINES = (
    ("product", "full, the product, one thread", "tab:blue", "-"),
    ("product-two", "full, the product, two threads", "tab:green", "-"),
    ("read-only", "full, only read by the same path", "tab:orange", "-."),
    ("openssl", "full, file read and OpenSSL in 1 MiB buffers", "0.3", "--"),
    ("mostly-holes", f"{SAME_DATA_GIB} GiB of data, the rest holes", "tab:cyan", "-"),
)


def draw(report: Report, path: pathlib.Path) -> None:
    """Time over size; hollow marks are extrapolated."""
    rows = report.data["sizes"]
    with drawing.sheet(report, path) as (axes,):
        for way, label, colour, style in LINES:
            points = [(row["gib"], row["seconds"][way], row["extrapolated"][way]) for row in rows]
            axes.plot(
                [p[0] for p in points],
                [p[1] for p in points],
                style,
                color=colour,
                label=label,
                linewidth=1.2,
            )
            for gib, value, extrapolated in points:
                face = "white" if extrapolated else colour
                axes.plot(gib, value, "o", color=colour, markerfacecolor=face, markersize=5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("disk, GiB (hollow: extrapolated from a part)")
        axes.set_ylabel("seconds")
        axes.legend(fontsize=8)
