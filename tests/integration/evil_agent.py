"""The product's agent, whose exporters are the tests' own, and which dies where a test wishes it.

Wishes are a JSON file beside the configuration: ``die`` names a point below; ``exporter`` is the exporter's wish. Without
wishes it is the product's agent.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

from nova_trusted_clone.clone.source import Source
from nova_trusted_clone.cmd import agent
from nova_trusted_clone.hypervisor.qemu import diskfreeze, handover, marker
from nova_trusted_clone.hypervisor.qemu.destination import QemuDestination
from nova_trusted_clone.hypervisor.qemu.source import QemuSource
from tests.integration.evil_exporter import WISHES

EXPORTER = "tests.integration.evil_exporter"


def _dying(point: str, honest: Callable[..., Any]) -> Callable[..., Any]:
    """``honest``, before which the agent dies by SIGKILL if that was wished."""

    @functools.wraps(honest)
    def call(*arguments: Any, **named: Any) -> Any:
        if json.loads(pathlib.Path(os.environ[WISHES]).read_text()).get("die") == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*arguments, **named)

    return call


def main() -> int:
    """Run it."""
    config = pathlib.Path(sys.argv[sys.argv.index("--config-file") + 1])
    os.environ[WISHES] = str(config.with_name("wishes.json"))
    marker.put = _dying("before-the-pause", marker.put)
    # Called when the exporter has everything, and the guest still runs.
    diskfreeze.flush = _dying("handed-over", diskfreeze.flush)
    # Called when the guest stands still.
    diskfreeze.hold = _dying("in-the-pause", diskfreeze.hold)
    handover.Handing.protect = _dying("before-the-protection", handover.Handing.protect)  # type: ignore[method-assign]
    diskfreeze.export = _dying("after-the-pause", diskfreeze.export)
    QemuSource.release = _dying("in-the-release", QemuSource.release)  # type: ignore[method-assign]
    QemuDestination.restore = _dying("before-the-restore", QemuDestination.restore)  # type: ignore[method-assign]
    return agent.main(lambda host: Source(host, EXPORTER))


if __name__ == "__main__":
    sys.exit(main())
