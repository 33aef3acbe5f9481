"""Who stands between two agents: sees, holds, changes, records and answers their messages.

It speaks the agents' own framing on TCP inside the source host, where the source is told that the destination is.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from labkit.agent import PEER_PORT
from labkit.host import Host

from nova_trusted_clone.transport import rpc
from tests.integration.clonelab import CloneLab
from tests.integration.frames import inside

Arguments = dict[str, Any]
# Each is given the message's number, from 0, and what is to be forwarded; what it returns is forwarded instead.
ChangeRequest = Callable[[int, Arguments], Arguments]
ChangeReply = Callable[[int, Arguments], Arguments]
HOLD_LIMIT_S = 120.0


def _as_it_is(_number: int, forwarded: Arguments) -> Arguments:
    return forwarded


class Middleman:
    """Forwards every request to the destination's agent, as long as it is not told otherwise."""

    def __init__(self, source: Host, destination: Host) -> None:
        self._host = source
        self._target = (destination.address, PEER_PORT)
        self.change_request: ChangeRequest = _as_it_is
        self.change_reply: ChangeReply = _as_it_is
        # Answers instead of the destination where it returns something.
        self.answer: Callable[[int, Arguments], Arguments | None] = lambda _number, _request: None
        self.conversation: list[tuple[Arguments, Arguments]] = []
        self._messages = 0
        self._hold_after: int | None = None
        self._waiting = 0
        self._go = threading.Event()
        self._listener = inside(source, lambda: socket.create_server(("127.0.0.1", 0), backlog=64))
        self.address: tuple[str, int] = self._listener.getsockname()
        """Where the source is told that the destination is."""
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_after(self, count: int) -> None:
        """Forward so many messages and hold the next."""
        self._hold_after = count

    def holding(self) -> bool:
        """Whether a message is being held."""
        return self._waiting > 0

    def let_go(self) -> None:
        """Hold nothing more."""
        self._hold_after = None
        self._go.set()

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Ask the destination something of one's own."""
        (address, port) = self._target
        with contextlib.closing(
            inside(self._host, lambda: socket.create_connection((address, port), 30))
        ) as connection:
            rpc._send(connection, {"op": operation, "args": arguments})
            reply = rpc._receive(connection)
        if "error" in reply:
            raise rpc.PublicError(str(reply["error"]), str(reply["code"]))
        return dict(reply["ok"])

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One request, one reply; when the destination does not answer, neither does this."""
        with contextlib.suppress(OSError, rpc.RpcError), contextlib.closing(connection):
            request = rpc._receive(connection)
            try:
                reply: dict[str, Any] = {"ok": self._handle(request["op"], request["args"])}
            except rpc.PublicError as error:
                reply = {"error": str(error), "code": error.code}
            rpc._send(connection, reply)

    def _handle(self, operation: str, arguments: Arguments) -> dict[str, Any]:
        if operation == "message":
            return self._message(arguments)
        return self.call(operation, **arguments)

    def _message(self, arguments: Arguments) -> dict[str, Any]:
        number = self._messages
        self._messages += 1
        if self._hold_after is not None and number >= self._hold_after:
            self._waiting += 1
            self._go.wait(HOLD_LIMIT_S)
            self._waiting -= 1
        reply = self.answer(number, arguments)
        if reply is None:
            reply = self.call("message", **self.change_request(number, arguments))
        self.conversation.append((arguments, reply))
        return self.change_reply(number, reply)

    def close(self) -> None:
        """End."""
        self.let_go()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def between(clones: CloneLab) -> Iterator[Middleman]:
    """A man in the middle for some orders; give ``via=relay.address`` with them."""
    relay = Middleman(clones.source, clones.destination)
    try:
        yield relay
    finally:
        relay.close()
