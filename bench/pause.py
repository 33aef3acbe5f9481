"""How long a freeze stops a running guest.

The product's freeze (memory, device state, disks, vTPM of one instant) and QEMU's own suspend and
background snapshot (memory and device state alone, its stream thrown away) by turns on the same
guest, at several sizes of memory, most of it really filled. A pause is from QEMU's STOP event to its
RESUME event, by QEMU's own clock.

A guest's first freeze is measured apart, on guests of their own: QEMU's snapshot splits the huge zero page, so
that memory which a guest never touched is protected page by page from its second freeze on.
"""

from __future__ import annotations

import pathlib
import statistics
import time
from typing import Any

from labkit.host import Host

from bench import drawing, labhosts, machine, own_freeze, own_snapshot
from bench.figure import AT_MOST, Figure
from bench.report import BenchError, Report, Settings
from bench.sampling import Samples, named_json
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.ports import Frozen

NAME = "pause"
TITLE = "Pause of the source: the product's freeze and QEMU's own snapshot"
SIZES_MIB = (256, 1024, 2048)
# Between two freezes a guest runs on, as in life.
BETWEEN_S = 0.5
# One freeze is 12 to 20 ms on the same guest: a median of five still jumps by a third between two runs.
ROUNDS = 11
# Each takes a new guest, which takes its time to fill its memory.
FIRST_ROUNDS = 7
SMALL, LARGE = SIZES_MIB[0], SIZES_MIB[-1]


def measure(settings: Settings) -> Report:
    """Measure."""
    facts = machine.facts()
    sizes = SIZES_MIB[:2] if settings.quick else SIZES_MIB
    found: dict[int, dict[str, Samples]] = {}
    steps: dict[str, dict[str, float]] = {}
    with labhosts.up(settings.say) as lab:
        for size in sizes:
            settings.say(f"a guest with {size} MiB, {labhosts.FILLED:.0%} of it filled")
            try:
                found[size], frozen = _of_guest(lab.source, size, settings)
            except HypervisorError as error:
                raise BenchError(f"{size} MiB: {error}") from error
            steps[str(size)] = _median_steps(frozen)
        first = {} if settings.quick else _first_freezes(lab.source, settings)
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "filled": labhosts.FILLED,
            "seconds": {str(size): named_json(ways) for size, ways in found.items()},
            "first_freeze_seconds": named_json({str(size): s for size, s in first.items()}),
            "median_step_seconds": steps,
        },
        figures=(*_figures(found), *_by_size(found, first)),
        notes=(
            "product: freeze of memory, devices, disks and vTPM; qemu: suspend and background snapshot"
            " of memory and devices alone",
            "steps: the freeze's own clock; suspend, disks, devices, migrate and resume are in the pause",
        ),
    )


def _of_guest(
    host: Host, size_mib: int, settings: Settings
) -> tuple[dict[str, Samples], list[Frozen]]:
    frozen: list[Frozen] = []
    own: list[float] = []
    with labhosts.guest(host, size_mib) as guest:
        for number in range(2 if settings.quick else ROUNDS):
            directory = host.state_path / "bench" / str(number)
            frozen.append(own_freeze.freeze(host.uri, guest.uuid, directory))
            time.sleep(BETWEEN_S)
            own.append(own_snapshot.pause_s(host.uri, guest.uuid))
            time.sleep(BETWEEN_S)
        labhosts.require_sound(guest)
    product = Samples(tuple(one.pause_s for one in frozen))
    return {"product": product, "qemu": Samples(tuple(own))}, frozen


def _first_freezes(host: Host, settings: Settings) -> dict[int, Samples]:
    """By turns, so that what the machine does meanwhile meets both sizes."""
    found: dict[int, list[float]] = {SMALL: [], LARGE: []}
    settings.say(f"the first freezes of {FIRST_ROUNDS} guests of each of {SMALL} and {LARGE} MiB")
    for number in range(FIRST_ROUNDS):
        for size, pauses in found.items():
            directory = host.state_path / "bench" / f"first-{number}"
            try:
                with labhosts.guest(host, size) as guest:
                    time.sleep(BETWEEN_S)
                    pauses.append(own_freeze.freeze(host.uri, guest.uuid, directory).pause_s)
            except HypervisorError as error:
                raise BenchError(f"{size} MiB: {error}") from error
    return {size: Samples(tuple(pauses)) for size, pauses in found.items()}


def _median_steps(frozen: list[Frozen]) -> dict[str, float]:
    names = [name for name, _ in frozen[0].steps]
    by_name = [dict(one.steps) for one in frozen]
    return {
        name: round(statistics.median(steps.get(name, 0.0) for steps in by_name), 6)
        for name in names
    }


def _figures(found: dict[int, dict[str, Samples]]) -> tuple[Figure, ...]:
    return tuple(
        Figure.of(
            f"pause at {size} MiB / QEMU's own snapshot",
            AT_MOST,
            2.0,
            ways["product"].per(ways["qemu"]),
            remark=f"{_ms(ways['product'])}, QEMU's own {_ms(ways['qemu'])}",
        )
        for size, ways in found.items()
    )


def _by_size(found: dict[int, dict[str, Samples]], first: dict[int, Samples]) -> tuple[Figure, ...]:
    later = {size: ways["product"] for size, ways in found.items()}
    figures = []
    for which, pauses in (("first freeze", first), ("later freezes", later)):
        name = f"pause at 2 GiB / at 256 MiB, {which}"
        if SMALL in pauses and LARGE in pauses:
            ratio = pauses[LARGE].per(pauses[SMALL])
            remark = f"{_ms(pauses[LARGE])} and {_ms(pauses[SMALL])}"
            figures.append(Figure.of(name, AT_MOST, 1.5, ratio, remark=remark))
        else:
            figures.append(Figure(name, AT_MOST, 1.5, None, remark="only in a full run"))
    return tuple(figures)


def _ms(samples: Samples) -> str:
    return f"{samples.median * 1e3:.0f} ms"


def draw(report: Report, path: pathlib.Path) -> None:
    """Pauses by size, and what they are made of."""
    rows: dict[str, Any] = report.data["seconds"]
    steps: dict[str, dict[str, float]] = report.data["median_step_seconds"]
    labels = [f"{size} MiB" for size in rows]
    with drawing.sheet(report, path, panels=2) as (left, right):
        for offset, way, label in (
            (-0.2, "product", "the product's freeze"),
            (0.2, "qemu", "QEMU's own"),
        ):
            places = [place + offset for place in range(len(rows))]
            left.bar(places, [row[way]["median"] * 1e3 for row in rows.values()], 0.38, label=label)
            for place, row in zip(places, rows.values(), strict=True):
                values = [value * 1e3 for value in row[way]["values"]]
                left.plot([place] * len(values), values, "k.", markersize=4)
        left.set_ylabel("milliseconds (bars: median; dots: each)")
        bottom = [0.0] * len(rows)
        for name in ("suspend", "disks", "devices", "migrate", "resume"):
            heights = [steps[size].get(name, 0.0) * 1e3 for size in rows]
            right.bar(range(len(rows)), heights, 0.6, bottom=bottom, label=name)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        right.set_ylabel("milliseconds of the freeze's steps (medians)")
        for axes in (left, right):
            axes.set_xticks(range(len(rows)), labels)
            axes.legend(fontsize=8)
