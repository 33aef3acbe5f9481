"""A process with memory of its own that can be protected, as a guest's QEMU has: it writes where it is told to.

It maps ``PAGES`` pages, sends a userfaultfd, its memory, its pagemap and the address on a socket, and then writes
a byte to each page that it is told on its standard input, and says so.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

from nova_trusted_clone.hypervisor.qemu.process import ProcessId

PAGE = 4096
PAGES = 3072
# Of each page that is not zero the first bytes are its number.
STEP = 3

_PROGRAM = """
import ctypes, json, mmap, os, socket, sys
PAGE, PAGES, STEP = 4096, 3072, 3
memory = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
for page in range(PAGES):
    if page % STEP:
        memory[page * PAGE : page * PAGE + 4] = page.to_bytes(4, "little")
    else:
        memory[page * PAGE]
# userfaultfd(2), for user mode only: anybody may.
protection = ctypes.CDLL(None).syscall(323, 1)
files = [os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("mem", "pagemap")]
with socket.socket(fileno=int(sys.argv[1])) as link:
    socket.send_fds(link, [json.dumps(address).encode()], [protection, *files])
for descriptor in (protection, *files):
    os.close(descriptor)
for line in sys.stdin:
    memory[int(line) * PAGE] = 0xEE
    print("written", flush=True)
"""


@dataclasses.dataclass
class Guestlike:
    """The running program.

    :ivar descriptors: userfaultfd, mem and pagemap; this object's own
    """

    running: subprocess.Popen[str]
    address: int
    descriptors: tuple[int, ...]

    @property
    def process(self) -> ProcessId:
        return ProcessId.of(self.running.pid)

    def begin_write(self, page: int) -> None:
        """Have it write to a page; it may have to wait there."""
        assert self.running.stdin is not None
        self.running.stdin.write(f"{page}\n")
        self.running.stdin.flush()

    def await_written(self) -> None:
        """Until it has written."""
        assert self.running.stdout is not None
        assert self.running.stdout.readline() == "written\n"

    def now(self, page: int) -> bytes:
        """The first bytes of a page as they are now."""
        with pathlib.Path(f"/proc/{self.running.pid}/mem").open("rb", buffering=0) as file:
            file.seek(self.address + page * PAGE)
            return file.read(4)


def expected(page: int) -> bytes:
    """The first bytes of a page that nobody has written to."""
    return page.to_bytes(4, "little") if page % STEP else bytes(4)


@contextlib.contextmanager
def started() -> Iterator[Guestlike]:
    """One, for a block of code."""
    ours, theirs = socket.socketpair()
    with ours:
        running = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        try:
            room = socket.CMSG_SPACE(3 * array.array("i").itemsize)
            raw, ancillary, _flags, _address = ours.recvmsg(100, room, socket.MSG_CMSG_CLOEXEC)
            found = array.array("i")
            found.frombytes(ancillary[0][2])
            yield Guestlike(running, int(json.loads(raw)), tuple(found))
        finally:
            running.kill()
            running.wait()
            for pipe in (running.stdin, running.stdout):
                if pipe is not None:
                    pipe.close()


def close_all(guest: Guestlike) -> None:
    """What was handed on is the receiver's; these are copies."""
    for descriptor in guest.descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
