"""What a process at one end of a transfer does: ``python -m bench.roles ROLE ARGUMENTS``.

``export`` and ``store`` are the product's own exporter and store, each with the part that judges
left out when it is told so: that is possible here alone. ``send`` and ``receive`` copy the same bytes
over plain TLS or TCP.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.unverified import NoVerifier, unsealed
from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import FREEZE_ID_BYTES, Region, RegionTable
from nova_trusted_clone.datapath.exporter import Exporter
from nova_trusted_clone.datapath.sources import FileSource
from nova_trusted_clone.datapath.store import Store
from nova_trusted_clone.datapath.verified import Verifier
from nova_trusted_clone.transport import tls

FREEZE = bytes(range(FREEZE_ID_BYTES))
LOOPBACK = "127.0.0.1"
POLL_S = 0.001
LIMIT_S = 300.0


def say(**answer: Any) -> None:
    """Answer with a line."""
    print(json.dumps(answer), flush=True)


def requests() -> Iterator[dict[str, Any]]:
    """Requests until the other end has no more."""
    for line in sys.stdin:
        yield json.loads(line)


def text(raw: bytes) -> str:
    """Bytes on a line."""
    return base64.b64encode(raw).decode()


def region(size: int) -> Region:
    """The one region that is moved."""
    return Region(1, "ram", "pc.ram", size)


def export(directory: str, file: str, size: int, sealed: bool) -> None:
    """Serve a file as a frozen region; each answer tells the processor time used so far."""
    sealer = None if sealed else unsealed(FREEZE)
    exporter = Exporter(
        FREEZE, Ed25519PrivateKey.generate(), pathlib.Path(directory), sealer=sealer
    )
    source = FileSource(region(size), pathlib.Path(file))
    port = exporter.listen(LOOPBACK)
    say(
        certificate=text(exporter.certificate_der),
        page_key=text(exporter.page_key_public),
        port=port,
    )
    try:
        for request in requests():
            if "admit" in request:
                exporter.admit(base64.b64decode(request["admit"]), "bench")
                exporter.publish([source])
            say(cpu_s=time.process_time())
    finally:
        exporter.close()
        source.close()


def store(directory: str, size: int, verified: bool) -> None:
    """Fetch that region and say how long it took."""
    made = Store(pathlib.Path(directory), make_verifier=Verifier if verified else NoVerifier)
    say(certificate=text(made.certificate_der))
    try:
        for request in requests():
            peer = base64.b64decode(request["certificate"])
            key = base64.b64decode(request["page_key"])
            began, cpu_before_s = time.perf_counter(), time.process_time()
            made.connect(LOOPBACK, request["port"], peer, FREEZE)
            made.fetch(key, FREEZE, RegionTable((region(size),)))
            _await(made)
            say(
                seconds=time.perf_counter() - began,
                cpu_s=time.process_time() - cpu_before_s,
                failed=made.status()["reason"],
            )
    finally:
        made.close()


def _await(made: Store) -> None:
    deadline = time.monotonic() + LIMIT_S
    while made.regions.summary is None and made.regions.failure is None:
        if time.monotonic() > deadline:
            made.abort(f"not complete within {LIMIT_S:.0f} s")
        time.sleep(POLL_S)


Wrap = Callable[[socket.socket], socket.socket]


def send(file: str, size: int, lines: int, secure: bool) -> None:
    """Send a file's bytes over so many connections at once, to whoever connects."""
    identity = tls.make_channel_identity()
    listener = socket.create_server((LOOPBACK, 0), backlog=16)
    say(certificate=text(identity.certificate_der), port=listener.getsockname()[1])
    context = tls.server_context(identity) if secure else None
    for request in requests():
        if context is not None:
            tls.add_peer(context, base64.b64decode(request["admit"]))
        wrap = _server_wrap(context)
        for number in range(lines):
            threading.Thread(
                target=_send_part, args=(listener, wrap, file, size, number, lines), daemon=True
            ).start()
        say()


def _server_wrap(context: ssl.SSLContext | None) -> Wrap:
    return lambda raw: raw if context is None else context.wrap_socket(raw, server_side=True)


def _send_part(
    listener: socket.socket, wrap: Wrap, file: str, size: int, number: int, lines: int
) -> None:
    with contextlib.closing(wrap(listener.accept()[0])) as channel, open(file, "rb") as source:
        for index in range(number, size // SEGMENT_BYTES, lines):
            channel.sendall(os.pread(source.fileno(), SEGMENT_BYTES, index * SEGMENT_BYTES))


def receive(size: int, lines: int, secure: bool) -> None:
    """Take those bytes, throw them away, and say how long it took."""
    identity = tls.make_channel_identity()
    say(certificate=text(identity.certificate_der))
    for request in requests():
        peer = base64.b64decode(request["certificate"])

        def connect(port: int = request["port"], peer: bytes = peer) -> socket.socket:
            if secure:
                return tls.open_channel(identity, peer, LOOPBACK, port, LIMIT_S)
            return socket.create_connection((LOOPBACK, port))

        counts: list[int] = []
        began = time.perf_counter()
        threads = [threading.Thread(target=_take, args=(connect, counts)) for _ in range(lines)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lost = size - sum(counts)
        say(
            seconds=time.perf_counter() - began,
            failed=f"{lost} bytes did not come" if lost else "",
        )


def _take(connect: Callable[[], socket.socket], counts: list[int]) -> None:
    buffer, total = bytearray(SEGMENT_BYTES), 0
    with contextlib.closing(connect()) as channel:
        while count := channel.recv_into(buffer):
            total += count
    counts.append(total)


ROLES: dict[str, Callable[..., None]] = {
    "export": export,
    "store": store,
    "send": send,
    "receive": receive,
}


def main() -> int:
    """Play the role."""
    # As both processes of the product do.
    sys.setswitchinterval(0.0005)
    ROLES[sys.argv[1]](**json.loads(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
