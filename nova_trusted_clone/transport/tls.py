"""TLS 1.3 between two processes that know each other's exact certificates.

There is no certificate authority here. Each end makes a key and a self-signed certificate that live
as long as its process; the attested transcript carries the hash of both certificates, so that the
channel belongs to the hosts that were proved. The key never touches a disk: Python's ssl reads it
from an anonymous file in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import socket
import ssl
from collections.abc import Collection

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# The certificate is pinned byte by byte, so its dates carry no trust; these never fail on a host
# with a wrong clock. RFC 5280, 4.1.2.5: this end says that there is no date of expiry.
_NOT_BEFORE = datetime.datetime(2020, 1, 1)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59)
MAX_CERTIFICATE_BYTES = 2048


class TransportError(Exception):
    """The root of this layer's errors."""


class PeerRefused(TransportError):
    """The other end is not the one whose certificate was pinned."""


@dataclasses.dataclass(frozen=True)
class ChannelIdentity:
    """A certificate made for one process, and its key. The key is secret."""

    certificate_der: bytes
    key_pem: bytes = dataclasses.field(repr=False)


def make_channel_identity() -> ChannelIdentity:
    """Make a P-256 key and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # The name is unique, so that an end that trusts several tells them apart.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"trusted-clone {serial:x}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return ChannelIdentity(certificate.public_bytes(serialization.Encoding.DER), pem)


def require_certificate(der: bytes) -> None:
    """Require a certificate that can be pinned.

    :raises TransportError: when it is too long or no certificate
    """
    if not 0 < len(der) <= MAX_CERTIFICATE_BYTES:
        raise TransportError(
            f"a channel certificate of {len(der)} bytes; at most {MAX_CERTIFICATE_BYTES} are allowed"
        )
    try:
        x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise TransportError("the channel certificate cannot be read") from error


def _context(identity: ChannelIdentity, protocol: int, peers: Collection[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    certificate = ssl.DER_cert_to_PEM_cert(identity.certificate_der).encode()
    descriptor = os.memfd_create("channel", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, identity.key_pem + certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    for peer in peers:
        add_peer(context, peer)
    return context


def add_peer(context: ssl.SSLContext, certificate_der: bytes) -> None:
    """Let the handshake with this peer come to its end; ``require_peer`` then compares exactly.

    :raises TransportError: when it is no certificate
    """
    require_certificate(certificate_der)
    context.load_verify_locations(cadata=certificate_der)


def server_context(identity: ChannelIdentity, peers: Collection[bytes] = ()) -> ssl.SSLContext:
    """A context for the end that listens; more peers can be added later."""
    context = _context(identity, ssl.PROTOCOL_TLS_SERVER, peers)
    # A resumed session would skip the certificates; every connection shows them.
    context.num_tickets = 0
    return context


def client_context(identity: ChannelIdentity, peer: bytes) -> ssl.SSLContext:
    """A context for the end that connects to exactly one peer."""
    return _context(identity, ssl.PROTOCOL_TLS_CLIENT, (peer,))


def require_peer(channel: ssl.SSLSocket, pinned: Collection[bytes]) -> bytes:
    """Return the peer's certificate, DER, if it is one of the pinned ones.

    :raises PeerRefused: otherwise
    """
    certificate = channel.getpeercert(True)
    if certificate is None or certificate not in pinned:
        raise PeerRefused("the other end showed a certificate that was not pinned")
    if channel.version() != "TLSv1.3":
        raise PeerRefused(f"the other end speaks {channel.version()}, expected TLSv1.3")
    return certificate


def cut(channel: ssl.SSLSocket) -> None:
    """End a channel that another thread reads or writes: that thread gets an error at once.

    The socket's own shutdown(2), as SSLSocket's would take TLS off while the other thread goes on without it.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(channel, socket.SHUT_RDWR)


def open_channel(
    identity: ChannelIdentity, peer: bytes, host: str, port: int, timeout_s: float
) -> ssl.SSLSocket:
    """Connect to a pinned peer.

    :param timeout_s: for each read and write, the handshake's too
    :raises PeerRefused: when another certificate is shown
    :raises OSError: when it cannot be reached; TLS errors are OSErrors too
    """
    raw = socket.create_connection((host, port), timeout=timeout_s)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel = client_context(identity, peer).wrap_socket(raw)
    except BaseException:
        raw.close()
        raise
    try:
        require_peer(channel, (peer,))
    except BaseException:
        channel.close()
        raise
    return channel
