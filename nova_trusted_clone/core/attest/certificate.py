"""Reading one X.509 certificate strictly: limits, key kinds, and the few extensions that are
understood."""

from __future__ import annotations

import dataclasses
import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID

from nova_trusted_clone.core.attest import roles
from nova_trusted_clone.core.errors import MalformedInput

MAX_CERTIFICATE_BYTES = 4096

# What is looked at below. A critical extension outside of these has a meaning that we would ignore:
# refused (RFC 5280, 4.2). EK certificates carry a critical alternative name with the TPM's maker,
# model and version.
UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)

# What cryptography raises on input that it does not like; its parsers raise at different moments,
# some only on access.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A certificate, read completely, so that nothing about it can fail later.

    :ivar not_before: seconds since 1970, as is ``not_after``
    :ivar usages: the extended key usages; empty when there is no such extension
    :ivar path_length: how many authorities may stand below it; None is no limit
    :ivar signs: keyUsage's digitalSignature; ``encrypts``: keyEncipherment or keyAgreement. True
        without the extension
    :ivar certifies: keyUsage's keyCertSign. An authority says so here and in basicConstraints, or
        it is none
    :ivar uris: URIs of the subject's alternative name
    :ivar unknown_critical: critical extensions that nobody here understands
    :ivar signature_is_strong: whether its issuer signed it over SHA-2 or by Ed25519
    """

    parsed: x509.Certificate
    der: bytes
    subject: str
    issuer: str
    not_before: int
    not_after: int
    public_key: object
    usages: frozenset[x509.ObjectIdentifier]
    is_authority: bool
    path_length: int | None
    certifies: bool
    signs: bool
    encrypts: bool
    uris: tuple[str, ...]
    ak_name: bytes | None
    unknown_critical: tuple[str, ...]
    signature_is_strong: bool

    @property
    def key_is_strong(self) -> bool:
        """Whether its key is P-256, Ed25519 or RSA of 2048 bits or more."""
        key = self.public_key
        if isinstance(key, ec.EllipticCurvePublicKey):
            return isinstance(key.curve, ec.SECP256R1)
        if isinstance(key, rsa.RSAPublicKey):
            return 2048 <= key.key_size <= 4096
        return isinstance(key, ed25519.Ed25519PublicKey)

    def valid_at(self, now: int) -> bool:
        """Whether ``now``, seconds since 1970, is within its validity."""
        return self.not_before <= now <= self.not_after

    def issued(self, child: Certificate) -> bool:
        """Whether ``child`` names this as its issuer and is signed by its key."""
        try:
            child.parsed.verify_directly_issued_by(self.parsed)
        except (InvalidSignature, *UNREADABLE):
            return False
        return True


def seconds(moment: datetime.datetime) -> int:
    """Return ``moment`` in seconds since 1970."""
    return int(moment.timestamp())


def read(der: bytes, what: str) -> Certificate:
    """Return the certificate in ``der``.

    :raises MalformedInput: naming ``what`` if it is too long, not one DER certificate, or has an
        extension that cannot be read
    """
    if not isinstance(der, bytes) or not 0 < len(der) <= MAX_CERTIFICATE_BYTES:
        found = f"{len(der)} bytes" if isinstance(der, bytes) else type(der).__name__
        raise MalformedInput(
            f"{what}: found {found}, expected 1–{MAX_CERTIFICATE_BYTES} bytes of DER"
        )
    try:
        parsed = x509.load_der_x509_certificate(der)
        certificate = _read_all(parsed, der)
    except UNREADABLE as error:
        raise MalformedInput(
            f"{what}: not a readable certificate ({type(error).__name__}: {str(error)[:200]})",
            code="trusted-clone.certificate.malformed",
        ) from error
    if parsed.public_bytes(serialization.Encoding.DER) != der:
        raise MalformedInput(f"{what}: bytes follow the certificate, expected none")
    return certificate


def _read_all(parsed: x509.Certificate, der: bytes) -> Certificate:
    if parsed.serial_number <= 0:
        raise ValueError("its serial number is not positive")
    if not der.endswith(b"\0" + parsed.signature):
        # Outside of what is signed; the library takes any count of unused bits there.
        raise ValueError("its signature is not in DER: it has unused bits")
    extensions = parsed.extensions
    found = {extension.oid: extension.value for extension in extensions}
    basic = found.get(ExtensionOID.BASIC_CONSTRAINTS)
    usage = found.get(ExtensionOID.KEY_USAGE)
    extended = found.get(ExtensionOID.EXTENDED_KEY_USAGE)
    alternative = found.get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    is_authority = isinstance(basic, x509.BasicConstraints) and basic.ca
    key_usage = usage if isinstance(usage, x509.KeyUsage) else None
    return Certificate(
        parsed=parsed,
        der=der,
        subject=parsed.subject.rfc4514_string()[:200],
        issuer=parsed.issuer.rfc4514_string()[:200],
        not_before=seconds(parsed.not_valid_before_utc),
        not_after=seconds(parsed.not_valid_after_utc),
        public_key=parsed.public_key(),
        usages=frozenset(extended) if isinstance(extended, x509.ExtendedKeyUsage) else frozenset(),
        is_authority=is_authority,
        path_length=basic.path_length if isinstance(basic, x509.BasicConstraints) else None,
        certifies=key_usage is not None and key_usage.key_cert_sign,
        signs=key_usage is None or key_usage.digital_signature,
        encrypts=key_usage is None or key_usage.key_encipherment or key_usage.key_agreement,
        uris=_uris(alternative),
        ak_name=_ak_name(found.get(roles.AK_NAME)),
        unknown_critical=tuple(
            extension.oid.dotted_string
            for extension in extensions
            if extension.critical and extension.oid not in UNDERSTOOD
        ),
        signature_is_strong=_signature_is_strong(parsed),
    )


def _signature_is_strong(parsed: x509.Certificate) -> bool:
    """Whether it is signed over SHA-2, or by Ed25519, which brings its own hash."""
    if parsed.signature_algorithm_oid == x509.SignatureAlgorithmOID.ED25519:
        return True
    return isinstance(
        parsed.signature_hash_algorithm, (hashes.SHA256, hashes.SHA384, hashes.SHA512)
    )


def _uris(alternative: object) -> tuple[str, ...]:
    if not isinstance(alternative, x509.SubjectAlternativeName):
        return ()
    return tuple(alternative.get_values_for_type(x509.UniformResourceIdentifier))


def _ak_name(extension: object) -> bytes | None:
    if not isinstance(extension, x509.UnrecognizedExtension):
        return None
    header, name = extension.value[:2], extension.value[2:]
    if header != b"\x04\x22" or len(name) != 34:
        raise ValueError("the AK name extension is not an OCTET STRING of 34 bytes")
    return name
