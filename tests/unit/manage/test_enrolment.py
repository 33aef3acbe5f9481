"""A host enrols: what it asks, what the authority judges, and what is refused."""

import dataclasses
import json
import stat
import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from nova_trusted_clone.clone import admission, enrolment, identity
from nova_trusted_clone.clone.authority import Authority, AuthorityError
from nova_trusted_clone.clone.enrolment import EnrolmentError
from nova_trusted_clone.clone.enrolment_files import Challenge, Grant, Request, Response, public_der
from nova_trusted_clone.clone.registry import RegistryError
from nova_trusted_clone.core.attest import certchain
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.errors import MalformedInput, Refused
from nova_trusted_clone.tpm.base import CredentialRefusedError
from nova_trusted_clone.tpm.fake import SoftwareTpm, shared_keys
from nova_trusted_clone.vtpm.issuer import EkIssuer
from tests.unit.manage.hosts import maker


@pytest.fixture
def authority(tmp_path):
    return Authority.create(tmp_path / "authority", "Example", maker().pem)


@pytest.fixture
def host_dir(tmp_path):
    return tmp_path / "identity"


def enrol(authority, tpm, host_id, directory):
    asked = enrolment.request(tpm, host_id, directory)
    challenged = admission.challenge(authority, asked)
    answered = enrolment.respond(tpm, directory, challenged)
    enrolment.install(directory, admission.grant(authority, answered))
    return asked


class TestAHostEnrols:
    def test_and_gets_certificates_for_its_very_ak_and_its_own_key(self, authority, host_dir):
        tpm = maker().tpm("one")
        enrol(authority, tpm, "host-a", host_dir)
        got = identity.load(host_dir)
        assert (got.host_id, got.ak_public) == ("host-a", tpm.ak_public())
        now = int(time.time())
        certchain.verify_chain(
            got.ak_chain[0], got.ak_chain[1:], authority.anchors(), Role.ATTESTATION, now
        ).require()
        assert (
            authority.registry.get("host-a").ak_name
            == certchain.ak_certificate_identity(got.ak_chain[0])[1]
        )

    def test_its_vtpm_ca_certifies_eks_that_name_the_host(self, authority, host_dir):
        enrol(authority, maker().tpm("one"), "host-a", host_dir)
        got = identity.load(host_dir)
        issuer = EkIssuer.from_files(got.vtpm_ca_key, got.vtpm_ca_certificate)
        leaf, ca = issuer.certify(SoftwareTpm(shared_keys("vtpm")).ek_public(), "clone")
        now = int(time.time())
        certchain.verify_chain(leaf, [ca], authority.anchors(), Role.VTPM, now).require()
        assert certchain.host_of(ca) == "host-a"

    def test_its_files_are_private(self, authority, host_dir):
        enrol(authority, maker().tpm("one"), "host-a", host_dir)
        for path in [*host_dir.iterdir(), *authority.directory.iterdir()]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    def test_every_file_survives_the_way_between_machines(self, authority, host_dir):
        tpm = maker().tpm("one")
        asked = Request.decode(enrolment.request(tpm, "host-a", host_dir).encode())
        challenged = Challenge.decode(admission.challenge(authority, asked).encode())
        answered = Response.decode(enrolment.respond(tpm, host_dir, challenged).encode())
        granted = Grant.decode(admission.grant(authority, answered).encode())
        enrolment.install(host_dir, granted)

    def test_again_with_the_same_tpm_renews_its_certificates(self, authority, host_dir):
        tpm = maker().tpm("one")
        enrol(authority, tpm, "host-a", host_dir)
        first = identity.load(host_dir)
        tpm.reboot()
        enrol(authority, tpm, "host-a", host_dir)
        second = identity.load(host_dir)
        assert first.ak_public == second.ak_public
        assert first.ak_chain != second.ak_chain

    def test_a_request_alone_changes_nothing_of_the_former_identity(self, authority, host_dir):
        tpm = maker().tpm("one")
        enrol(authority, tpm, "host-a", host_dir)
        before = identity.load(host_dir).vtpm_ca_key.read_bytes()
        enrolment.request(tpm, "host-a", host_dir)
        assert identity.load(host_dir).vtpm_ca_key.read_bytes() == before


class TestOneEkIsOneHost:
    def test_a_second_host_with_the_same_tpm_is_refused(self, authority, tmp_path):
        enrol(authority, maker().tpm("one"), "host-a", tmp_path / "a")
        with pytest.raises(RegistryError, match="already, as host host-a"):
            enrol(authority, maker().tpm("one"), "host-b", tmp_path / "b")

    def test_a_host_with_another_tpm_is_refused_until_it_is_removed(self, authority, tmp_path):
        enrol(authority, maker().tpm("one"), "host-a", tmp_path / "a")
        with pytest.raises(RegistryError, match="another TPM"):
            enrol(authority, maker().tpm("two"), "host-a", tmp_path / "b")
        authority.registry.remove("host-a")
        enrol(authority, maker().tpm("two"), "host-a", tmp_path / "b")

    def test_who_proves_first_wins_even_when_both_were_challenged(self, authority, tmp_path):
        tpm = maker().tpm("one")
        answers = []
        for name in ("host-a", "host-b"):
            asked = enrolment.request(tpm, name, tmp_path / name)
            challenged = admission.challenge(authority, asked)
            answers.append(enrolment.respond(tpm, tmp_path / name, challenged))
        admission.grant(authority, answers[0])
        with pytest.raises(RegistryError, match="already, as host host-a"):
            admission.grant(authority, answers[1])


class TestRefused:
    def test_an_ek_of_an_unknown_maker(self, authority, host_dir):
        asked = enrolment.request(maker("stranger").tpm("one"), "host-a", host_dir)
        with pytest.raises(Refused, match=r"certificate\.anchor"):
            admission.challenge(authority, asked)

    def test_a_vtpm_of_an_enrolled_host_cannot_enrol_as_a_host(self, authority, tmp_path):
        enrol(authority, maker().tpm("one"), "host-a", tmp_path / "a")
        got = identity.load(tmp_path / "a")
        vtpm = SoftwareTpm(shared_keys("tenant"))
        issuer = EkIssuer.from_files(got.vtpm_ca_key, got.vtpm_ca_certificate)
        vtpm.certificate = issuer.certify(vtpm.ek_public(), "tenant")[0]
        asked = enrolment.request(vtpm, "host-x", tmp_path / "x")
        with pytest.raises(Refused, match=r"certificate\.anchor"):
            admission.challenge(authority, asked)

    def test_a_substituted_ak(self, authority, host_dir, tmp_path):
        """The EK of a good TPM, the AK of another: the good TPM does not open the credential."""
        good, other = maker().tpm("one"), maker().tpm("two")
        mixed = SoftwareTpm(other.keys, good.certificate)
        challenged = admission.challenge(authority, enrolment.request(mixed, "host-a", host_dir))
        with pytest.raises(CredentialRefusedError):
            good.activate_credential(challenged.id_object, challenged.encrypted_secret)
        with pytest.raises(CredentialRefusedError):
            mixed.activate_credential(challenged.id_object, challenged.encrypted_secret)

    def test_an_unrestricted_ak(self, authority, host_dir):
        asked = enrolment.request(maker().tpm("one"), "host-a", host_dir)
        loose = bytearray(asked.ak_public)
        loose[5] &= 0xFE  # RESTRICTED is bit 16 of the attributes
        key = ec.generate_private_key(ec.SECP256R1())
        forged = resigned(dataclasses.replace(asked, ak_public=bytes(loose)), key)
        with pytest.raises(MalformedInput):
            admission.challenge(authority, forged)

    def test_a_vtpm_ca_key_swapped_on_the_way(self, authority, host_dir):
        """Whoever relays the request could sign his own key in; the AK's quote shows it."""
        tpm, thief = maker().tpm("one"), ec.generate_private_key(ec.SECP256R1())
        asked = enrolment.request(tpm, "host-a", host_dir)
        challenged = admission.challenge(authority, resigned(asked, thief))
        with pytest.raises(EnrolmentError, match="another request"):
            enrolment.respond(tpm, host_dir, challenged)
        relayed = dataclasses.replace(
            challenged, request_sha256=admission._sha256(asked.statement())
        )
        answered = enrolment.respond(tpm, host_dir, relayed)
        with pytest.raises(Refused) as refused:
            admission.grant(authority, answered)
        codes = {check.code for check in refused.value.verdict.failures}
        assert codes == {"trusted-clone.enrolment.proof", "trusted-clone.quote.stale"}

    def test_a_request_signed_by_another_key_than_it_names(self, authority, host_dir):
        asked = enrolment.request(maker().tpm("one"), "host-a", host_dir)
        forged = dataclasses.replace(asked, host_id="host-b")
        with pytest.raises(Refused, match=r"enrolment\.possession"):
            admission.challenge(authority, forged)

    def test_a_wrong_proof_and_a_second_try(self, authority, host_dir):
        tpm = maker().tpm("one")
        challenged = admission.challenge(authority, enrolment.request(tpm, "host-a", host_dir))
        answered = enrolment.respond(tpm, host_dir, challenged)
        with pytest.raises(Refused, match=r"enrolment\.proof"):
            admission.grant(authority, dataclasses.replace(answered, proof=bytes(32)))
        with pytest.raises(EnrolmentError, match="no challenge is pending"):
            admission.grant(authority, answered)

    def test_an_old_challenge(self, authority, host_dir, monkeypatch):
        tpm = maker().tpm("one")
        challenged = admission.challenge(authority, enrolment.request(tpm, "host-a", host_dir))
        answered = enrolment.respond(tpm, host_dir, challenged)
        pending = authority.directory / "pending" / "host-a.json"
        pending.write_text(json.dumps({**json.loads(pending.read_text()), "expires_at": 1}))
        with pytest.raises(EnrolmentError, match="expired"):
            admission.grant(authority, answered)

    def test_a_grant_for_another_host_is_not_installed(self, authority, tmp_path):
        tpms = {name: maker().tpm(name) for name in ("one", "two")}
        grants = {}
        for name, tpm in tpms.items():
            asked = enrolment.request(tpm, f"host-{name}", tmp_path / name)
            answered = enrolment.respond(
                tpm, tmp_path / name, admission.challenge(authority, asked)
            )
            grants[name] = admission.grant(authority, answered)
        with pytest.raises(EnrolmentError, match="host-two"):
            enrolment.install(tmp_path / "one", grants["two"])

    @pytest.mark.parametrize("host_id", ["../etc", "", "A", "a/b", "x" * 64])
    def test_host_ids_that_are_none(self, authority, host_dir, host_id):
        with pytest.raises(MalformedInput):
            enrolment.request(maker().tpm("one"), host_id, host_dir)


def resigned(asked, key):
    """The request with ``key`` as vTPM CA, signed by it."""
    unsigned = dataclasses.replace(asked, vtpm_ca_public=public_der(key.public_key()))
    signature = key.sign(unsigned.statement(), ec.ECDSA(hashes.SHA256()))
    return dataclasses.replace(unsigned, possession=signature)


class TestTheAuthoritysDirectory:
    def test_it_is_never_overwritten(self, authority):
        before = (authority.directory / "attestation-ca.key").read_bytes()
        with pytest.raises(AuthorityError, match="never overwritten"):
            Authority.create(authority.directory, "Example", maker().pem)
        assert (authority.directory / "attestation-ca.key").read_bytes() == before

    def test_its_bundle_has_three_roles_and_hosts_tpms_apart(self, authority):
        anchors = certchain.TrustAnchors.from_pem(authority.anchors_pem())
        assert [len(anchors.of(role)) for role in Role] == [1, 1, 1, 0]
        assert len(authority.anchors().host_ek) == 1

    def test_without_a_makers_root_there_is_none(self, tmp_path):
        with pytest.raises(MalformedInput, match="host EK"):
            Authority.create(tmp_path / "new", "Example", b"")

    def test_there_must_be_one(self, tmp_path):
        with pytest.raises(AuthorityError, match="no authority here"):
            Authority(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda raw: raw | {"extra": 1}, "extra"),
        (lambda raw: {k: v for k, v in raw.items() if k != "ak_public"}, "ak_public"),
        (lambda raw: raw | {"ak_public": "***"}, "ak_public"),
        (lambda raw: raw | {"ak_public": ["AAAA"]}, "ak_public"),
        (lambda raw: raw | {"host_id": "../x"}, "host id"),
        (lambda raw: raw | {"format": "other"}, "format"),
    ],
)
def test_a_malformed_file_is_refused_by_field(authority, host_dir, change, named):
    raw = json.loads(enrolment.request(maker().tpm("one"), "host-a", host_dir).encode())
    with pytest.raises(MalformedInput, match=named):
        Request.decode(json.dumps(change(raw)).encode())
