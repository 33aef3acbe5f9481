"""The process that saves a domain by libxenlight while it runs, and lets it go on; it is spoken to by lines.

::

    saver save DOMAIN DIRECTORY MEMORY_BYTES
        > ready        told whether the domain is saved while it runs; nothing has been done yet
        < save
        > suspended    the domain stands still and all of it is in DIRECTORY
        < resume
        > resumed      told when it stopped and went on
        > saved        DIRECTORY has ``memory`` and ``device-state``
    saver resume DOMAIN
        > resumed      it runs, whether it had been left suspended or not

If the caller goes away (its end of the pipe closes) at whatever point, the domain is resumed. What goes wrong is told as
``failed``, after the domain was resumed. A process of its own, because libxenlight forks and waits for children.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pathlib
import sys
import threading
import time
from io import RawIOBase
from typing import Any

from nova_trusted_clone.hypervisor.base import HypervisorError, MalformedState
from nova_trusted_clone.hypervisor.xen import stream
from nova_trusted_clone.hypervisor.xen.capture import Capture

MEMORY, DEVICE_STATE = "memory", "device-state"
PIPE_BYTES = 1 << 20
# A guest suspends within milliseconds of being asked.
LATE_S = 3.0
RESCUE_POLL_S = 0.05
_F_SETPIPE_SZ = 1031


class SaveFailed(HypervisorError):
    """libxl did not save the domain; it runs."""

    code = "trusted-clone.xen.save.failed"


def library() -> Any:
    """The C part.

    :raises SaveFailed: it was not built: no headers of Xen were there
    """
    try:
        import nova_trusted_clone.hypervisor.xen._xl as _xl
    except ImportError as error:
        raise SaveFailed(
            f"the part that speaks to libxenlight is not there ({error}): install libxen-dev, then this package anew"
        ) from error
    return _xl


class Saving:
    """One domain that is saved: a thread in libxl, and one that reads its stream.

    :ivar stopped_at: when it stopped, by ``time.monotonic``
    """

    def __init__(self, xl: Any, domain: int, capture: Capture, *, live: bool) -> None:
        self._xl = xl
        self._domain = domain
        self._capture = capture
        self._live = live
        self._error: Exception | None = None
        self.stopped_at: float | None = None

    def run(self) -> None:
        """Save it; it stands still afterwards.

        :raises SaveFailed: why not; it may stand still
        """
        read_end, write_end = os.pipe()
        fcntl.fcntl(read_end, _F_SETPIPE_SZ, PIPE_BYTES)
        thread = threading.Thread(target=self._save, args=(write_end,), name="libxl")
        thread.start()
        try:
            # With the reading end closed libxl's writes fail, and it ends: the reason is kept before that.
            with os.fdopen(read_end, "rb", buffering=0) as file:
                self._read(file)
        finally:
            thread.join()
        if self._error is not None:
            raise SaveFailed(f"domain {self._domain}: {self._error}")

    def _read(self, file: RawIOBase) -> None:
        try:
            stream.read(file, self._capture)
        except (MalformedState, OSError) as error:
            self._error = self._error or error

    def _save(self, write_end: int) -> None:
        try:
            self.stopped_at = self._xl.suspend(self._domain, write_end, self._live)
        except OSError as error:
            # Where the reader gave up first, that is the reason, and this its consequence.
            self._error = self._error or error
        finally:
            os.close(write_end)


class Conversation:
    """The caller's lines and ours."""

    def tell(self, event: str, **facts: Any) -> None:
        """Say something; a caller that is gone hears nothing."""
        try:
            sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            pass

    def hear(self, word: str) -> bool:
        """Wait for a word; whether it came, and not the caller's end."""
        return sys.stdin.readline().strip() == word


def save(domain: int, directory: pathlib.Path, memory_bytes: int, talk: Conversation) -> None:
    """Save a domain as the module's docstring says.

    :raises HypervisorError: why it was not saved; it runs
    :raises ProcessLookupError: it is gone
    """
    xl = library()
    xl.open()
    live = bool(xl.logs_dirty(domain))
    capture = Capture(directory / MEMORY)
    talk.tell("ready", live=live)
    if not talk.hear("save"):
        return
    saving = Saving(xl, domain, capture, live=live)
    began = time.monotonic()
    try:
        saving.run()
        saved = time.monotonic()
        talk.tell("suspended")
        talk.hear("resume")
    except SaveFailed as error:
        if gone(xl, domain):
            raise ProcessLookupError(f"domain {domain} ended while it was saved") from error
        raise
    finally:
        resume(xl, domain)
    resumed = time.monotonic()
    # Where nobody saw it stop, the pause is told too long and never too short.
    stopped = saving.stopped_at if saving.stopped_at is not None else began
    talk.tell(
        "resumed",
        pause_s=resumed - stopped,
        copy_s=stopped - began,
        final_s=saved - stopped,
        resume_s=resumed - saved,
    )
    state = capture.state(memory_bytes)
    capture.close()
    write_private(directory / DEVICE_STATE, state.encode())
    ranges = [[one.name, one.first, one.count] for one in state.ranges]
    talk.tell("saved", ranges=ranges, pages=capture.pages_taken)


def resume(xl: Any, domain: int) -> None:
    """Let a domain go on that stands still; harmless when it runs, or is gone."""
    try:
        if xl.is_suspended(domain):
            xl.resume(domain)
    except ProcessLookupError:
        return


def gone(xl: Any, domain: int) -> bool:
    """Whether there is no such domain any more."""
    try:
        xl.is_suspended(domain)
    except ProcessLookupError:
        return True
    return False


def rescue(xl: Any, domain: int) -> None:
    """Let a domain go on whose saver was killed, and have Xen log its writes no longer.

    The saver may have asked it to suspend just before: so it is looked at for a while.

    :raises ProcessLookupError: it is gone
    """
    xl.logs_dirty(domain)
    deadline = time.monotonic() + LATE_S
    while time.monotonic() < deadline:
        if xl.is_suspended(domain):
            xl.resume(domain)
            return
        time.sleep(RESCUE_POLL_S)


def write_private(path: pathlib.Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def main() -> int:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    saving = commands.add_parser("save")
    saving.add_argument("domain", type=int)
    saving.add_argument("directory", type=pathlib.Path)
    saving.add_argument("memory_bytes", type=int)
    commands.add_parser("resume").add_argument("domain", type=int)
    asked = parser.parse_args()
    talk = Conversation()
    try:
        if asked.command == "save":
            save(asked.domain, asked.directory, asked.memory_bytes, talk)
        else:
            rescue(library(), asked.domain)
            talk.tell("resumed")
    except ProcessLookupError as error:
        talk.tell("failed", reason=str(error), gone=True)
        return 1
    except (HypervisorError, OSError) as error:
        talk.tell("failed", reason=str(error), gone=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
