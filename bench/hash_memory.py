"""The paper's Figure 4: time to hash 1, 2, 4 … 131072 pages of 4 KiB.

The product hashes the leaves of a segment of 1 MiB in one call, zero leaves told apart. Beside it:
OpenSSL's SHA-256 over the same bytes in buffers of 1 MiB (what one core can do when nothing but
hashing is done), hashlib a page, a copy of the same bytes (no way of touching memory is faster),
zero pages, and all of it on two threads.

What one core needs is told by the clock and by the processor time of its thread; on a quiet machine they
are the same. Ratios on one core are of the latter, so that others on the machine do not show in them.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
import time
from collections.abc import Callable

import numpy as np

from bench import drawing, machine
from bench.figure import AT_LEAST, AT_MOST, Figure
from bench.report import Report, Settings
from bench.sampling import Samples, by_turns, named_json, seconds
from nova_trusted_clone.core.integrity.leaf import (
    LEAF_BYTES,
    LEAVES_PER_SEGMENT,
    SEGMENT_BYTES,
    digest_segment,
    hash_leaves,
    implementation,
)

NAME = "hash_memory"
TITLE = "Hashing memory pages of 4 KiB (the paper's Figure 4)"
PAGES = tuple(1 << power for power in range(18))
MOST = PAGES[-1]
# Fewer pages are hashed again at the next places, until a clock can tell the time.
LEAST_AT_ONCE = 2048
# With fewer, two threads would have no segment each.
LEAST_FOR_TWO = 2 * LEAVES_PER_SEGMENT
ON_ONE_CORE = ("product", "openssl", "product-verify", "hashlib-page", "product-zero", "copy")
Work = Callable[[memoryview], object]
# Processor seconds of each round by the way's name.
CoreTimes = dict[str, list[float]]


def _segments(work: Work, data: memoryview) -> None:
    """``work`` on each megabyte."""
    for start in range(0, len(data), SEGMENT_BYTES):
        work(data[start : start + SEGMENT_BYTES])


def _pages(data: memoryview) -> None:
    for start in range(0, len(data), LEAF_BYTES):
        hashlib.sha256(data[start : start + LEAF_BYTES]).digest()


def _openssl(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


class _Bytes:
    """Memory to hash, a place to copy it to, and two threads."""

    def __init__(self, pool: concurrent.futures.Executor) -> None:
        made = np.random.default_rng(4).bytes(MOST * LEAF_BYTES)
        self.random = memoryview(made)
        self.zero = memoryview(bytes(MOST * LEAF_BYTES))
        self._source = np.frombuffer(made, np.uint8)
        self._target = np.ones(MOST * LEAF_BYTES, np.uint8)
        self._pool = pool

    def copy(self, data: memoryview) -> None:
        """Copy memory to memory."""
        target = self._target[: len(data)]
        np.copyto(target, np.frombuffer(data, np.uint8))

    def on_two(self, work: Work, data: memoryview) -> None:
        """Half of the segments on each of two threads."""
        middle = len(data) // 2
        halves = (data[:middle], data[middle:])
        list(self._pool.map(lambda half: _segments(work, half), halves))

    def ways(self, pages: int, core: CoreTimes) -> dict[str, Callable[[], float]]:
        """Every way of handling ``pages`` pages, in seconds; those on one core also tell ``core``."""
        whole: dict[str, tuple[Work, memoryview]] = {
            "product": (lambda data: _segments(digest_segment, data), self.random),
            "openssl": (lambda data: _segments(_openssl, data), self.random),
            "product-verify": (lambda data: _segments(hash_leaves, data), self.random),
            "hashlib-page": (_pages, self.random),
            "product-zero": (lambda data: _segments(digest_segment, data), self.zero),
            "copy": (self.copy, self.random),
        }
        if pages >= LEAST_FOR_TWO:
            whole["product-two"] = (lambda data: self.on_two(digest_segment, data), self.random)
            whole["openssl-two"] = (lambda data: self.on_two(_openssl, data), self.random)
        return {
            name: _timed(work, data, pages, core.setdefault(name, []))
            for name, (work, data) in whole.items()
        }


def _timed(work: Work, data: memoryview, pages: int, core: list[float]) -> Callable[[], float]:
    size, times = pages * LEAF_BYTES, max(1, LEAST_AT_ONCE // pages)
    parts = [data[at * size : (at + 1) * size] for at in range(times)]

    def run() -> float:
        before_s = time.thread_time()
        passed_s = seconds(lambda: [work(part) for part in parts])
        core.append((time.thread_time() - before_s) / times)
        return passed_s / times

    return run


def measure(settings: Settings) -> Report:
    """Measure."""
    facts = machine.facts()
    found: dict[int, dict[str, Samples]] = {}
    cores: dict[int, dict[str, Samples]] = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        memory = _Bytes(pool)
        by_turns(
            memory.ways(LEAST_AT_ONCE, {}), 1
        )  # page tables, caches, threads: none of it counts
        for pages in PAGES:
            settings.say(f"hashing {pages} pages")
            core: CoreTimes = {}
            found[pages] = by_turns(memory.ways(pages, core), settings.rounds)
            cores[pages] = {name: Samples(tuple(core[name])) for name in ON_ONE_CORE}
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "seconds": {str(pages): named_json(ways) for pages, ways in found.items()},
            "core_seconds": {str(pages): named_json(ways) for pages, ways in cores.items()},
        },
        figures=_figures(found[MOST], cores[MOST]),
        notes=(
            "seconds for so many pages; fewer than 2048 pages: the mean over as many places as make 2048",
            "product: digest_segment, as the exporter; product-verify: hash_leaves, as the store",
            "openssl: hashlib.sha256 over 1 MiB at a time; -two: two threads",
            "seconds: by the clock; core_seconds: processor time of the one thread",
        ),
    )


def _figures(found: dict[str, Samples], core: dict[str, Samples]) -> tuple[Figure, ...]:
    ratio = core["product"].per(core["openssl"])
    verify = core["product-verify"].per(core["openssl"])
    two = found["product"].per(found["product-two"])
    possible = found["openssl"].per(found["openssl-two"])
    faster = 1.0 if implementation() == "ipsec-mb" else 1.1
    return (
        Figure.of(f"{MOST} pages, one core / OpenSSL in 1 MiB buffers", AT_MOST, faster, ratio),
        Figure.of("the same as the store verifies", AT_MOST, faster, verify),
        Figure.of(
            "two cores: times as fast as one",
            AT_LEAST,
            1.7,
            two,
            remark=f"OpenSSL in the same run: {possible.median:.3g}",
        ),
    )


LINES = (
    ("hashlib-page", "hashlib, a call a page", "tab:red", ":"),
    ("openssl", "OpenSSL, 1 MiB buffers (one-core limit)", "0.3", "--"),
    ("product", "the product, one core", "tab:blue", "-"),
    ("product-two", "the product, two threads", "tab:green", "-"),
    ("product-zero", "the product, zero pages", "tab:cyan", "-"),
    ("copy", "copying the same bytes", "tab:orange", "-."),
)


def draw(report: Report, path: pathlib.Path) -> None:
    """Time over pages."""
    rows = report.data["seconds"]
    with drawing.sheet(report, path) as (axes,):
        for way, label, colour, style in LINES:
            points = [(int(n), ways[way]["median"]) for n, ways in rows.items() if way in ways]
            axes.plot(
                [n for n, _ in points],
                [s * 1e3 for _, s in points],
                style,
                color=colour,
                label=label,
                marker=".",
                linewidth=1.2,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("pages of 4 KiB")
        axes.set_ylabel("milliseconds")
        axes.legend(fontsize=8)
