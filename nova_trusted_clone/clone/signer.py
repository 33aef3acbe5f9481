"""Signing orders: the one key of the authority that has to be on a machine that is online.

Its directory is the authority's, or one with copies of the three files that this needs: ``control.key``,
``control.pem`` and ``hosts.json``. All are read anew for each order, so that renewing the signer or enrolling a host
needs no restart.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nova_trusted_clone.clone.registry import Registry
from nova_trusted_clone.core.protocol.order import Order, SignedOrder, sign_order
from nova_trusted_clone.core.protocol.transcript import VERSION

ORDER_TERM_S = 600
SIGNER = "control"


class AuthorityError(Exception):
    """The authority's directory cannot be made or used; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A key and its certificate, DER."""

    key: ec.EllipticCurvePrivateKey = dataclasses.field(repr=False)
    certificate: bytes


@dataclasses.dataclass(frozen=True)
class CloneTerms:
    """What the control plane decides of a clone; the signer adds AK names, times and the signature.

    :ivar disks: (target, size in bytes) of every disk
    :ivar tenant_nonce: 8 to 64 bytes of the tenant's own
    """

    clone_id: bytes
    freeze_group: bytes
    project_id: str
    user_id: str
    source_server: bytes
    destination_server: bytes
    source_host: str
    destination_host: str
    disks: tuple[tuple[str, int], ...]
    memory_bytes: int
    policy_sha256: bytes
    vtpm_mode: str
    memory_mode: str
    tenant_nonce: bytes


class OrderSigner:
    """Signs orders between hosts of the register."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self.registry = Registry(directory / "hosts.json")

    def sign(self, terms: CloneTerms, lifetime_s: int = ORDER_TERM_S) -> SignedOrder:
        """Return a signed order for ``terms``, with the AK names under which both hosts enrolled.

        :raises RegistryError: when one of them is not
        :raises AuthorityError: when the key cannot be used
        """
        signer, now_s = read_pair(self._directory, SIGNER), int(time.time())
        order = Order(
            version=VERSION,
            source_ak_name=self.registry.get(terms.source_host).ak_name,
            destination_ak_name=self.registry.get(terms.destination_host).ak_name,
            issued_at=now_s,
            expires_at=now_s + lifetime_s,
            **{field.name: getattr(terms, field.name) for field in dataclasses.fields(terms)},
        )
        return sign_order(signer.key, (signer.certificate,), order)

    def certificate(self) -> bytes:
        """Return the signer's certificate, DER, once its key was read too.

        :raises AuthorityError: when either cannot be used, or they do not belong together
        """
        pair = read_pair(self._directory, SIGNER)
        certified = x509.load_der_x509_certificate(pair.certificate).public_key()
        if certified != pair.key.public_key():
            raise AuthorityError(
                f"{self._directory / SIGNER}.pem: it is not the certificate of {SIGNER}.key"
            )
        return pair.certificate


def read_pair(directory: pathlib.Path, name: str) -> Pair:
    """Return a key and its certificate from ``name.key`` and ``name.pem``.

    :raises AuthorityError: naming the file
    """
    key_file = directory / f"{name}.key"
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
    except (OSError, ValueError) as error:
        raise AuthorityError(f"{key_file}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError(f"{key_file}: expected an elliptic-curve key")
    return Pair(key, certificate.public_bytes(serialization.Encoding.DER))
