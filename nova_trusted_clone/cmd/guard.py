"""nova-trusted-clone-guard: lets the source run on when those who froze it are gone.

The service starts a guard before the pause and holds the other end of its standard input. If the input ends before the
word that the pause is over, the service is gone: the guard takes the freeze back. After the pause it watches the exporter
until that has taken the memory: if the exporter dies before, the freeze is of no use, and again the guard takes it back. It
outlives the service and holds nothing but a libvirt connection.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys
import time

from nova_trusted_clone.clone.helpers import CONTROL_SOCKET, PAUSE_OVER
from nova_trusted_clone.datapath import processes
from nova_trusted_clone.datapath.control import ControlClient, ControlError
from nova_trusted_clone.hypervisor import drivers

LOG = logging.getLogger(__name__)
POLL_S = 0.2


def memory_is_taken(directory: pathlib.Path) -> bool:
    """Wait until the exporter in ``directory`` has taken the memory; False when it ends before."""
    control = ControlClient(directory / CONTROL_SOCKET)
    while processes.find(directory) is not None:
        try:
            capture = control.call("status").get("capture")
        except (ControlError, OSError) as error:
            LOG.info("the exporter does not answer: %s", error)
            capture = None
        if isinstance(capture, dict) and capture.get("ended"):
            return True
        time.sleep(POLL_S)
    return False


def watch(arguments: argparse.Namespace) -> str:
    """Watch to the end; return why the freeze is to be taken back, empty when it is not."""
    if sys.stdin.buffer.read(len(PAUSE_OVER)) != PAUSE_OVER:
        return "the service ended during the pause"
    if not memory_is_taken(arguments.exporter_directory):
        return "the exporter ended before it had taken the memory"
    return ""


def main() -> int:
    """Run until the memory is taken, or the freeze was taken back."""
    parser = argparse.ArgumentParser(prog="nova-trusted-clone-guard", description=__doc__)
    parser.add_argument(
        "--directory", type=pathlib.Path, required=True, help="the guard's own directory"
    )
    parser.add_argument("--freeze-directory", type=pathlib.Path, required=True)
    parser.add_argument("--exporter-directory", type=pathlib.Path, required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument(
        "--helper",
        help="the command that starts the daemon guest_memory, where this user is not root",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if arguments.helper:
        # Not at the top: what it imports costs a guard that has the right itself half of its start.
        from nova_trusted_clone.privsep import daemons

        daemons.use_helper(arguments.helper)
    (arguments.directory / "ready").touch()
    if reason := watch(arguments):
        LOG.warning("%s: taking back the freeze of server %s", reason, arguments.server)
        # With it goes what the memory is protected with.
        if (exporter := processes.find(arguments.exporter_directory)) is not None:
            exporter.end()
        # Releasing needs nothing of the service's own directory.
        source = drivers.source(arguments.uri, arguments.directory)
        source.release(arguments.server, arguments.freeze_directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
