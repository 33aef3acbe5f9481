"""nova-trusted-clone-guard: takes a freeze back if the service dies while the source stands still.

The service starts a guard before the pause and holds the other end of its standard input. When the pause is over it writes
``done``. If the input ends without that word the service is gone: the guard takes everything off the source and lets it run
on. It outlives the service and holds nothing but a libvirt connection.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys

from nova_trusted_clone.hypervisor.qemu.source import QemuSource

LOG = logging.getLogger(__name__)
READY = "ready\n"
DONE = b"done\n"


def main() -> int:
    """Run until the service says that the pause is over, or is gone."""
    parser = argparse.ArgumentParser(prog="nova-trusted-clone-guard", description=__doc__)
    parser.add_argument(
        "--directory", type=pathlib.Path, required=True, help="the guard's own directory"
    )
    parser.add_argument("--freeze-directory", type=pathlib.Path, required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--server", required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    (arguments.directory / "ready").write_text(READY)
    if sys.stdin.buffer.read(len(DONE)) == DONE:
        return 0
    LOG.warning(
        "the service ended while server %s was frozen: taking the freeze back", arguments.server
    )
    QemuSource(arguments.uri).release(arguments.server, arguments.freeze_directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
