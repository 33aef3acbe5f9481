"""Two enrolled hosts with real TPMs shake hands over real vTPMs; the evidence is checked by the
command line."""

import collections
import json
import os
import shutil
import time
import types
import uuid

import pytest

from nova_trusted_clone.clone import identity
from nova_trusted_clone.clone.authority import Authority, CloneTerms
from nova_trusted_clone.cmd import manage
from nova_trusted_clone.core.attest import certchain, policy
from nova_trusted_clone.core.errors import Refused
from nova_trusted_clone.core.protocol import actions, events
from nova_trusted_clone.core.protocol.destination import DestinationSession
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.core.protocol.replay import MemoryReplayGuard
from nova_trusted_clone.core.protocol.session import LocalHost
from nova_trusted_clone.core.protocol.source import SourceSession
from nova_trusted_clone.ports import VtpmBlobs
from nova_trusted_clone.tpm.bootlog import Machine, measure_boot
from nova_trusted_clone.tpm.bootlog import events as boot_events
from nova_trusted_clone.tpm.esys import EsysTpm
from nova_trusted_clone.vtpm.control import Blob, ControlChannel
from nova_trusted_clone.vtpm.issuer import EkIssuer
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory
from tests.integration.software_hardware import (
    PoweredTpm,
    make_maker,
    manufacture,
    short_directory,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MIB = 1 << 20
REGIONS = (
    (1, "ram", "pc.ram", 64 * MIB),
    (2, "disk", "vda", 10 * MIB),
    (3, "device", "device", 5000),
    (4, "domain", "domain", 3000),
)
VTPM_REGION = (5, "vtpm", "vtpm", 9000)
NONCE = b"a nonce of the tenant"


def run(*arguments):
    return manage.main([str(argument) for argument in arguments])


class Host:
    """A machine with a TPM of the maker, measured, enrolled, in the policy."""

    def __init__(self, root, setup, name):
        manufacture(root / name, setup)
        self.power = PoweredTpm(root / name)
        self.tpm = EsysTpm(self.power.transport)
        self.log = measure_boot(self.tpm, boot_events(Machine(serial=name)))
        log = root / f"{name}.log"
        log.write_bytes(self.log)
        where = ("--tpm", self.power.transport)
        own = ("--host-id", name, "--identity", root / f"{name}.id")
        assert run("enrol", "host", "--authority", root / "authority", *own, *where) == 0
        learn = ("--host-class", name, "--host", name, "--policy", root / "policy.json")
        assert run("policy", "learn", *learn, *where, "--event-log", log) == 0
        self.identity = identity.load(root / f"{name}.id")
        issuer = EkIssuer.from_files(self.identity.vtpm_ca_key, self.identity.vtpm_ca_certificate)
        self.vtpms = SwtpmFactory(issuer, root / f"{name}.vtpms")

    @property
    def local(self):
        found = self.identity
        return LocalHost(found.host_id, found.ak_public, found.ak_chain, self.log)

    def close(self):
        self.vtpms.close()
        self.power.off()


@pytest.fixture(scope="module")
def cloud():
    with short_directory() as root:
        setup = make_maker(root / "maker")
        manufacture(root / "first", setup)  # makes the maker's CA
        names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
        ca = b"".join((root / "maker" / name).read_bytes() for name in names)
        (root / "ca.pem").write_bytes(ca)
        at = ("--directory", root / "authority", "--host-ek-root", root / "ca.pem")
        assert run("authority", "create", *at) == 0
        hosts = [Host(root, setup, name) for name in ("host-a", "host-b")]
        file = root / "policy.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"allow_vtpm_derive": True}))
        yield types.SimpleNamespace(root=root, source=hosts[0], destination=hosts[1], policy=file)
        for host in hosts:
            host.close()


@pytest.fixture
def guest(cloud):
    """The source server's vTPM, made as libvirt makes it, below its host's CA; its frozen state."""
    setup = make_maker(cloud.root / "localca", cloud.source.identity.vtpm_ca_key)
    manufacture(cloud.root / "guest", setup)
    powered = PoweredTpm(cloud.root / "guest")
    EsysTpm(powered.transport).extend(4, b"guest loader".ljust(32))
    control = ControlChannel(str(cloud.root / "guest" / "ctrl"))
    control.store_volatile()
    yield VtpmBlobs(control.get_state(Blob.PERMANENT), control.get_state(Blob.VOLATILE))
    powered.off()
    shutil.rmtree(cloud.root / "guest")


class Handshake:
    """Both sessions in one process, quotes by the real TPMs."""

    def __init__(self, cloud, mode):
        authority = Authority(cloud.root / "authority")
        trust = certchain.TrustAnchors.from_pem(authority.anchors_pem())
        rules = policy.Policy.parse(cloud.policy.read_bytes())
        terms = CloneTerms(
            clone_id=uuid.uuid4().bytes,
            freeze_group=uuid.uuid4().bytes,
            project_id="project",
            user_id="user",
            source_server=uuid.uuid4().bytes,
            destination_server=uuid.uuid4().bytes,
            source_host="host-a",
            destination_host="host-b",
            disks=(("vda", 10 * MIB),),
            memory_bytes=64 * MIB,
            policy_sha256=rules.sha256,
            vtpm_mode=mode,
            memory_mode="lazy",
            tenant_nonce=NONCE,
        )
        self.freeze_id = terms.freeze_group
        order = authority.sign_order(terms)
        self.hosts = {"source": cloud.source, "destination": cloud.destination}
        common = (trust, rules, order)
        self.sessions = {
            "source": SourceSession(cloud.source.local, *common, b"exporter"),
            "destination": DestinationSession(
                cloud.destination.local, *common, b"store", MemoryReplayGuard()
            ),
        }
        self.vtpms, self.done = {}, []

    def feed(self, side, event):
        session = self.sessions[side]
        other = "destination" if side == "source" else "source"
        pending = collections.deque(session.handle(event))
        while pending:
            action = pending.popleft()
            self.done.append(action)
            if isinstance(action, actions.Refused):
                action.verdict.require()
            elif isinstance(action, actions.MakeQuote):
                signer = self.hosts[side] if action.signer == "host" else self.vtpms[side]
                made = signer.tpm.quote(action.qualifying_data, action.pcrs)
                told = events.QuoteMade(action.purpose, made.attest, made.signature)
                pending.extend(session.handle(told))
            elif isinstance(action, actions.Send):
                self.feed(other, events.MessageReceived(action.data, int(time.time())))
            elif isinstance(action, actions.MakeVtpm):
                self.vtpms[side] = self.hosts[side].vtpms.new("clone", action.inherited)
                self.feed(side, events.VtpmReady(self.identity(side, "new")))

    def identity(self, side, mode):
        made = self.vtpms[side]
        values = dict(made.tpm.read_pcrs(range(1, 8)))
        return events.VtpmIdentity(mode, tuple(made.ek_chain), made.tpm.ak_public(), values)

    def start(self):
        for side in ("destination", "source"):
            self.feed(side, events.Start(int(time.time()), self.hosts[side].tpm.random(32)))

    def freeze(self, blobs, regions):
        self.vtpms["source"] = self.hosts["source"].vtpms.shadow(blobs)
        told = self.identity("source", "source")
        self.feed("source", events.FreezeDone(self.freeze_id, b"k" * 32, regions, 20_000, told))

    def finish(self, regions):
        sizes = [size for _id, _kind, _name, size in regions]
        leaves = sum(-(-size // 4096) for size in sizes)
        segments = sum(-(-size // MIB) for size in sizes)
        done = events.TransferDone(b"r" * 32, Counts(segments, leaves, 0, sum(sizes)))
        self.feed("destination", done)
        self.feed("source", done)
        return next(a.evidence for a in self.done if isinstance(a, actions.Completed))


def verify(cloud, evidence, nonce=NONCE):
    file = cloud.root / "evidence.json"
    file.write_text(json.dumps(evidence))
    at = ("--ca", cloud.root / "authority" / "anchors.pem", "--policy", cloud.policy)
    return run("evidence", "verify", file, *at, "--nonce", nonce.hex())


def test_a_new_vtpm_inherits_the_destinations_boot_and_the_evidence_holds(cloud, guest, capsys):
    shake = Handshake(cloud, "new")
    shake.start()
    pcrs = shake.vtpms["destination"].tpm.read_pcrs(range(1, 8))
    assert pcrs == cloud.destination.tpm.read_pcrs(range(1, 8))
    shake.freeze(guest, REGIONS)
    evidence = shake.finish(REGIONS)
    assert verify(cloud, evidence) == 0
    assert "the evidence holds" in capsys.readouterr().out
    assert verify(cloud, evidence, os.urandom(16)) == 1
    assert "FAILED  trusted-clone.evidence.nonce" in capsys.readouterr().out


def test_a_derived_vtpm_is_proven_before_the_end(cloud, guest):
    shake, regions = Handshake(cloud, "derive"), (*REGIONS, VTPM_REGION)
    shake.start()
    shake.freeze(guest, regions)
    shake.vtpms["destination"].discard()
    shake.vtpms["destination"] = cloud.destination.vtpms.derive("clone", guest)
    shake.feed("destination", events.VtpmInstalled(shake.identity("destination", "derive")))
    assert verify(cloud, shake.finish(regions)) == 0


def test_a_host_that_rebooted_in_between_is_refused(cloud, guest):
    """Same keys, same PCRs by the same log: only the counters tell."""
    shake = Handshake(cloud, "new")
    shake.start()
    shake.freeze(guest, REGIONS)
    cloud.source.power.reboot()
    measure_boot(cloud.source.tpm, boot_events(Machine(serial="host-a")))
    with pytest.raises(Refused) as refused:
        shake.finish(REGIONS)
    codes = {check.code for check in refused.value.verdict.failures}
    assert "trusted-clone.boot.reset-count" in codes


def test_a_clones_vtpm_of_another_host_is_refused(cloud, guest):
    """A genuine vTPM of a good host is not this clone's."""
    shake = Handshake(cloud, "new")
    foreign = cloud.source.vtpms

    class Relay:
        tpm = cloud.destination.tpm
        vtpms = foreign

    shake.hosts["destination"] = Relay
    with pytest.raises(Refused) as refused:
        shake.start()
    codes = [check.code for check in refused.value.verdict.failures]
    assert codes == ["trusted-clone.vtpm.host"]
