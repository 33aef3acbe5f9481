"""A host with a real TPM enrols by the command line, learns its policy, and its guests' vTPMs
chain to it."""

import dataclasses
import json
import shutil
import time
import types

import pytest

from nova_trusted_clone.clone import admission, enrolment, identity
from nova_trusted_clone.clone.authority import Authority
from nova_trusted_clone.cmd import manage
from nova_trusted_clone.core.attest import certchain, policy
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.protocol.order import SignedOrder, verify_order
from nova_trusted_clone.tpm.base import CredentialRefusedError
from nova_trusted_clone.tpm.bootlog import Machine, events, measure_boot
from nova_trusted_clone.tpm.esys import EsysTpm
from nova_trusted_clone.vtpm.issuer import EkIssuer
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory
from tests.integration.software_hardware import (
    PoweredTpm,
    make_maker,
    manufacture,
    short_directory,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def place():
    """Two machines with TPMs of one maker, measured; and what the maker publishes."""
    with short_directory() as root:
        setup = make_maker(root / "maker")
        machines = []
        for name in ("one", "two"):
            manufacture(root / name, setup)
            powered = PoweredTpm(root / name)
            log = root / f"{name}.log"
            log.write_bytes(measure_boot(EsysTpm(powered.transport), events(Machine(serial=name))))
            machines.append(types.SimpleNamespace(transport=powered.transport, log=log, on=powered))
        ca = root / "maker-ca.pem"
        names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
        ca.write_bytes(b"".join((root / "maker" / name).read_bytes() for name in names))
        yield types.SimpleNamespace(root=root, ca=ca, one=machines[0], two=machines[1])
        for machine in machines:
            machine.on.off()


@pytest.fixture
def work(place):
    path = place.root / "work"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def run(*arguments):
    return manage.main([str(argument) for argument in arguments])


@pytest.fixture
def authority(place, work):
    directory = work / "authority"
    assert run("authority", "create", "--directory", directory, "--host-ek-root", place.ca) == 0
    return directory


def enrol(authority, work, host_id, machine):
    where = ("--tpm", machine.transport, "--identity", work / host_id)
    return run("enrol", "host", "--authority", authority, "--host-id", host_id, *where)


def test_step_by_step_between_two_machines(place, work, authority):
    tpm = ("--tpm", place.one.transport, "--identity", work / "identity")
    paths = {name: work / f"{name}.json" for name in ("request", "challenge", "response", "grant")}
    at = ("--authority", authority)
    out = {name: ("--output", path) for name, path in paths.items()}
    assert run("enrol", "request", "--host-id", "host-a", *tpm, *out["request"]) == 0
    asked = ("--request", paths["request"])
    assert run("enrol", "challenge", *at, *asked, *out["challenge"]) == 0
    challenged = ("--challenge", paths["challenge"])
    assert run("enrol", "respond", *tpm, *challenged, *out["response"]) == 0
    assert run("enrol", "issue", *at, "--response", paths["response"], *out["grant"]) == 0
    assert run("enrol", "install", *tpm[2:], "--grant", paths["grant"]) == 0
    found = identity.load(work / "identity")
    assert found.host_id == "host-a"
    assert found.ak_public == EsysTpm(place.one.transport).ak_public()


def test_a_second_host_with_the_same_tpm_is_refused(place, work, authority, capsys):
    assert enrol(authority, work, "host-a", place.one) == 0
    assert enrol(authority, work, "host-b", place.one) == 1
    assert "already, as host host-a" in capsys.readouterr().err
    assert enrol(authority, work, "host-b", place.two) == 0


def test_a_substituted_ak_is_refused_by_the_tpm(place, work, authority):
    """One host's EK certificate with the other's AK: neither TPM opens the credential."""
    one, two = EsysTpm(place.one.transport), EsysTpm(place.two.transport)

    class Mixed(EsysTpm):
        def ek_certificate(self):
            return one.ek_certificate()

    mixed = enrolment.request(Mixed(place.two.transport), "host-a", work / "mixed")
    challenged = admission.challenge(Authority(authority), mixed)
    for tpm in (one, two):
        with pytest.raises(CredentialRefusedError):
            tpm.activate_credential(challenged.id_object, challenged.encrypted_secret)


def test_a_tpm_of_an_unknown_maker_is_refused(place, work, authority, capsys):
    manufacture(work / "fake", make_maker(work / "stranger"))
    stranger = PoweredTpm(work / "fake")
    try:
        assert enrol(authority, work, "host-x", stranger) == 1
    finally:
        stranger.off()
    assert "trusted-clone.certificate.anchor" in capsys.readouterr().err


def test_a_tenants_vtpm_does_not_enrol_as_a_host(place, work, authority, capsys):
    assert enrol(authority, work, "host-a", place.one) == 0
    found = identity.load(work / "host-a")
    issuer = EkIssuer.from_files(found.vtpm_ca_key, found.vtpm_ca_certificate)
    factory = SwtpmFactory(issuer, work / "vtpms")
    try:
        vtpm = factory.new("tenant", [])
        with pytest.raises(Exception, match=r"certificate\.anchor"):
            admission.challenge(
                Authority(authority), enrolment.request(vtpm.tpm, "host-y", work / "y")
            )
    finally:
        factory.close()


def test_vtpms_of_an_enrolled_host_chain_to_it(place, work, authority):
    assert enrol(authority, work, "host-a", place.one) == 0
    found = identity.load(work / "host-a")
    anchors = Authority(authority).anchors()
    issuer = EkIssuer.from_files(found.vtpm_ca_key, found.vtpm_ca_certificate)
    factory = SwtpmFactory(issuer, work / "vtpms")
    try:
        leaf, *rest = factory.new("clone", []).ek_chain
    finally:
        factory.close()
    certchain.verify_chain(leaf, rest, anchors, Role.VTPM, int(time.time())).require()
    assert certchain.host_of(rest[0]) == "host-a"


def test_swtpm_localca_can_use_the_hosts_vtpm_ca_for_ordinary_servers(place, work, authority):
    """A source server's vTPM is made by libvirt: its EK must chain to its host in the same way."""
    assert enrol(authority, work, "host-a", place.one) == 0
    found = identity.load(work / "host-a")
    manufacture(work / "guest", make_maker(work / "localca", found.vtpm_ca_key))
    guest = PoweredTpm(work / "guest")
    try:
        leaf = EsysTpm(guest.transport).ek_certificate()
    finally:
        guest.off()
    issuer = EkIssuer.from_files(found.vtpm_ca_key, found.vtpm_ca_certificate)
    certchain.verify_chain(
        leaf, issuer.intermediates, Authority(authority).anchors(), Role.VTPM, int(time.time())
    ).require()


def test_a_policy_is_learned_from_a_golden_host_and_holds(place, work, capsys):
    file = work / "policy.json"
    golden = ("--host-class", "lab", "--host", "host-a", "--policy", file)
    at = ("--tpm", place.one.transport, "--event-log", place.one.log)
    assert run("policy", "learn", *golden, *at) == 0
    assert run("policy", "check", file) == 0
    assert run("policy", "show", file) == 0
    assert "host host-a class lab" in capsys.readouterr().out
    values = EsysTpm(place.one.transport).read_pcrs(range(8))
    learned = policy.Policy.parse(file.read_bytes())
    learned.check_host("host-a", values).require()
    other = EsysTpm(place.two.transport).read_pcrs(range(8))
    failures = learned.check_host("host-a", other).failures
    assert [check.code for check in failures] == ["trusted-clone.policy.pcr-1"]


def test_a_log_of_another_boot_is_refused_naming_the_pcr(place, work, capsys):
    file = work / "policy.json"
    golden = ("--host-class", "lab", "--host", "host-a", "--policy", file)
    at = ("--tpm", place.one.transport, "--event-log", place.two.log)
    assert run("policy", "learn", *golden, *at) == 1
    assert "trusted-clone.event-log.pcr-1" in capsys.readouterr().err
    assert not file.exists()


def test_tpm_status(place, capsys):
    at = ("--tpm", place.one.transport)
    assert run("tpm", "status", *at, "--event-log", place.one.log) == 0
    assert "explains PCR 0-7" in capsys.readouterr().out


def test_an_order_names_the_aks_of_both_hosts(place, work, authority):
    assert enrol(authority, work, "host-a", place.one) == 0
    assert enrol(authority, work, "host-b", place.two) == 0
    for host, machine in (("host-a", place.one), ("host-b", place.two)):
        learn = ("--host-class", "lab", "--host", host, "--policy", work / "policy.json")
        at = ("--tpm", machine.transport, "--event-log", machine.log)
        assert run("policy", "learn", *learn, *at) == 0
    servers = ("--source-server", "11111111-1111-4111-8111-111111111111")
    servers += ("--destination-server", "22222222-2222-4222-8222-222222222222")
    hosts = ("--source-host", "host-a", "--destination-host", "host-b")
    what = ("--memory-bytes", 1 << 28, "--disk", f"vda={1 << 30}", "--project", "p", "--user", "u")
    files = ("--authority", authority, "--policy", work / "policy.json", "--output", work / "order")
    assert run("order", "create", *files, *hosts, *servers, *what) == 0
    signed = SignedOrder.decode((work / "order").read_bytes())
    verdict, order = verify_order(
        signed,
        Authority(authority).anchors(),
        policy.Policy.parse((work / "policy.json").read_bytes()),
        int(time.time()),
        "host-b",
        "destination",
    )
    verdict.require()
    names = [identity.load(work / host).ak_chain[0] for host in ("host-a", "host-b")]
    assert [order.source_ak_name, order.destination_ak_name] == [
        certchain.ak_certificate_identity(der)[1] for der in names
    ]


def test_nothing_secret_is_in_what_travels(place, work, authority):
    tpm = EsysTpm(place.one.transport)
    asked = enrolment.request(tpm, "host-a", work / "identity")
    challenged = admission.challenge(Authority(authority), asked)
    answered = enrolment.respond(tpm, work / "identity", challenged)
    secret = json.loads((authority / "pending" / "host-a.json").read_text())["secret"]
    for file in (asked, challenged, answered):
        assert bytes.fromhex(secret) not in b"".join(
            value for value in dataclasses.asdict(file).values() if isinstance(value, bytes)
        )
        assert "PRIVATE" not in file.encode().decode()
    assert authority.stat().st_mode & 0o077 == 0
