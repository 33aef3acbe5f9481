"""The fake factory keeps the promises of ``ports.VtpmFactory``."""

import hashlib
import time

import pytest

from nova_trusted_clone.core.attest import certchain, quote, tpm_structs
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.ports import Passphrase, VtpmBlobs
from nova_trusted_clone.tpm.fake import SoftwareTpm, shared_keys
from nova_trusted_clone.vtpm.base import VtpmGoneError, VtpmReadOnlyError, VtpmStateError
from nova_trusted_clone.vtpm.fake import FakeVtpmFactory, blobs_of
from tests.unit.vtpm.pki import host_ca

LOG = [(1, b"a" * 32), (7, b"b" * 32)]


@pytest.fixture
def factory():
    numbers = iter(range(100))
    return FakeVtpmFactory(host_ca().issuer, lambda: shared_keys(f"vtpm {next(numbers)}"))


def test_a_new_one_inherits_and_is_certified_by_its_host(factory):
    made = factory.new("clone", LOG)
    assert made.tpm.read_pcrs([7])[7] == hashlib.sha256(bytes(32) + b"b" * 32).digest()
    leaf, *rest = made.ek_chain
    anchors = host_ca().anchors
    certchain.verify_chain(leaf, rest, anchors, Role.VTPM, int(time.time())).require()


def test_its_quotes_hold(factory):
    made = factory.new("clone", LOG)
    data = b"d" * 32
    signed = made.tpm.quote(data, range(1, 8))
    verdict, _ = quote.verify_quote(
        tpm_structs.parse_attestation_key(made.tpm.ak_public()),
        signed.attest,
        signed.signature,
        qualifying_data=data,
        pcrs=made.tpm.read_pcrs(range(1, 8)),
    )
    verdict.require()


def test_a_derived_one_keeps_pcrs_and_changes_keys(factory):
    source = factory.new("source", LOG)
    ak, pcrs = source.tpm.ak_public(), source.tpm.read_pcrs(range(8))
    clone = factory.derive("clone", source.hand_over())
    assert clone.tpm.ak_public() != ak
    assert clone.tpm.read_pcrs(range(8)) == pcrs


def test_a_shadow_is_the_source_and_changes_nothing(factory):
    guest = SoftwareTpm(shared_keys("guest"))
    guest.extend(2, b"x" * 32)
    shadow = factory.shadow(blobs_of(guest, ()))
    assert shadow.tpm.ak_public() == guest.ak_public()
    assert shadow.tpm.read_pcrs([2]) == guest.read_pcrs([2])
    with pytest.raises(VtpmReadOnlyError):
        shadow.tpm.extend(2, b"y" * 32)
    with pytest.raises(VtpmGoneError):
        shadow.hand_over()


def test_what_is_handed_over_or_discarded_is_gone(factory):
    made = factory.new("clone", [])
    made.hand_over()
    with pytest.raises(VtpmGoneError):
        made.hand_over()
    made.discard()
    made.discard()
    with pytest.raises(VtpmGoneError):
        _ = made.tpm


def test_blobs_of_nobody(factory):
    with pytest.raises(VtpmStateError):
        factory.shadow(VtpmBlobs(b"?", b"?"))


def test_encrypted_state_is_read_by_its_passphrase_alone(factory):
    passphrase = Passphrase(b"of the source")
    blobs = factory.new("server", LOG, passphrase).hand_over()
    for other in (None, Passphrase(b"of another")):
        with pytest.raises(VtpmStateError, match="another passphrase"):
            factory.shadow(blobs, other)
    assert factory.shadow(blobs, passphrase).tpm.read_pcrs([1])
    with pytest.raises(VtpmStateError):
        factory.derive("clone", blobs)
    derived = factory.derive("clone", factory.decrypt(blobs, passphrase), Passphrase(b"own"))
    assert factory.shadow(derived.hand_over(), Passphrase(b"own")).tpm.read_pcrs([1])


def test_a_passphrase_is_never_printed():
    assert "source" not in repr(Passphrase(b"of the source"))
