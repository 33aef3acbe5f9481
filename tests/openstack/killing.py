"""Ending a service as a machine that loses its power does."""

from __future__ import annotations

import os
import pathlib
import signal

from labkit import process
from labkit.cloud.service import Service

WORKER_LIMIT_S = 60.0


def workers(service: Service) -> list[int]:
    """The pids of a service's workers, whichever of its threads forked them."""
    master = service.process
    assert master is not None, f"{service.name} does not run"
    found = pathlib.Path(f"/proc/{master.pid}/task").glob("*/children")
    return [int(pid) for children in found for pid in children.read_text().split()]


def kill(service: Service) -> None:
    """End a service and its workers at once, with no word to them."""
    master = service.process
    assert master is not None, f"{service.name} does not run"
    assert process.wait_until(lambda: bool(workers(service)), WORKER_LIMIT_S), "no worker"
    # The master first: it would start another worker.
    for pid in [master.pid, *workers(service)]:
        os.kill(pid, signal.SIGKILL)
    assert process.wait_until(lambda: service.process is None, 10)
