"""What an EK certificate says of the vTPM besides its key."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from nova_trusted_clone.core.attest.issue import KEPT_BY_HOST
from nova_trusted_clone.tpm import templates
from nova_trusted_clone.vtpm.issuer import EkIssuer
from tests.unit.vtpm.pki import host_ca

UUID = "11111111-2222-3333-4444-555555555555"


def ek_public() -> bytes:
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    return templates.EK_RSA_TEMPLATE[:-256] + modulus.to_bytes(256, "big")


def subject_of(issuer: EkIssuer) -> x509.Name:
    return x509.load_der_x509_certificate(issuer.certify(ek_public(), UUID)[0]).subject


def test_a_vtpm_that_its_guest_cannot_use_says_so():
    authority = host_ca()
    subject = subject_of(EkIssuer(authority.key, authority.certificate, kept_by_host=True))
    (holder,) = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    (name,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert (holder.value, name.value) == (KEPT_BY_HOST, UUID)


def test_a_guests_own_vtpm_says_nothing_of_the_kind():
    assert not subject_of(host_ca().issuer).get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
