"""Making certificates: roots, AK and vTPM authorities of hosts, EKs of vTPMs, signers of orders.

Pure: the caller brings the keys, the serial numbers (128 random bits) and the times (seconds since
1970). For an operator's authority, for a host that certifies its vTPMs, and for tests.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from nova_trusted_clone.core.attest import certificate, roles, tpm_structs
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.errors import MalformedInput

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


def make_root(
    role: Role,
    name: str,
    key: SigningKey,
    *,
    serial: int,
    not_before: int,
    not_after: int,
    path_length: int = 1,
) -> bytes:
    """Return a self-signed root, DER, that may certify for ``role`` only."""
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), serial, not_before, not_after)
    return _sign(_as_authority(builder, role, path_length), key)


def issue_authority(
    ca_key: SigningKey,
    ca_cert: bytes,
    role: Role,
    name: str,
    public_key: PublicKey,
    *,
    serial: int,
    not_before: int,
    not_after: int,
) -> bytes:
    """Return an intermediate of the same role, DER, below which only end certificates may stand."""
    issuer = certificate.read(ca_cert, "issuing authority").parsed.subject
    builder = _builder(_name(name), issuer, public_key, serial, not_before, not_after)
    return _sign(_as_authority(builder, role, 0), ca_key)


def issue_vtpm_ca(
    root_key: SigningKey,
    root_cert: bytes,
    host_id: str,
    public_key: PublicKey,
    *,
    serial: int,
    not_before: int,
    not_after: int,
) -> bytes:
    """Return a host's authority for its vTPMs, DER; it carries the host's id, so that an EK chains
    to that host."""
    issuer = certificate.read(root_cert, "vTPM root").parsed.subject
    name = _name(roles.require_host_id(host_id), "vTPM authority")
    builder = _builder(name, issuer, public_key, serial, not_before, not_after)
    builder = builder.add_extension(_host_name(host_id), critical=False)
    return _sign(_as_authority(builder, Role.VTPM, 0), root_key)


def issue_ak_certificate(
    ca_key: SigningKey,
    ca_cert: bytes,
    host_id: str,
    ak_public_tpmt: bytes,
    *,
    serial: int,
    not_before: int,
    not_after: int,
) -> bytes:
    """Return the certificate, DER, of a host's AK, for its id and the AK's TPM name.

    :raises MalformedInput: if the AK is not one that can be trusted
    """
    key = tpm_structs.parse_attestation_key(ak_public_tpmt)
    issuer = certificate.read(ca_cert, "attestation authority").parsed.subject
    name = _name(roles.require_host_id(host_id))
    builder = _builder(name, issuer, key.public_key, serial, not_before, not_after)
    name_extension = x509.UnrecognizedExtension(roles.AK_NAME, b"\x04\x22" + key.name)
    builder = builder.add_extension(_host_name(host_id), critical=False)
    builder = builder.add_extension(name_extension, critical=False)
    return _sign(_as_leaf(builder, Role.ATTESTATION, key.public_key), ca_key)


# The organization in the EK certificate of a vTPM whose guest cannot use it.
KEPT_BY_HOST = "kept by the host, not seen by the guest"


def issue_ek_certificate(
    vtpm_ca_key: SigningKey,
    vtpm_ca_cert: bytes,
    ek_public_key: PublicKey,
    name: str,
    *,
    serial: int,
    not_before: int,
    not_after: int,
    kept_by_host: bool = False,
) -> bytes:
    """Return the certificate, DER, of a vTPM's EK; ``name`` is for people.

    :param kept_by_host: the guest itself sees no TPM; the certificate says so (``KEPT_BY_HOST``), and with it all evidence
    """
    issuer = certificate.read(vtpm_ca_cert, "vTPM authority").parsed.subject
    subject = _name(name, KEPT_BY_HOST if kept_by_host else "")
    builder = _builder(subject, issuer, ek_public_key, serial, not_before, not_after)
    return _sign(_as_leaf(builder, Role.VTPM, ek_public_key), vtpm_ca_key)


def issue_control_certificate(
    ca_key: SigningKey,
    ca_cert: bytes,
    name: str,
    public_key: PublicKey,
    *,
    serial: int,
    not_before: int,
    not_after: int,
) -> bytes:
    """Return the certificate, DER, of a signer of orders (an ECDSA key on P-256)."""
    issuer = certificate.read(ca_cert, "control authority").parsed.subject
    builder = _builder(_name(name), issuer, public_key, serial, not_before, not_after)
    return _sign(_as_leaf(builder, Role.CONTROL, public_key), ca_key)


def _name(common_name: str, organization: str = "") -> x509.Name:
    """Return a name; a common name has at most 64 characters (RFC 5280, appendix A)."""
    try:
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        return x509.Name(parts)
    except ValueError as error:
        raise MalformedInput(f"certificate name {common_name[:80]!r}: {error}") from error


def _host_name(host_id: str) -> x509.SubjectAlternativeName:
    uri = roles.HOST_URI + roles.require_host_id(host_id)
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    serial: int,
    not_before: int,
    not_after: int,
) -> x509.CertificateBuilder:
    if not 0 < serial < 1 << 159:  # RFC 5280, 4.1.2.2: positive, at most 20 octets
        raise MalformedInput(
            "certificate serial number: expected a positive one of at most 159 bits"
        )
    utc = datetime.UTC
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(datetime.datetime.fromtimestamp(not_before, utc))
        .not_valid_after(datetime.datetime.fromtimestamp(not_after, utc))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_authority(
    builder: x509.CertificateBuilder, role: Role, path_length: int
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=path_length), critical=True
        )
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([role.authority_usage]), critical=False)
    )


def _as_leaf(
    builder: x509.CertificateBuilder, role: Role, public_key: PublicKey
) -> x509.CertificateBuilder:
    if role is not Role.VTPM:
        usage = _key_usage(digital_signature=True)
    elif isinstance(public_key, rsa.RSAPublicKey):
        usage = _key_usage(key_encipherment=True)
    else:
        usage = _key_usage(key_agreement=True)
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([role.leaf_usage]), critical=False)
    )


def _key_usage(**chosen: bool) -> x509.KeyUsage:
    usages = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(usages | chosen))


def _sign(builder: x509.CertificateBuilder, key: SigningKey) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)
