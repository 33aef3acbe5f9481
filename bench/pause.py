"""How long a freeze stops a running guest.

The product's freeze (memory, device state, disks, vTPM of one instant) and QEMU's own suspend and
background snapshot (memory and device state alone, its stream thrown away) by turns on the same
guest, at several sizes of memory, most of it really filled. A pause is from QEMU's STOP event to its
RESUME event, by QEMU's own clock.

How the pause grows with the memory is measured apart, on new guests that the product alone freezes: their first freeze and
later ones. A quarter of the large one's memory was never touched.
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
GUESTS = 5
LATER_FREEZES = 3
FIRST, LATER = "first freeze", "later freezes"
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
        alone = {} if settings.quick else _frozen_alone(lab.source, settings)
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "filled": labhosts.FILLED,
            "seconds": {str(size): named_json(ways) for size, ways in found.items()},
            "frozen_alone_seconds": {
                which: named_json({str(size): s for size, s in by_size.items()})
                for which, by_size in alone.items()
            },
            "median_step_seconds": steps,
        },
        figures=(*_figures(found), *_by_size(alone)),
        notes=(
            "product: freeze of memory, devices, disks and vTPM; qemu: suspend and background snapshot"
            " of memory and devices alone",
            "steps: the freeze's own clock; suspend, disks, devices, protect and resume are in the pause",
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
            own.append(_own_pause_s(host, guest.uuid, settings))
            time.sleep(BETWEEN_S)
        labhosts.require_sound(guest)
    product = Samples(tuple(one.pause_s for one in frozen))
    return {"product": product, "qemu": Samples(tuple(own))}, frozen


def _own_pause_s(host: Host, server_uuid: str, settings: Settings) -> float:
    try:
        return own_snapshot.pause_s(host.uri, server_uuid)
    except own_snapshot.EventLost as error:
        settings.say(f"{error}: measured again")
        return own_snapshot.pause_s(host.uri, server_uuid)


def _frozen_alone(host: Host, settings: Settings) -> dict[str, dict[int, Samples]]:
    """By turns, so that what the machine does meanwhile meets both sizes."""
    found: dict[str, dict[int, list[float]]] = {
        which: {SMALL: [], LARGE: []} for which in (FIRST, LATER)
    }
    settings.say(f"{GUESTS} guests of each of {SMALL} and {LARGE} MiB, frozen by the product alone")
    for _ in range(GUESTS):
        for size in (SMALL, LARGE):
            first, *later = _freezes(host, size)
            found[FIRST][size].append(first)
            found[LATER][size].extend(later)
    return {
        which: {size: Samples(tuple(pauses)) for size, pauses in by_size.items()}
        for which, by_size in found.items()
    }


def _freezes(host: Host, size_mib: int) -> list[float]:
    """The pauses of a new guest's first freezes."""
    pauses = []
    try:
        with labhosts.guest(host, size_mib) as guest:
            for number in range(1 + LATER_FREEZES):
                time.sleep(BETWEEN_S)
                directory = host.state_path / "bench" / f"alone-{number}"
                pauses.append(own_freeze.freeze(host.uri, guest.uuid, directory).pause_s)
            labhosts.require_sound(guest)
    except HypervisorError as error:
        raise BenchError(f"{size_mib} MiB: {error}") from error
    return pauses


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


def _by_size(alone: dict[str, dict[int, Samples]]) -> tuple[Figure, ...]:
    figures = []
    for which in (FIRST, LATER):
        name = f"pause at 2 GiB / at 256 MiB, {which}"
        if pauses := alone.get(which):
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
        for name in ("suspend", "disks", "devices", "protect", "resume"):
            heights = [steps[size].get(name, 0.0) * 1e3 for size in rows]
            right.bar(range(len(rows)), heights, 0.6, bottom=bottom, label=name)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        right.set_ylabel("milliseconds of the freeze's steps (medians)")
        for axes in (left, right):
            axes.set_xticks(range(len(rows)), labels)
            axes.legend(fontsize=8)
