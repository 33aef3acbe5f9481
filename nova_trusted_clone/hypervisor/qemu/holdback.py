"""Hold QEMU's snapshot thread back until the guest stands still, so that its preparations cost nothing in the pause.

The thread reads every page of the memory once (for page-table entries to protect), writes the stream's first bytes and only
then stops the guest and takes QEMU's lock (QEMU 7.2, ``bg_migration_thread``). Started within the pause the reading
falls into it: 8 ms a GiB. So the snapshot is started while the guest runs, on a connection whose buffer is full: the thread
waits in its first write, holding no lock, and any other command works. Filling and word travel so::

    agent -> drain     one byte with the reading end of a pipe (SCM_RIGHTS)
    agent -> drain     zeros, as many as the connection takes; it is then given to QEMU
    QEMU  -> drain     waits
    agent -> drain     through the pipe, when the guest stands still: how many zeros there are, u64 big-endian
    agent -> drain     the pipe's end, when the guest runs again
    drain              reads on: over the zeros, then QEMU's stream

What QEMU writes before the guest runs fits into the buffer, which is of the usual size again by then. A drain that read it
at once would take the processor from QEMU just when the guest waits for it: 3 to 5 ms of the pause on two cores.

If the pipe ends without a word the agent is gone. The drain then neither reads nor hangs up, for both would let the thread
protect the memory with nobody behind: it stays until the snapshot is cancelled, and the guest runs on meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from nova_trusted_clone.hypervisor.base import FreezeFailed, HypervisorError
from nova_trusted_clone.hypervisor.qemu import rescue
from nova_trusted_clone.hypervisor.qemu.process import ProcessId

LOG = logging.getLogger(__name__)
_WORD = struct.Struct(">Q")
# The kernel makes the least possible of it, some KiB.
_LEAST_BUFFER_BYTES = 1
_FILLING = bytes(1024)
# The guest runs within milliseconds of the word, and the pipe ends with it. If not, QEMU may be what waits: its main thread
# for a page that its snapshot thread cannot send, as the connection is full.
_RUNS_WITHIN_MS = 50
# Far more than the least buffer takes.
_MOST_FILLING = 1 << 20
_THREAD = "bg_snapshot"
# A thread's first act is to take its name; a QEMU without ``debug-threads`` has none.
_NAMED_WITHIN_S = 0.1
_LOOK_EVERY_S = 0.001
# A look at a big guest's mappings costs milliseconds, and most freezes are over before the first one. A guest whose snapshot
# was not held back stands still as long.
_LOOK_FOR_PROTECTION_MS = 1000


class HeldConnection:
    """The agent's side of a drain's connection; QEMU gets ``descriptor``.

    :raises OSError: nobody listens there
    """

    def __init__(self, drain_socket: pathlib.Path) -> None:
        with contextlib.ExitStack() as undo:
            self._socket = undo.enter_context(socket.socket(socket.AF_UNIX))
            self._socket.connect(str(drain_socket))
            reading, self._pipe = os.pipe()
            self._told = undo.enter_context(contextlib.ExitStack())
            self._told.callback(os.close, self._pipe)
            try:
                socket.send_fds(self._socket, [b"\0"], [reading])
            finally:
                os.close(reading)
            # The kernel answers twice what was set.
            self._buffer_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LEAST_BUFFER_BYTES)
            self._filled_bytes = self._fill()
            # Guards ``_gone``: nobody lifts the protection of a snapshot that has been let go.
            self._going = threading.Lock()
            self._gone = False
            self._undo = undo.pop_all()

    def _fill(self) -> int:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += self._socket.send(_FILLING, socket.MSG_DONTWAIT)
        return sent

    @property
    def descriptor(self) -> int:
        """The connection's end for QEMU, which gets a copy of it."""
        return self._socket.fileno()

    def let_go(self) -> None:
        """Say how much there is to read, and give the connection its usual buffer back, which wakes who waits.

        :raises OSError: the drain is gone
        """
        with self._going:
            self._gone = True
        os.write(self._pipe, _WORD.pack(self._filled_bytes))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_bytes)

    def let_read(self) -> None:
        """The guest runs: tell the drain so; repeatable."""
        self._told.close()

    @contextlib.contextmanager
    def answered(self, process: ProcessId) -> Iterator[None]:
        """Keep QEMU answering within the block, also when the snapshot begins too early.

        It does when the drain ends, and fails at once; and when it was not held back at all, with nobody to read it. Either
        way the memory is protected, the guest's next write waits, and sooner or later so does QEMU's monitor.

        :raises FreezeFailed: at the end, that has happened
        """
        watch = _Watch(self._socket, lambda: self._lifted(process), process)
        watch.start()
        try:
            yield
        finally:
            watch.end()
        if watch.cut:
            raise FreezeFailed(watch.cut)

    def _lifted(self, process: ProcessId) -> bool:
        """Whether there was protection before its time, which is lifted."""
        with self._going:
            return not self._gone and rescue.lift_protection(process) > 0

    def close(self) -> None:
        """Let it go; QEMU's copy stays."""
        self._undo.close()

    def __enter__(self) -> HeldConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Watch(threading.Thread):
    """Lifts QEMU's write protection as soon as the other end of a connection is gone, or the memory was protected too early.

    ``cut`` then says which.
    """

    def __init__(
        self, connection: socket.socket, lifted: Callable[[], bool], process: ProcessId
    ) -> None:
        super().__init__(name="holdback", daemon=True)
        self._connection = connection
        self._lifted = lifted
        self._process = process
        self._ended = threading.Event()
        self._wake, self._waking = os.pipe()
        self.cut = ""

    def run(self) -> None:
        try:
            self.cut = self._watch()
            if self.cut:
                LOG.warning("process %d: %s", self._process.pid, self.cut)
                with rescue.kept_lifted(self._process):
                    self._ended.wait()
        except HypervisorError as error:
            LOG.warning("%s", error)

    def _watch(self) -> str:
        watched = select.poll()
        watched.register(self._wake, select.POLLIN)
        # No event asked for: the end of a connection is always told.
        watched.register(self._connection, 0)
        while not (found := dict(watched.poll(_LOOK_FOR_PROTECTION_MS))):
            if self._too_early():
                return "the snapshot began before the server stood still"
        ended = self._connection.fileno() in found
        return "the drain ended before the server was frozen" if ended else ""

    def _too_early(self) -> bool:
        try:
            return self._lifted()
        except HypervisorError as error:
            LOG.warning("%s: lifting it again", error)
            return True

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        os.write(self._waking, b"\0")
        self.join()
        os.close(self._wake)
        os.close(self._waking)


@dataclasses.dataclass(frozen=True)
class Arrival:
    """QEMU's thread, asleep in its first write.

    :ivar slept: how often it had gone to sleep by then
    """

    task: pathlib.Path
    slept: str

    def unmoved(self) -> bool:
        """Whether it has not done a thing since: it would have had to go to sleep once more. Costs no word with QEMU."""
        return _slept(self.task) == self.slept


def await_arrival(process: ProcessId, limit_s: float) -> Arrival | None:
    """Wait until QEMU's thread waits in its first write; None when that cannot be told, or did not come about in time.

    A thread that slept through two looks is there. A wrong answer costs time in the pause and nothing else.
    """
    began, before = time.monotonic(), None
    while (elapsed := time.monotonic() - began) < limit_s:
        task = _task(process.pid)
        if task is None and (before is not None or elapsed > _NAMED_WITHIN_S):
            return None
        now = _slept(task) if task else None
        if task is not None and now is not None and now == before:
            return Arrival(task, now)
        before = now
        time.sleep(_LOOK_EVERY_S)
    return None


def _task(pid: int) -> pathlib.Path | None:
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if (task / "comm").read_text() == f"{_THREAD}\n":
                    return task
    except OSError:
        LOG.info("process %d is gone", pid)
    return None


def _slept(task: pathlib.Path) -> str | None:
    """How often a thread went to sleep, if it sleeps (proc(5), status)."""
    try:
        fields = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
    except OSError:
        return None
    return fields["voluntary_ctxt_switches"] if fields["State"].startswith("S") else None


# -- the drain's side ---------------------------------------------------------------------------------------------------


def await_word(connection: socket.socket) -> int:
    """Wait until the guest stood still and runs again, and say how many bytes come before QEMU's stream.

    :raises HypervisorError: it will not be; nothing of the connection is to be read
    """
    _byte, descriptors, _flags, _address = socket.recv_fds(
        connection, 1, 1, socket.MSG_CMSG_CLOEXEC
    )
    if len(descriptors) != 1:
        raise HypervisorError("the drain's connection did not begin with a pipe")
    (pipe,) = descriptors
    try:
        return _read_word(pipe, connection)
    finally:
        os.close(pipe)


def _read_word(pipe: int, connection: socket.socket) -> int:
    watched = select.poll()
    watched.register(pipe, select.POLLIN)
    watched.register(connection, 0)
    happened = dict(watched.poll())
    # The word counts also when the stream has ended already.
    word = os.read(pipe, _WORD.size) if pipe in happened else b""
    if len(word) != _WORD.size:
        raise HypervisorError(
            "the snapshot was cancelled before the server stood still"
            if connection.fileno() in happened
            else "the service ended before the server stood still"
        )
    (filled,) = _WORD.unpack(word)
    if filled > _MOST_FILLING:
        raise HypervisorError(f"{filled} bytes of filling, at most {_MOST_FILLING} are possible")
    # No event asked for: the pipe's end is always told. An agent that is gone ends it as well.
    watched.modify(pipe, 0)
    watched.poll(_RUNS_WITHIN_MS)
    return int(filled)


def await_end(connection: socket.socket) -> None:
    """Wait until the other side has ended a connection, or this side has shut it down."""
    watched = select.poll()
    watched.register(connection, 0)
    watched.poll()
