"""Every frame on every interface of a host, as packet(7) shows them; and sockets inside a host for a program outside."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from labkit.host import Host

T = TypeVar("T")
ETH_P_ALL = 3
CLONE_NEWNET = 0x40000000
SNAP_BYTES = 128
# asm-generic/socket.h and linux/if_packet.h; Python's socket module lacks them.
SO_RCVBUFFORCE = 33
SOL_PACKET = 263
PACKET_STATISTICS = 6


def inside(host: Host, make: Callable[[], T]) -> T:
    """Call ``make`` in the network namespace of a host: sockets made there stay there, whoever uses them."""
    made: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with open(f"/proc/{host.sandbox.holder.pid}/ns/net") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(make())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            errors.append(error)

    # The namespace is the thread's own; it ends with it.
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]


class Capture:
    """The frames that were seen since it began, each by its first bytes and its interface's name."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._lock = threading.Lock()
        self._frames: list[tuple[str, bytes]] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                frame, (interface, *_) = self._raw.recvfrom(SNAP_BYTES)
            except TimeoutError:
                continue
            with self._lock:
                self._frames.append((interface, frame))

    def frames(self) -> list[tuple[str, bytes]]:
        """All until now.

        :raises AssertionError: when the kernel dropped one, so that it may not have been seen
        """
        _seen, dropped = struct.unpack("II", self._raw.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        assert not dropped, f"{dropped} frames were not seen"
        with self._lock:
            return list(self._frames)

    def senders(self) -> frozenset[str]:
        """The MAC addresses that sent anything, on whatever interface."""
        return frozenset(frame[6:12].hex(":") for _, frame in self.frames())

    def tcp_ports(self) -> frozenset[int]:
        """Every TCP port (either end, IPv4) that was spoken to or from."""
        found: set[int] = set()
        for _, frame in self.frames():
            if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
                begin = 14 + (frame[14] & 15) * 4
                found |= {int.from_bytes(frame[begin + i : begin + i + 2], "big") for i in (0, 2)}
        return frozenset(found)

    def close(self) -> None:
        """End."""
        self._closed.set()
        self._thread.join()
        self._raw.close()


def _open() -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    # Bursts of a transfer: nothing may be missed.
    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    raw.settimeout(0.2)
    return raw


@contextlib.contextmanager
def capture(host: Host) -> Iterator[Capture]:
    """Watch all interfaces of a host, those too that come later."""
    watching = Capture(inside(host, _open))
    try:
        yield watching
    finally:
        watching.close()
