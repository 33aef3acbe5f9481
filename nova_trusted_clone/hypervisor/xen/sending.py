"""A clone's image on its way into libvirt: through a named pipe, so that the memory is written nowhere again."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from nova_trusted_clone.hypervisor.base import HypervisorError, MalformedState, RestoreFailed
from nova_trusted_clone.hypervisor.xen import compose, saveimage
from nova_trusted_clone.hypervisor.xen.records import PAGE
from nova_trusted_clone.hypervisor.xen.state import DomainState, Range


class _Memory:
    """Pages of the verified files."""

    def __init__(self, files: Mapping[Range, pathlib.Path]) -> None:
        self._files = {
            one: os.open(path, os.O_RDONLY | os.O_CLOEXEC) for one, path in files.items()
        }

    def read(self, first: int, count: int) -> bytes:
        """Consecutive pages of one range."""
        for one, descriptor in self._files.items():
            if one.first <= first and first + count <= one.first + one.count:
                return _read_all(descriptor, count * PAGE, (first - one.first) * PAGE)
        raise MalformedState(f"page {first:#x} is in no range")

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)


def _read_all(descriptor: int, count: int, at: int) -> bytes:
    parts = []
    while count:
        part = os.pread(descriptor, count, at)
        if not part:
            raise MalformedState("a memory region is shorter than it says")
        parts.append(part)
        count, at = count - len(part), at + len(part)
    return b"".join(parts)


@contextlib.contextmanager
def sent(
    pipe: pathlib.Path, text: str, state: DomainState, files: Mapping[Range, pathlib.Path]
) -> Iterator[None]:
    """Within the block, send the image into a named pipe, which libvirt reads: the memory is written nowhere again.

    :raises RestoreFailed: why not all was sent
    """
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    # Open for both, so that neither this nor libvirt waits for the other to open it, and nobody hangs when one fails.
    held = os.open(pipe, os.O_RDWR | os.O_CLOEXEC)
    failure: list[Exception] = []
    given_up = threading.Event()

    def send() -> None:
        memory = _Memory(files)
        try:
            with open(pipe, "wb", buffering=0) as file:
                _write_all(file, saveimage.libvirt_header(text))
                for part in compose.stream(state, memory.read):
                    if given_up.is_set():
                        return
                    _write_all(file, part)
        except (OSError, HypervisorError) as error:
            failure.append(error)
        finally:
            memory.close()
            os.close(held)

    sender = threading.Thread(target=send, name="send", daemon=True)
    sender.start()
    try:
        yield
    finally:
        # When libvirt gave up nobody reads: what still waits to be written is let go by reading it away.
        given_up.set()
        _drain(pipe, sender)
        pipe.unlink(missing_ok=True)
    if failure:
        raise RestoreFailed(f"the image was not sent: {failure[0]}")


def _write_all(file: Any, part: bytes) -> None:
    view = memoryview(part)
    while view:
        view = view[file.write(view) :]


def _drain(pipe: pathlib.Path, sender: threading.Thread) -> None:
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        while sender.is_alive():
            if not file.read(1 << 20):
                sender.join(0.01)
