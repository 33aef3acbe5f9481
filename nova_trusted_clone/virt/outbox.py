"""What must be heard in the end, however long the broker, the database or this service are away: one file for each message.

A message is removed when its handler has returned. A handler raises ``Later`` when the other side does not answer; then the
message, and those after it, are tried again. Handlers must bear to be called twice with one message.
"""

from __future__ import annotations

import logging
import pathlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nova_trusted_clone.clone import records

LOG = logging.getLogger(__name__)
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

Message = Mapping[str, Any]
Handler = Callable[[Message], None]


class Later(Exception):
    """The other side does not answer now."""


class Outbox:
    """Messages in a directory that is private to the service, oldest first.

    :param deliver: called in a thread of the outbox, one message at a time
    """

    def __init__(self, directory: pathlib.Path, deliver: Handler) -> None:
        self._directory = directory
        self._deliver = deliver
        self._wake = threading.Event()
        self._closing = threading.Event()

    def start(self) -> None:
        """Deliver from now on, beginning with what a former service left."""
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def put(self, name: str, message: Message) -> None:
        """Deliver a message, now or later. One name is one message: the first one stays until it was delivered.

        :param name: hexadecimal digits and dashes; becomes part of a file's name
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self._directory.glob(f"*.{name}.json")):
            records.write(self._directory / f"{time.time_ns():020d}.{name}.json", message)
        self._wake.set()

    def close(self) -> None:
        """Deliver no more; what is left waits for the next service."""
        self._closing.set()
        self._wake.set()

    # -- within -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closing.is_set():
            self._wake.clear()
            try:
                self._deliver_all()
            except Later as error:
                LOG.warning("%s; again in %.0f s", error, pause_s)
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            self._wake.wait()

    def _deliver_all(self) -> None:
        for path in sorted(self._directory.glob("*.json")):
            if self._closing.is_set():
                return
            try:
                self._deliver(records.read(path))
            except Later:
                raise
            except Exception:
                # It would stand in the way of the others for ever.
                LOG.exception("message %s cannot be delivered and is dropped", path.name)
            path.unlink(missing_ok=True)
