"""From the process that freezes to the one that captures: where the guest's memory lies, and what is needed to take it.

On one connection of a unix socket in the freeze's private directory::

    > length, JSON {"process": ..., "blocks": [...]}; with it three descriptors: userfaultfd, mem, pagemap
    < ready        from now on whoever waits at a protected page is served
    > protect      the guest stands still
    < protected
    > frozen       it runs again

Only the end that captures holds what the memory is protected with. If it ends, at whatever point, nothing is protected.

A connection that ends before ``frozen`` was said ends the capture: the guest has its memory back, whatever became of who
froze it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import socket
import struct
from collections.abc import Sequence
from typing import Any

from nova_trusted_clone.datapath import passing
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock

READY, PROTECT, PROTECTED, FROZEN = b"ready\n", b"protect\n", b"protected\n", b"frozen\n"
MAX_HEADER_BYTES = 1 << 20
MAX_BLOCKS = 1024
MAX_NAME_CHARACTERS = 256
ADDRESS_SPACE = 1 << 64
PAGE = 4096
_LENGTH = struct.Struct(">I")
_DESCRIPTORS = 3
_LIMIT_S = 30.0


@dataclasses.dataclass(frozen=True)
class Handed:
    """What a capture needs.

    :ivar descriptors: userfaultfd, mem and pagemap; the receiver's own
    """

    process: ProcessId
    blocks: tuple[RamBlock, ...]
    descriptors: tuple[int, int, int]


class Handing:
    """The freezing end; use it in a ``with`` block."""

    def __init__(self, path: pathlib.Path) -> None:
        """:raises OSError: nobody listens there"""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_LIMIT_S)
        try:
            self._socket.connect(str(path))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Handing:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def give(
        self, process: ProcessId, blocks: Sequence[RamBlock], descriptors: Sequence[int]
    ) -> None:
        """Hand everything over, and wait until it is ready.

        :raises HypervisorError: it will not capture
        """
        header = {
            "process": dataclasses.asdict(process),
            "blocks": [dataclasses.asdict(block) for block in blocks],
        }
        raw = json.dumps(header).encode()
        try:
            socket.send_fds(self._socket, [_LENGTH.pack(len(raw))], list(descriptors))
            self._socket.sendall(raw)
            answer = passing.read_exactly(self._socket, len(READY))
        except OSError as error:
            raise HypervisorError(f"the exporter does not take the memory: {error}") from error
        if answer != READY:
            raise HypervisorError("the exporter does not take the memory; its log says why")

    def protect(self) -> None:
        """Have all of it protected; the guest stands still.

        :raises HypervisorError: it is not
        """
        try:
            self._socket.sendall(PROTECT)
            answer = passing.read_exactly(self._socket, len(PROTECTED))
        except OSError as error:
            raise HypervisorError(f"the exporter went away in the pause: {error}") from error
        if answer != PROTECTED:
            raise HypervisorError("the exporter does not protect the memory; its log says why")

    def say_frozen(self) -> None:
        """The guest runs again: what is protected is of the frozen instant.

        :raises HypervisorError: the capture has ended meanwhile
        """
        try:
            self._socket.sendall(FROZEN)
        except OSError as error:
            raise HypervisorError(f"the exporter went away in the pause: {error}") from error


def take(connection: socket.socket) -> Handed:
    """The capturing end: what was handed over.

    :raises HypervisorError: it makes no sense; nothing stays open
    """
    connection.settimeout(_LIMIT_S)
    try:
        head, descriptors = passing.receive(connection, _LENGTH.size, _DESCRIPTORS)
    except OSError as error:
        raise HypervisorError(f"hand-over: {error}") from error
    try:
        head += passing.read_exactly(connection, _LENGTH.size - len(head))
        (size,) = _LENGTH.unpack(head)
        if not 0 < size <= MAX_HEADER_BYTES:
            raise HypervisorError(f"hand-over: {size} bytes, allowed are {MAX_HEADER_BYTES}")
        process, blocks = _parsed(passing.read_exactly(connection, size))
        if len(descriptors) != _DESCRIPTORS:
            raise HypervisorError(
                f"hand-over: {len(descriptors)} descriptors, expected {_DESCRIPTORS}"
            )
    except OSError as error:
        _close(descriptors)
        raise HypervisorError(f"hand-over: {error}") from error
    except BaseException:
        _close(descriptors)
        raise
    return Handed(process, blocks, (descriptors[0], descriptors[1], descriptors[2]))


def say_ready(connection: socket.socket) -> None:
    """Whoever writes to a protected page is served from now on."""
    connection.sendall(READY)


def say_protected(connection: socket.socket) -> None:
    """It is."""
    connection.sendall(PROTECTED)


def await_word(connection: socket.socket, word: bytes, limit_s: float) -> bool:
    """Wait for the freezing end's word; whether it came, and not its end."""
    connection.settimeout(limit_s)
    try:
        return passing.read_exactly(connection, len(word)) == word
    except OSError:
        return False


def _parsed(raw: bytes) -> tuple[ProcessId, tuple[RamBlock, ...]]:
    try:
        header = json.loads(raw)
        process = ProcessId(
            **{name: int(header["process"][name]) for name in ("pid", "start_time")}
        )
        blocks = tuple(_block(row) for row in header["blocks"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HypervisorError(f"hand-over: {error!r}") from error
    if not 0 < len(blocks) <= MAX_BLOCKS or len({b.name for b in blocks}) != len(blocks):
        raise HypervisorError("hand-over: no blocks, too many, or two of one name")
    return process, blocks


def _block(row: Any) -> RamBlock:
    name = row["name"]
    numbers = [row[key] for key in ("size_bytes", "maximum_bytes", "address")]
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
        raise ValueError("a block's name")
    if any(type(one) is not int or one <= 0 or one % PAGE for one in numbers):
        raise ValueError(f"block {name}: whole pages expected")
    size, maximum, address = numbers
    if size > maximum or address + maximum > ADDRESS_SPACE:
        raise ValueError(f"block {name}: its size or address")
    return RamBlock(name, size, maximum, address)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
