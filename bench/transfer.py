"""The rate of a transfer from exporter to store, with and without the verifier, and their memory.

Two processes on loopback, TLS 1.3 with both ends pinned, as in a clone. The same path is measured
without the verifier at the store, and without hashing and signing at the exporter as well; then the
same bytes over plain TLS and plain TCP, on as many lines: the wire's limit on this machine.
"""

from __future__ import annotations

import functools
import pathlib
import shutil
import statistics
from typing import Any

from bench import content, drawing, machine
from bench.figure import AT_LEAST, AT_MOST, Figure
from bench.peer import MemoryWatch, peer
from bench.report import Report, Settings
from bench.sampling import Samples, by_turns, named_json
from nova_trusted_clone.datapath.fetcher import FetchSettings

NAME = "transfer"
TITLE = "A transfer over TLS on loopback, with and without the verifier"
MIB, GIB = 1 << 20, 1 << 30
SMALL_BYTES, LARGE_BYTES = 256 * MIB, 2048 * MIB
# Allocators keep what they once had; the bitmaps, digests and places are 1 part in 20,000.
GROWTH_MIB = 16.0
LINES = FetchSettings().bulk_lines


def _clone(directory: pathlib.Path, size: int, sealed: bool, verified: bool) -> dict[str, Any]:
    """One whole transfer by the product's exporter and store."""
    file, kept = directory / "region", directory / "store"
    given = {"directory": str(directory), "file": str(file), "size": size, "sealed": sealed}
    try:
        with (
            peer("export", **given) as source,
            peer("store", directory=str(kept), size=size, verified=verified) as target,
            MemoryWatch({"exporter": lambda: source.pid, "store": lambda: target.pid}) as watch,
        ):
            before_s = source.ask(admit=target.hello["certificate"])["cpu_s"]
            found = target.ask(**source.hello)
            exporter_s = source.ask(how="far")["cpu_s"] - before_s
            cpu_s = {"exporter": exporter_s, "store": found["cpu_s"]}
            return {**found, "cpu_s": cpu_s, "peak_bytes": watch.peak_bytes}
    finally:
        shutil.rmtree(kept, ignore_errors=True)


def _copy(directory: pathlib.Path, size: int, secure: bool) -> dict[str, Any]:
    """The same bytes with nothing around them."""
    file = str(directory / "region")
    with (
        peer("send", file=file, size=size, lines=LINES, secure=secure) as source,
        peer("receive", size=size, lines=LINES, secure=secure) as target,
    ):
        source.ask(admit=target.hello["certificate"])
        return target.ask(**source.hello)


def measure(settings: Settings) -> Report:
    """Measure."""
    facts = machine.facts()
    size = (128 if settings.quick else 512) * MIB
    rates, processor = _rates(settings, size)
    memory = _memory(settings)
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "region_bytes": size,
            "bulk_lines": LINES,
            "mib_per_s": named_json(rates),
            "median_cpu_s_per_gib": processor,
            "peak_anonymous_mib": memory,
        },
        figures=(*_rate_figures(rates, processor), *_memory_figures(memory)),
        notes=(
            "verified: the product; believing: no verifier at the store; bare: also no hashing and no"
            " signing at the exporter; tls, tcp: the same bytes, read from the same file, thrown away",
            "both ends, and both directions of TLS, share this machine's cores: what one end saves"
            " the other uses; between two machines each has its own",
            "peak_anonymous_mib: RssAnon of each process, interpreter included",
        ),
    )


def _rates(settings: Settings, size: int) -> tuple[dict[str, Samples], dict[str, dict[str, float]]]:
    """MiB/s of every way; and the processor seconds a GiB of each end of the product's ways."""
    directory = settings.scratch
    content.fill(directory / "region", size)
    ways = {
        "verified": functools.partial(_clone, directory, size, True, True),
        "believing": functools.partial(_clone, directory, size, True, False),
        "bare": functools.partial(_clone, directory, size, False, False),
        "tls": functools.partial(_copy, directory, size, True),
        "tcp": functools.partial(_copy, directory, size, False),
    }
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}

    def rate(name: str) -> float:
        told[name].append(ways[name]())
        return size / MIB / float(told[name][-1]["seconds"])

    settings.say(f"moving {size >> 20} MiB in {len(ways)} ways, {settings.rounds} times each")
    rates = by_turns({name: functools.partial(rate, name) for name in ways}, settings.rounds)
    processor = {
        name: {
            end: round(statistics.median(one["cpu_s"][end] for one in told[name]) * GIB / size, 4)
            for end in ("exporter", "store")
        }
        for name in ("verified", "believing", "bare")
    }
    return rates, processor


def _memory(settings: Settings) -> dict[str, dict[str, float]]:
    """Peak anonymous memory of both processes by the region's size, MiB."""
    found = {}
    for size in (SMALL_BYTES, LARGE_BYTES):
        settings.say(f"memory of exporter and store with a region of {size >> 20} MiB")
        content.fill(settings.scratch / "region", size)
        peaks = _clone(settings.scratch, size, sealed=True, verified=True)["peak_bytes"]
        found[str(size >> 20)] = {name: round(peak / MIB, 2) for name, peak in peaks.items()}
    return found


def _rate_figures(
    rates: dict[str, Samples], processor: dict[str, dict[str, float]]
) -> tuple[Figure, ...]:
    """The verified rate beside the one without the verifier; the remark has the same ratio by the processor time of both ends.

    Without hashing and signing at the exporter as well it is told, and nothing is asked of it.
    """
    used = {name: sum(ends.values()) for name, ends in processor.items()}
    bare = rates["verified"].per(rates["bare"]).median
    return (
        Figure.of(
            "verified transfer / the same path without the verifier",
            AT_LEAST,
            0.85,
            rates["verified"].per(rates["believing"]),
            remark=f"by processor time {used['believing'] / used['verified']:.2f};"
            f" without hashing and signing at the exporter too {bare:.2f}",
        ),
    )


def _memory_figures(memory: dict[str, dict[str, float]]) -> tuple[Figure, ...]:
    small, large = memory[str(SMALL_BYTES >> 20)], memory[str(LARGE_BYTES >> 20)]
    figures = []
    for name in ("exporter", "store"):
        grown = Samples((large[name] - small[name],))
        remark = f"{small[name]:.0f} and {large[name]:.0f} MiB"
        title = f"memory of the {name}: growth from 256 MiB to 2 GiB"
        figures.append(Figure.of(title, AT_MOST, GROWTH_MIB, grown, unit=" MiB", remark=remark))
    return tuple(figures)


BARS = (
    ("verified", "the product", "tab:blue"),
    ("believing", "no verifier\nat the store", "tab:cyan"),
    ("bare", "no hashing,\nno signing", "tab:green"),
    ("tls", "plain TLS", "0.5"),
    ("tcp", "plain TCP", "0.7"),
)


def draw(report: Report, path: pathlib.Path) -> None:
    """Rates, and memory by size."""
    rates, memory = report.data["mib_per_s"], report.data["peak_anonymous_mib"]
    with drawing.sheet(report, path, panels=2) as (left, right):
        for place, (way, _, colour) in enumerate(BARS):
            found = rates[way]
            span = [
                [found["median"] - min(found["values"])],
                [max(found["values"]) - found["median"]],
            ]
            left.bar(place, found["median"], color=colour, yerr=span, capsize=3)
        left.set_xticks(range(len(BARS)), [label for _, label, _ in BARS], fontsize=8)
        left.set_ylabel("MiB/s (median; the lines: lowest and highest)")
        sizes = list(memory)
        for offset, name in ((-0.2, "exporter"), (0.2, "store")):
            places = [place + offset for place in range(len(sizes))]
            right.bar(places, [memory[size][name] for size in sizes], width=0.38, label=name)
        right.set_xticks(range(len(sizes)), [f"{size} MiB" for size in sizes])
        right.set_xlabel("region")
        right.set_ylabel("peak anonymous memory, MiB")
        right.legend(fontsize=8)
