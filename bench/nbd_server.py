"""QEMU's own NBD server over a file, as a freeze exports a disk."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import time
from collections.abc import Iterator

from bench.report import BenchError

EXPORT = "disk"
START_LIMIT_S = 10.0


@contextlib.contextmanager
def serving(image: pathlib.Path, directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """Serve a raw image on a unix socket while the block runs.

    :raises BenchError: when it does not start
    """
    path = directory / "nbd.sock"
    command = ["qemu-nbd", "--read-only", "--persistent", "--shared=4", "--format=raw"]
    command += [f"--socket={path}", f"--export-name={EXPORT}", str(image)]
    try:
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise BenchError("qemu-nbd is missing; install qemu-utils") from None
    try:
        _await(path, server)
        yield path
    finally:
        server.terminate()
        server.communicate()


def _await(path: pathlib.Path, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not path.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise BenchError(f"qemu-nbd does not serve {path}: {server.communicate()[1].strip()}")
        time.sleep(0.02)
