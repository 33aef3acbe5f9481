"""Roots are good for one role; a chain breaks by name."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nova_trusted_clone.core.attest import certchain, issue, roles
from nova_trusted_clone.core.attest.certchain import (
    TrustAnchors,
    ak_certificate_identity,
    verify_chain,
)
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput
from tests.unit.core.software_tpm import key_from
from tests.unit.core.world import NOW, TIMES, Authorities, Machine, pem, serial


@pytest.fixture(scope="module")
def cloud() -> Authorities:
    return Authorities()


@pytest.fixture(scope="module")
def host(cloud: Authorities) -> Machine:
    return Machine("compute-1", cloud)


def codes(verdict: Verdict) -> set[str]:
    return {check.code.removeprefix("trusted-clone.certificate.") for check in verdict.failures}


def test_an_ak_certificate_chains_and_names_host_and_key(cloud: Authorities, host: Machine) -> None:
    assert verify_chain(host.ak_cert, [], cloud.anchors, Role.ATTESTATION, NOW).ok
    assert ak_certificate_identity(host.ak_cert) == ("compute-1", host.tpm.ak_name)


def test_a_vtpm_chains_over_its_hosts_authority(cloud: Authorities, host: Machine) -> None:
    chain = host.vtpm("one").ek_chain
    assert verify_chain(chain[0], chain[1:], cloud.anchors, Role.VTPM, NOW).ok
    assert certchain.host_of(chain[1]) == "compute-1"


def test_an_order_signer_chains(cloud: Authorities) -> None:
    assert verify_chain(cloud.signer_cert, [], cloud.anchors, Role.CONTROL, NOW).ok


@pytest.mark.parametrize("role", [Role.VTPM, Role.CONTROL, Role.HOST_EK])
def test_an_ak_certificate_is_good_for_no_other_role(
    cloud: Authorities, host: Machine, role: Role
) -> None:
    assert "anchor" in codes(verify_chain(host.ak_cert, [], cloud.anchors, role, NOW))


def test_a_tenants_vtpm_does_not_enrol_as_a_host(cloud: Authorities, host: Machine) -> None:
    """EKs of vTPMs and of hosts have the same usage; only the roots tell them apart."""
    chain = host.vtpm("tenant").ek_chain
    assert codes(verify_chain(chain[0], chain[1:], cloud.anchors, Role.HOST_EK, NOW)) == {"anchor"}


def test_roots_put_under_the_wrong_role_are_refused(cloud: Authorities, host: Machine) -> None:
    wrong = TrustAnchors(attestation=cloud.anchors.vtpm, vtpm=cloud.anchors.attestation)
    chain = host.vtpm("one").ek_chain
    assert "role" in codes(verify_chain(chain[0], chain[1:], wrong, Role.ATTESTATION, NOW))


def test_a_root_of_the_same_name_with_another_key_is_no_root(host: Machine) -> None:
    impostor = Authorities("test")
    impostor.roots[Role.ATTESTATION] = issue.make_root(
        Role.ATTESTATION, "test attestation root", key_from("mallory"), serial=serial("m"), **TIMES
    )
    anchors = TrustAnchors(attestation=(impostor.roots[Role.ATTESTATION],))
    assert codes(verify_chain(host.ak_cert, [], anchors, Role.ATTESTATION, NOW)) == {"anchor"}


@pytest.mark.parametrize("moment", [TIMES["not_before"] - 1, TIMES["not_after"] + 1])
def test_out_of_its_time_every_certificate_fails(
    cloud: Authorities, host: Machine, moment: int
) -> None:
    verdict = verify_chain(host.ak_cert, [], cloud.anchors, Role.ATTESTATION, moment)
    assert [check.code for check in verdict.failures] == ["trusted-clone.certificate.expired"] * 2


def test_without_the_intermediate_there_is_no_chain(cloud: Authorities, host: Machine) -> None:
    leaf = host.vtpm("one").ek_chain[0]
    assert codes(verify_chain(leaf, [], cloud.anchors, Role.VTPM, NOW)) == {"anchor"}


def test_another_hosts_authority_did_not_issue_it(cloud: Authorities, host: Machine) -> None:
    other = Machine("compute-2", cloud)
    leaf = host.vtpm("one").ek_chain[0]
    verdict = verify_chain(leaf, [other.vtpm_ca], cloud.anchors, Role.VTPM, NOW)
    assert codes(verdict) == {"issuer"}


def test_a_leaf_issues_nothing(cloud: Authorities, host: Machine) -> None:
    forged = issue.issue_ak_certificate(
        key_from("ak compute-1"), host.ak_cert, "victim", host.tpm.ak_public, serial=5, **TIMES
    )
    verdict = verify_chain(forged, [host.ak_cert], cloud.anchors, Role.ATTESTATION, NOW)
    assert {"authority", "role"} <= codes(verdict)


def test_a_hosts_authority_makes_no_authority(cloud: Authorities, host: Machine) -> None:
    """Its path length is 0: it cannot make an authority in another host's name."""
    below = key_from("below")
    forged = issue.issue_vtpm_ca(
        host.vtpm_key, host.vtpm_ca, "victim", below.public_key(), serial=5, **TIMES
    )
    ek = issue.issue_ek_certificate(
        below, forged, key_from("ek").public_key(), "ek", serial=6, **TIMES
    )
    verdict = verify_chain(ek, [forged, host.vtpm_ca], cloud.anchors, Role.VTPM, NOW)
    assert codes(verdict) == {"path-length"}


def test_an_intermediate_of_the_attestation_authority_works(
    cloud: Authorities, host: Machine
) -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    middle = issue.issue_authority(
        cloud.keys[Role.ATTESTATION],
        cloud.roots[Role.ATTESTATION],
        Role.ATTESTATION,
        "region one",
        key.public_key(),
        serial=9,
        **TIMES,
    )
    leaf = issue.issue_ak_certificate(
        key, middle, "compute-1", host.tpm.ak_public, serial=10, **TIMES
    )
    assert verify_chain(leaf, [middle], cloud.anchors, Role.ATTESTATION, NOW).ok


def certificate_by_hand(cloud: Authorities, public_key: Any, **wishes: Any) -> bytes:
    """An AK-like certificate with what the builders would not do."""
    root = x509.load_der_x509_certificate(cloud.roots[Role.ATTESTATION])
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(root.subject)
        .public_key(public_key)
        .serial_number(77)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(
            x509.ExtendedKeyUsage([wishes.get("usage", roles.TCG_AK_CERTIFICATE)]), critical=False
        )
    )
    for extension in wishes.get("critical", ()):
        builder = builder.add_extension(extension, critical=True)
    signed = builder.sign(cloud.keys[Role.ATTESTATION], wishes.get("hash", hashes.SHA256()))
    return signed.public_bytes(serialization.Encoding.DER)


P256 = key_from("by hand").public_key()


@pytest.mark.parametrize(
    ("public_key", "wishes", "failed"),
    [
        (P256, {}, set()),
        (P256, {"usage": roles.TCG_EK_CERTIFICATE}, {"role"}),
        (P256, {"usage": roles.ORDER_SIGNER}, {"role"}),
        (
            P256,
            {"critical": [x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0")]},
            {"critical"},
        ),
        (ec.generate_private_key(ec.SECP384R1()).public_key(), {}, {"key"}),
        (rsa.generate_private_key(65537, 1024).public_key(), {}, {"key"}),
        (rsa.generate_private_key(65537, 2048).public_key(), {}, set()),
    ],
)
def test_rules_that_builders_keep_anyway(
    cloud: Authorities, public_key: Any, wishes: dict[str, Any], failed: set[str]
) -> None:
    leaf = certificate_by_hand(cloud, public_key, **wishes)
    assert codes(verify_chain(leaf, [], cloud.anchors, Role.ATTESTATION, NOW)) == failed


def test_a_long_chain_and_a_long_certificate_are_not_looked_at(
    cloud: Authorities, host: Machine
) -> None:
    anchors = cloud.anchors
    assert codes(verify_chain(host.ak_cert, [host.ak_cert] * 3, anchors, Role.VTPM, NOW)) == {
        "length"
    }
    assert codes(verify_chain(bytes(5000), [], anchors, Role.VTPM, NOW)) == {"malformed"}
    trailing = verify_chain(host.ak_cert + b"\0", [], anchors, Role.ATTESTATION, NOW)
    assert codes(trailing) == {"malformed"}


def test_a_bundle_is_sorted_by_role(cloud: Authorities) -> None:
    everything = pem(*cloud.roots.values())
    assert TrustAnchors.from_pem(everything) == cloud.anchors


def test_a_bundle_that_was_cut_off_is_refused(cloud: Authorities) -> None:
    everything = pem(*cloud.roots.values())
    with pytest.raises(MalformedInput, match=f"{len(cloud.roots)} certificates begin and"):
        TrustAnchors.from_pem(everything[:-40])


def test_a_maker_of_tpms_is_an_anchor_only_when_named_apart(
    cloud: Authorities, host: Machine
) -> None:
    with pytest.raises(MalformedInput, match="exactly one role"):
        TrustAnchors.from_pem(pem(host.ak_cert))
    anchors = TrustAnchors.from_pem(b"", pem(cloud.roots[Role.HOST_EK]))
    assert anchors == TrustAnchors(host_ek=(cloud.roots[Role.HOST_EK],))


def test_rubbish_is_no_bundle() -> None:
    with pytest.raises(MalformedInput, match="PEM"):
        TrustAnchors.from_pem(b"rubbish")


@pytest.mark.parametrize("host_id", ["", "A", "../etc", "a/b", "a..b", "-a", "a" * 64, "ä", "a\n"])
def test_a_host_id_is_never_a_path(cloud: Authorities, host: Machine, host_id: str) -> None:
    with pytest.raises(MalformedInput, match="host id"):
        issue.issue_ak_certificate(
            cloud.keys[Role.ATTESTATION],
            cloud.roots[Role.ATTESTATION],
            host_id,
            host.tpm.ak_public,
            serial=1,
            **TIMES,
        )


@pytest.mark.parametrize("number", [0, -1, 1 << 159])
def test_a_serial_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(MalformedInput, match="serial"):
        issue.make_root(Role.VTPM, "root", key_from("k"), serial=number, **TIMES)


def test_the_longest_host_id_gets_both_its_certificates(cloud: Authorities) -> None:
    long = Machine("a" * 63, cloud)
    assert certchain.host_of(long.ak_cert) == certchain.host_of(long.vtpm_ca) == "a" * 63
