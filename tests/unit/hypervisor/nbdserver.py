"""An NBD server of a few lines, for tests: structured replies, ``base:allocation``, one export."""

from __future__ import annotations

import pathlib
import socket
import struct
import threading


def option_reply(option: int, kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(body)) + body


def chunk(cookie: int, kind: int, body: bytes, done: bool) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, len(body)) + body


class Server:
    """Serves ``content``; ranges of zeros are holes.

    :ivar drops: how many clients are still dropped in mid handshake, as QEMU does with one that is slow
    """

    def __init__(self, path: pathlib.Path, content: bytes, drops: int = 0) -> None:
        self.content = content
        self.drops = drops
        self.commands: list[int] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with connected, connected.makefile("rb") as stream:
            connected.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
            stream.read(4)
            if self.drops:
                self.drops -= 1
                return
            while True:
                _magic, option, size = struct.unpack(">QII", stream.read(16))
                stream.read(size)
                if option == 10:
                    connected.sendall(
                        option_reply(option, 4, struct.pack(">I", 1) + b"base:allocation")
                    )
                if option == 7:
                    info = struct.pack(">HQH", 0, len(self.content), 3)
                    connected.sendall(option_reply(option, 3, info))
                connected.sendall(option_reply(option, 1))
                if option == 7:
                    break
            while len(request := stream.read(28)) == 28:
                _magic, _flags, command, cookie, offset, size = struct.unpack(">IHHQQI", request)
                self.commands.append(command)
                if command == 2:
                    return
                connected.sendall(self._answer(command, cookie, offset, size))

    def _answer(self, command: int, cookie: int, offset: int, size: int) -> bytes:
        data = self.content[offset : offset + size]
        if command == 7:
            state = 0 if any(data) else 3
            return chunk(cookie, 5, struct.pack(">III", 1, size, state), done=True)
        half = size // 2
        first = struct.pack(">Q", offset) + data[:half]
        rest = struct.pack(">Q", offset + half) + data[half:]
        return chunk(cookie, 1, first, done=False) + chunk(cookie, 1, rest, done=True)
