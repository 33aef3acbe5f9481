"""How long a freeze stops a Xen guest, beside ``xl save -c``; and what hashing and signing cost its capture.

A PVH guest that goes on writing, on a host of ``tools/lab xen``: an emulated machine, whose guest is emulated once more. So
seconds say nothing here, and ratios within a round are all there is. The guest's standstill is seen by one loop that asks Xen,
for both ways alike (``xen_host``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
from typing import TYPE_CHECKING, Any

from bench import drawing, machine
from bench.figure import AT_LEAST, AT_MOST, Figure
from bench.report import BenchError, Report, Settings
from bench.sampling import Samples, named_json

if TYPE_CHECKING:
    from labkit.xen.machine import Machine

NAME = "xen_freeze"
TITLE = "A Xen guest's freeze, and xl save -c of the same guest"
ROUNDS = 5
WINDOW, RATE = 2.0, 0.8
LIMIT_S = 3000.0


def measure(settings: Settings) -> Report:
    """Measure."""
    if os.geteuid() != 0:
        raise BenchError("the Xen hosts' disk is made by root: run it as root")
    from labkit.errors import LabError
    from labkit.paths import LabPaths
    from labkit.xen import guests
    from labkit.xen.hosts import XenHosts

    facts = machine.facts()
    known = LabPaths.from_environment()
    hosts = XenHosts.at(dataclasses.replace(known, root=known.root / "bench" / "xen"))
    try:
        hosts.up(settings.say)
        try:
            guest = guests.boot(hosts.source, known.cache, guests.Wish(name="bench", vtpm=False))
            rounds = 2 if settings.quick else ROUNDS
            settings.say(f"{rounds} rounds")
            found = _rounds(hosts.source, guest.name, guest.uuid, rounds)
        finally:
            hosts.down()
    except LabError as error:
        raise BenchError(f"the Xen hosts: {error}") from error
    windows = {way: _samples(found, lambda one, way=way: one[way]["window_s"]) for way in WAYS}
    seconds = {way: _samples(found, lambda one, way=way: one[way]["seconds"]) for way in WAYS}
    sealing = _samples(found, lambda one: one["seal_s"])
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "memory_mib": guest.definition.memory_mib,
            "window_seconds": named_json(windows),
            "whole_seconds": named_json(seconds),
            "hash_and_sign_seconds": sealing.to_json(),
            "told_pause_seconds": _samples(found, lambda one: one["told_pause_s"]).to_json(),
        },
        figures=_figures(windows, seconds["product"], sealing),
        notes=(
            "own: xl save -c into a file; product: memory, devices and disks of one instant, every page checked as it comes",
            "hash and sign: the captured memory, read, hashed and signed as an exporter does while it serves",
            "hosts and guest are emulated: only ratios within a round count",
        ),
    )


WAYS = ("own", "product")


def _rounds(host: Machine, name: str, uuid: str, rounds: int) -> list[dict[str, Any]]:
    command = ["/opt/venv/bin/python", "-m", "bench.xen_host", name, uuid, str(rounds)]
    lines = host.run(command, limit_s=LIMIT_S).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def _samples(found: list[dict[str, Any]], of: Any) -> Samples:
    return Samples(tuple(float(of(one)) for one in found))


def _figures(windows: dict[str, Samples], capture: Samples, sealing: Samples) -> tuple[Figure, ...]:
    both = Samples(
        tuple(mine + more for mine, more in zip(capture.values, sealing.values, strict=True))
    )
    medians = {way: statistics.median(windows[way].values) for way in WAYS}
    return (
        Figure.of(
            "a Xen guest's standstill / that of xl save -c",
            AT_MOST,
            WINDOW,
            windows["product"].per(windows["own"]),
            remark=f"{medians['product'] * 1e3:.0f} and {medians['own'] * 1e3:.0f} ms, emulated",
        ),
        Figure.of(
            "a Xen guest's capture, hashed and signed / only captured (rate)",
            AT_LEAST,
            RATE,
            capture.per(both),
        ),
    )


def draw(report: Report, path: pathlib.Path) -> None:
    """Each round's standstill and whole time, both ways."""
    with drawing.sheet(report, path, panels=2) as (still, whole):
        for axes, key, label in (
            (still, "window_seconds", "standstill, s"),
            (whole, "whole_seconds", "from its beginning to its end, s"),
        ):
            for way in WAYS:
                values = report.data[key][way]["values"]
                axes.plot(range(1, len(values) + 1), values, marker="o", label=way)
            axes.set_xlabel("round")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.legend()
