"""Steps that need each other, each done as soon as what it needs is done."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence

from labkit.errors import LabError

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to do.

    :ivar needs: names of the steps that must be done before
    :ivar title: what a person is told when it is done; empty: nothing
    """

    name: str
    work: Callable[[], None]
    needs: tuple[str, ...] = ()
    title: str = ""


def run(steps: Sequence[Step], report: Report, workers: int) -> None:
    """Do them all, up to ``workers`` at one time. When one fails none is begun, those under way end, and its error is raised.

    :raises LabError: when steps need each other in a circle, or something that is not there
    """
    began = time.monotonic()
    waiting = {step.name: step for step in steps}
    _require_known(waiting)
    done: set[str] = set()
    running: dict[concurrent.futures.Future[None], Step] = {}
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="step") as pool:
        while waiting or running:
            for step in [s for s in waiting.values() if done.issuperset(s.needs)]:
                running[pool.submit(step.work)] = waiting.pop(step.name)
            if not running:
                raise LabError(f"these steps need each other: {', '.join(sorted(waiting))}")
            ended, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ended:
                step = running.pop(future)
                _require_success(future, running)
                done.add(step.name)
                if step.title:
                    report(f"{time.monotonic() - began:5.0f} s  {step.title}")


def _require_known(steps: dict[str, Step]) -> None:
    for step in steps.values():
        unknown = set(step.needs) - set(steps)
        if unknown:
            raise LabError(f"step {step.name} needs {', '.join(sorted(unknown))}, which is no step")


def _require_success(
    future: concurrent.futures.Future[None],
    others: dict[concurrent.futures.Future[None], Step],
) -> None:
    """Raise the step's error after those under way have ended: what is taken down afterwards must not grow again."""
    if future.exception() is None:
        return
    for other in others:
        other.cancel()
    concurrent.futures.wait(others)
    future.result()
