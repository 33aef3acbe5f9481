"""How long from the order of a clone to the clone's first output.

The whole product between two hosts of the lab: agents, attestation, freeze, transfer, a lazy restore.
The source's memory has several sizes, most of it really filled; a clone that starts before its memory
is there takes as long whatever the size. Peak anonymous memory of exporter and store is noted too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import statistics
import time
from typing import Any

import libvirt
from labkit import guests, ordering
from labkit.errors import LabError
from labkit.host import Host
from labkit.lab import Lab
from labkit.operator import Operator
from labkit.ordering import Cloning

from bench import drawing, labhosts, machine
from bench.figure import AT_MOST, Figure
from bench.milestones import MILESTONES, ConsoleWatch, Timeline, phases
from bench.peer import MemoryWatch
from bench.report import BenchError, Report, Settings
from bench.sampling import Samples, named_json
from bench.transfer import GROWTH_MIB
from nova_trusted_clone.datapath import processes
from nova_trusted_clone.hypervisor.qemu.connection import EventTimes, connected
from nova_trusted_clone.transport.rpc import RpcError

NAME = "first_output"
TITLE = "From the order to the clone's first output (lazy)"
SIZES_MIB = (256, 1024, 2048)
# The guest says a line a second, and each clone begins anywhere between two: medians of three jumped by half a second.
ROUNDS = 5
OUTPUT_LIMIT_S = 300.0
COMPLETE_LIMIT_S = 600.0
GONE_LIMIT_S = 60.0
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Run:
    """One clone: when what happened, and what its helpers needed."""

    timeline: Timeline
    pause_s: float
    peak_mib: dict[str, float]

    @property
    def output_s(self) -> float:
        """Seconds to the first output."""
        return self.timeline.after_s["output"]


def measure(settings: Settings) -> Report:
    """Measure."""
    facts = machine.facts()
    sizes = SIZES_MIB[:2] if settings.quick else SIZES_MIB
    runs: dict[int, list[_Run]] = {size: [] for size in sizes}
    with labhosts.up(settings.say) as lab:
        operator = Operator(lab)
        try:
            settings.say("enrolling both hosts, starting their agents")
            operator.prepare()
            # libvirtd looks at QEMU's abilities before the first domain after its start: 3.5 s (measured) that are no clone's.
            settings.say("the first clone of the hosts, which does not count")
            first = _clone(lab, operator, sizes[0])
            for number in range(1 if settings.quick else ROUNDS):
                for size in sizes:
                    settings.say(f"cloning a guest with {size} MiB, round {number + 1}")
                    runs[size].append(_clone(lab, operator, size))
        except RpcError as error:
            raise BenchError(f"an agent: {error}") from error
    found = {size: Samples(tuple(run.output_s for run in all_)) for size, all_ in runs.items()}
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "filled": labhosts.FILLED,
            "seconds": named_json({str(size): one for size, one in found.items()}),
            "median_part_seconds": {str(size): _parts(all_) for size, all_ in runs.items()},
            "first_of_hosts": _row(first),
            "runs": {str(size): [_row(run) for run in all_] for size, all_ in runs.items()},
        },
        figures=(*_figures(found), *_memory_figures(runs)),
        notes=(
            "parts: from the agents' logs (milliseconds) and the clone's console file, looked at every"
            " 2 ms; 'until QEMU runs' ends when QEMU has opened the console",
            "the guest says a line a second and checks its memory all the time; its console also shows"
            " what was in the serial port at the freeze",
            "first_of_hosts: the first clone after libvirtd's start; it does not count",
            "peak_mib: anonymous memory (RssAnon) of the exporter's and the store's process",
        ),
    )


def _clone(lab: Lab, operator: Operator, size_mib: int) -> _Run:
    with labhosts.guest(lab.source, size_mib) as source:
        ordered_at = time.time()
        cloning = ordering.order(operator, source, lab.destination)
        clone = cloning.clones[0]
        console = lab.destination.state_path / "clones" / clone.clone_id / "console0.log"
        try:
            with (
                _helpers(lab, cloning.group) as memory,
                ConsoleWatch(console, OUTPUT_LIMIT_S) as watch,
                connected(lab.destination.uri) as libvirtd,
                # None: the host's only domain is the clone, which is yet to come.
                EventTimes(libvirtd, None) as events,
            ):
                ended = cloning.wait(COMPLETE_LIMIT_S)[0]
                watch.wait()
            if ended.phase != "complete" or watch.output_at is None:
                raise BenchError(f"a clone of {size_mib} MiB: {ended.phase}: {ended.reason}")
            labhosts.require_sound(source)
            told = {
                **phases(_log(operator, lab.destination), clone.clone_id),
                **phases(_log(operator, lab.source), clone.clone_id),
                "running": events.seen("RESUME")[0],
            }
            peaks = {name: round(peak / MIB, 2) for name, peak in memory.peak_bytes.items()}
            return _Run(Timeline.of(ordered_at, told, watch), cloning.pause_s(), peaks)
        finally:
            _remove(lab, cloning)


def _log(operator: Operator, host: Host) -> list[str]:
    text: str = operator.agent(host).log.read_text(errors="replace")
    return text.splitlines()


def _helpers(lab: Lab, group: str) -> MemoryWatch:
    """Watch the memory of the exporter and the store of a freeze, which start within the block."""
    places = {
        "exporter": lab.source.state_path / "freezes" / group / "exporter",
        "store": lab.destination.state_path / "stores" / group,
    }

    def pid(place: pathlib.Path) -> int:
        found = processes.find(place)
        return found.pid if found is not None else 0

    return MemoryWatch({name: functools.partial(pid, at) for name, at in places.items()})


def _remove(lab: Lab, cloning: Cloning[guests.Guest, Host]) -> None:
    """End the clone and wait until its store has gone, so that the next one finds the memory free."""
    with guests.connected(lab.destination) as connection:
        for clone in cloning.clones:
            with contextlib.suppress(libvirt.libvirtError):
                connection.lookupByUUIDString(clone.uuid).destroy()
    deadline = time.monotonic() + GONE_LIMIT_S
    store = lab.destination.state_path / "stores" / cloning.group
    while store.exists():
        if time.monotonic() > deadline:
            raise LabError(f"the store of freeze {cloning.group} stays though its clone has gone")
        time.sleep(0.1)


def _parts(runs: list[_Run]) -> dict[str, float]:
    """The median of each part over the runs, in order."""
    spans = [run.timeline.spans() for run in runs]
    names = [name for name in MILESTONES.values() if all(name in one for one in spans)]
    return {name: round(statistics.median(one[name] for one in spans), 4) for name in names}


def _row(run: _Run) -> dict[str, Any]:
    after = {name: round(at, 4) for name, at in sorted(run.timeline.after_s.items(), key=_second)}
    return {"after_s": after, "pause_s": round(run.pause_s, 6), "peak_mib": run.peak_mib}


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _figures(found: dict[int, Samples]) -> tuple[Figure, ...]:
    name, small, large = "first output at 2 GiB / at 256 MiB", SIZES_MIB[0], SIZES_MIB[-1]
    if large not in found:
        return (Figure(name, AT_MOST, 1.5, None, remark="only in a full run"),)
    remark = f"{found[large].median:.2f} s and {found[small].median:.2f} s"
    ratio = found[large].per(found[small])
    return (Figure.of(name, AT_MOST, 1.5, ratio, remark=remark),)


def _memory_figures(runs: dict[int, list[_Run]]) -> tuple[Figure, ...]:
    small, large = runs[SIZES_MIB[0]], runs.get(SIZES_MIB[-1])
    figures = []
    for name in ("exporter", "store"):
        title = f"a clone's {name}: growth of its memory from 256 MiB to 2 GiB"
        if large is None:
            figures.append(Figure(title, AT_MOST, GROWTH_MIB, None, remark="only in a full run"))
            continue
        pairs = zip(small, large, strict=True)
        grown = Samples(tuple(b.peak_mib[name] - a.peak_mib[name] for a, b in pairs))
        peak = max(run.peak_mib[name] for run in large)
        remark = f"peak {peak:.0f} MiB"
        figures.append(Figure.of(title, AT_MOST, GROWTH_MIB, grown, unit=" MiB", remark=remark))
    return tuple(figures)


def draw(report: Report, path: pathlib.Path) -> None:
    """What the time is made of, by size."""
    parts: dict[str, dict[str, float]] = report.data["median_part_seconds"]
    runs: dict[str, list[dict[str, Any]]] = report.data["runs"]
    with drawing.sheet(report, path) as (axes,):
        bottom = [0.0] * len(parts)
        for name in MILESTONES.values():
            heights = [one.get(name, 0.0) for one in parts.values()]
            axes.bar(range(len(parts)), heights, 0.6, bottom=bottom, label=name)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        for place, size in enumerate(parts):
            values = [run["after_s"]["output"] for run in runs[size]]
            axes.plot([place] * len(values), values, "k.", markersize=5)
        axes.set_xticks(range(len(parts)), [f"{size} MiB" for size in parts])
        axes.set_ylabel("seconds (bars: medians; dots: each first output)")
        axes.legend(fontsize=8)
