"""The bench's one command: measure, write, draw, and say what was reached."""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from bench import (
    cloud_active,
    cloud_requests,
    figure,
    first_output,
    hash_disk,
    hash_memory,
    machine,
    pause,
    transfer,
    xen_freeze,
)
from bench.report import BenchError, Report, Settings

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SHARED_MEMORY = pathlib.Path("/dev/shm")
# Source file, store's copy and slack of the largest transfer.
NEEDED_BYTES = 6 << 30
# Something else runs: two cores are shared with it, and every rate and every ratio of cores suffers.
BUSY_LOAD = 0.7


class Measurement(Protocol):
    """What a module of a measurement offers."""

    NAME: str

    def measure(self, settings: Settings) -> Report:
        """Measure."""

    def draw(self, report: Report, path: pathlib.Path) -> None:
        """Draw the report's plot."""


MEASUREMENTS: Mapping[str, Measurement] = {
    module.NAME: module
    for module in (
        hash_memory,
        hash_disk,
        transfer,
        pause,
        first_output,
        cloud_active,
        cloud_requests,
        xen_freeze,
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when every measurement was made, 1 when one could not be. Missed figures are told, not punished."""
    asked = _parser().parse_args(arguments)
    names = asked.only or list(MEASUREMENTS)
    if not asked.redraw and not asked.touched:
        _say(f"{machine.touch_memory() >> 20} MiB of free memory touched once")
    asked.output.mkdir(parents=True, exist_ok=True)
    if asked.redraw:
        return _redraw(names, asked.output)
    if len(names) == 1:
        failed = [] if _run(names[0], asked.quick, asked.output) else names
    else:
        failed = [name for name in names if not _run_apart(name, asked.quick, asked.output)]
    made = [Report.read(asked.output / f"{name}.json") for name in names if name not in failed]
    print(figure.table([one for report in made for one in report.figures]))
    for warning in warnings(made):
        _say(warning)
    for name in failed:
        print(f"bench: {name} could not be measured", file=sys.stderr)
    return 1 if failed else 0


def warnings(made: Sequence[Report]) -> list[str]:
    """Why numbers do not count, for a person who would quote them."""
    found = [f"{one.name}: a quick run; for a look only" for one in made if one.quick]
    for one in made:
        load = float(one.machine["load_1min_before"])
        if load > BUSY_LOAD:
            found.append(f"{one.name}: the machine was busy before (load {load:g}): measure again")
    return found


def _run_apart(name: str, quick: bool, output: pathlib.Path) -> bool:
    """In a process of its own: one measurement's memory and threads are none of the next one's, nor is its crash."""
    command = [sys.executable, "-m", "bench", "--touched", "--only", name]
    command += ["--output", str(output)]
    command += ["--quick"] if quick else []
    return subprocess.run(command, cwd=RESULTS.parents[1], check=False).returncode == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller parts")
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(MEASUREMENTS),
        metavar="NAME",
        help=f"only this one, repeatable: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument(
        "--output", type=_absolute, default=RESULTS, help="for JSON and plots (bench/results)"
    )
    parser.add_argument("--redraw", action="store_true", help="only draw the plots again")
    parser.add_argument("--touched", action="store_true", help=argparse.SUPPRESS)
    return parser


def _absolute(text: str) -> pathlib.Path:
    return pathlib.Path(text).resolve()


def _run(name: str, quick: bool, output: pathlib.Path) -> bool:
    began = time.monotonic()
    _say(f"{name} begins")
    memory, disk = tempfile.mkdtemp(dir=_roomy(), prefix="ntc-bench-"), tempfile.mkdtemp()
    try:
        settings = Settings(quick, pathlib.Path(memory), pathlib.Path(disk), _say)
        report = MEASUREMENTS[name].measure(settings)
    except BenchError as error:
        print(f"bench: {name}: {error}", file=sys.stderr)
        return False
    finally:
        for scratch in (memory, disk):
            shutil.rmtree(scratch)
    report.write(output)
    MEASUREMENTS[name].draw(report, output / f"{name}.png")
    _say(f"{name}: {time.monotonic() - began:.0f} s")
    return True


def _redraw(names: Sequence[str], output: pathlib.Path) -> int:
    for name in names:
        MEASUREMENTS[name].draw(Report.read(output / f"{name}.json"), output / f"{name}.png")
    return 0


def _roomy() -> str | None:
    """Memory, where there is room: a disk's writing back would be measured otherwise. None: the default place."""
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > NEEDED_BYTES:
        return str(SHARED_MEMORY)
    return None


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)
