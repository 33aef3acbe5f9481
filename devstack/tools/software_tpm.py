#!/usr/bin/env python3
"""A software TPM in the place of a host's hardware TPM: powered on, a boot measured into it, and served until SIGTERM.

What firmware does at a reboot this does at each start: PCRs are empty then, and the same boot is measured again. For
DevStack and tests; it proves nothing about the host.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from nova_trusted_clone.tpm import bootlog
from nova_trusted_clone.tpm.esys import EsysTpm

START_LIMIT_S = 10.0


def command(state: pathlib.Path, socket: pathlib.Path, control: pathlib.Path) -> list[str]:
    """A TPM that listens on two unix sockets and is powered on at once."""
    return [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state},mode=0600"),
        *("--server", f"type=unixio,path={socket},mode=0600"),
        *("--ctrl", f"type=unixio,path={control},mode=0600"),
        *("--flags", "not-need-init,startup-clear"),
    ]


@contextlib.contextmanager
def powered_on(state: pathlib.Path, socket: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """swtpm on ``socket`` (commands) and ``socket``.ctrl, from when it listens to the end of the block."""
    control = socket.with_name(f"{socket.name}.ctrl")
    for path in (socket, control):
        path.unlink(missing_ok=True)
    with subprocess.Popen(command(state, socket, control)) as child:
        try:
            deadline = time.monotonic() + START_LIMIT_S
            while not (socket.exists() and control.exists()):
                if child.poll() is not None or time.monotonic() > deadline:
                    sys.exit("swtpm did not start")
                time.sleep(0.02)
            yield child
        finally:
            child.terminate()


def measure(socket: pathlib.Path, log: pathlib.Path, serial: str) -> None:
    """Measure a boot of the machine ``serial``, and write the log that its firmware would leave."""
    with contextlib.closing(EsysTpm(f"swtpm:{socket}")) as tpm:
        written = bootlog.measure_boot(tpm, bootlog.events(bootlog.Machine(serial=serial)))
    fresh = log.with_name(f"{log.name}.new")
    fresh.write_bytes(written)
    fresh.replace(log)


def main() -> int:
    """Run until SIGTERM, or until swtpm ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=pathlib.Path, required=True, help="from swtpm_setup")
    parser.add_argument("--socket", type=pathlib.Path, required=True, help="where it listens")
    parser.add_argument("--event-log", type=pathlib.Path, required=True, help="is written")
    parser.add_argument("--serial", required=True, help="this machine's, which reaches PCR 1")
    arguments = parser.parse_args()
    # Whatever it is doing then, the block below ends swtpm.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The log is the sign that it is ready.
    arguments.event_log.unlink(missing_ok=True)
    with powered_on(arguments.state, arguments.socket) as child:
        measure(arguments.socket, arguments.event_log, arguments.serial)
        return child.wait()


if __name__ == "__main__":
    sys.exit(main())
