"""vTPMs on real swtpm: new, derived, shadow; what each shares with its source and what not."""

import hashlib
import os
import pathlib
import subprocess
import sys
import time

import pytest
from tpm2_pytss import (
    ESYS_TR,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPM2B_SENSITIVE_DATA,
    TPMS_SENSITIVE_CREATE,
    TPMT_PUBLIC,
)

from nova_trusted_clone import ports
from nova_trusted_clone.core.attest import certchain, quote, tpm_structs
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.tpm import templates
from nova_trusted_clone.tpm.base import TpmError
from nova_trusted_clone.tpm.esys import EsysTpm
from nova_trusted_clone.vtpm.base import VtpmGoneError, VtpmReadOnlyError, VtpmStateError
from nova_trusted_clone.vtpm.control import Blob, ControlChannel
from nova_trusted_clone.vtpm.process import start_time, wipe
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory
from tests.integration.software_hardware import PoweredTpm, make_maker, manufacture
from tests.unit.vtpm.pki import host_ca

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

LOG = [(pcr % 7 + 1, hashlib.sha256(b"event %d" % pcr).digest()) for pcr in range(28)]
GUEST_PCRS = range(1, 8)


@pytest.fixture
def root(tmp_path):
    # Socket paths are short: a deep temporary directory would not do.
    path = pathlib.Path(f"/run/trusted-clone-test-{os.getpid()}")
    path.mkdir(mode=0o700)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


@pytest.fixture
def factory(root):
    made = SwtpmFactory(host_ca().issuer, root)
    yield made
    made.close()


def replayed(log):
    values = {pcr: bytes(32) for pcr in GUEST_PCRS}
    for pcr, digest in log:
        values[pcr] = hashlib.sha256(values[pcr] + digest).digest()
    return values


def require_good_quote(tpm: ports.Tpm, pcrs):
    data = os.urandom(32)
    made = tpm.quote(data, sorted(pcrs))
    key = tpm_structs.parse_attestation_key(tpm.ak_public())
    verdict, facts = quote.verify_quote(
        key, made.attest, made.signature, qualifying_data=data, pcrs=pcrs
    )
    verdict.require()
    return facts


def require_ek_chain(instance):
    leaf, *rest = instance.ek_chain
    certchain.verify_chain(leaf, rest, host_ca().anchors, Role.VTPM, int(time.time())).require()
    assert certchain.host_of(rest[0]) == "host-a"


def seal(esys, secret):
    """Seal ``secret`` below a storage primary; return what a disk would keep."""
    parent, *_ = esys.create_primary(None, "ecc", ESYS_TR.OWNER)
    sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(secret)))
    shape = TPM2B_PUBLIC.parse("keyedhash", objectAttributes="fixedtpm|fixedparent|userwithauth")
    private, public, *_ = esys.create(parent, sensitive, shape)
    esys.flush_context(parent)
    return private, public


def unseal(esys, sealed):
    parent, *_ = esys.create_primary(None, "ecc", ESYS_TR.OWNER)
    item = esys.load(parent, *sealed)
    secret = bytes(esys.unseal(item))
    esys.flush_context(item)
    esys.flush_context(parent)
    return secret


class TestNew:
    def test_it_inherits_the_hosts_log_and_quotes_it(self, factory):
        instance = factory.new("clone-1", LOG)
        require_good_quote(instance.tpm, replayed(LOG))

    def test_its_ek_chains_to_this_host_and_is_where_guests_look(self, factory):
        instance = factory.new("clone-1", [])
        require_ek_chain(instance)
        assert instance.tpm.ek_certificate() == instance.ek_chain[0]
        public = instance.tpm.ek_public()
        assert public.startswith(templates.EK_RSA_TEMPLATE[:-256])

    def test_two_share_no_key_and_no_randomness(self, factory):
        one, other = factory.new("one", []), factory.new("other", [])
        assert one.tpm.ak_public() != other.tpm.ak_public()
        assert one.tpm.ek_public() != other.tpm.ek_public()
        assert one.tpm.random(16) != other.tpm.random(16)

    def test_what_is_handed_over_runs_on_elsewhere_with_its_pcrs(self, factory, root):
        instance = factory.new("clone-1", LOG)
        ak = instance.tpm.ak_public()
        blobs = instance.hand_over()
        assert list(next(root.iterdir()).iterdir()) == []
        with pytest.raises(VtpmGoneError):
            _ = instance.tpm
        with pytest.raises(VtpmGoneError):
            instance.hand_over()
        instance.discard()
        shadow = factory.shadow(blobs)
        assert shadow.tpm.ak_public() == ak
        require_good_quote(shadow.tpm, replayed(LOG))

    def test_its_guest_cannot_replace_the_certified_ek(self, factory):
        instance = factory.new("clone-1", [])
        with pytest.raises(TpmError, match="auth"), instance.tpm.batch() as esys:
            esys.change_eps()


class TestDerive:
    @pytest.fixture
    def source(self, factory):
        """A server's vTPM, in which something is sealed; its blobs, its public keys, the sealed."""
        instance = factory.new("source", LOG)
        with instance.tpm.batch() as esys:
            sealed = seal(esys, b"disk key")
        keys = instance.tpm.ak_public(), instance.tpm.ek_public()
        return instance.hand_over(), keys, sealed

    def test_what_the_source_sealed_unseals(self, factory, source):
        blobs, _keys, sealed = source
        clone = factory.derive("clone", blobs)
        with clone.tpm.batch() as esys:
            assert unseal(esys, sealed) == b"disk key"

    def test_keys_certificate_and_randomness_are_its_own(self, factory, source):
        blobs, (ak, ek), _sealed = source
        clone, copy = factory.derive("clone", blobs), factory.shadow(blobs)
        assert clone.tpm.ak_public() != ak
        assert clone.tpm.ek_public() != ek
        assert clone.tpm.random(32) != copy.tpm.random(32)
        require_ek_chain(clone)
        assert clone.tpm.ek_certificate() == clone.ek_chain[0] != copy.ek_chain[0]

    def test_pcrs_stay_through_the_next_hand_over(self, factory, source):
        clone = factory.derive("clone", source[0])
        require_good_quote(clone.tpm, replayed(LOG))
        again = factory.shadow(clone.hand_over())
        require_good_quote(again.tpm, replayed(LOG))

    def test_a_derived_one_can_be_derived_again(self, factory, source):
        first = factory.derive("clone", source[0])
        ak = first.tpm.ak_public()
        second = factory.derive("clone of clone", first.hand_over())
        assert second.tpm.ak_public() != ak
        with second.tpm.batch() as esys:
            assert unseal(esys, source[2]) == b"disk key"

    def test_two_derived_from_one_differ(self, factory, source):
        one, other = factory.derive("one", source[0]), factory.derive("other", source[0])
        assert one.tpm.ak_public() != other.tpm.ak_public()
        assert one.tpm.random(32) != other.tpm.random(32)

    def test_the_sources_loaded_ak_is_not_in_the_clone(self, factory):
        """A guest that leaves its AK loaded must not take it along: ChangeEPS flushes it."""
        instance = factory.new("source", [])
        area, _rest = TPMT_PUBLIC.unmarshal(templates.AK_TEMPLATE)
        signing = TPM2B_PUBLIC(publicArea=area)
        with instance.tpm.batch() as esys:
            esys.create_primary(None, signing, ESYS_TR.ENDORSEMENT)
        clone = factory.derive("clone", instance.hand_over())
        with clone.tpm.batch() as esys:
            _more, data = esys.get_capability(1, 0x80000000, 8)
            assert [int(handle) for handle in data.data.handles] == []


class TestAGuestThatLibvirtMade:
    """swtpm_setup writes more certificates than ours: EKs of two kinds, and the platform's."""

    @pytest.fixture
    def guest(self, root):
        setup = make_maker(root / "maker")
        manufacture(root / "guest", setup, more=["--create-platform-cert"])
        powered = PoweredTpm(root / "guest")
        yield EsysTpm(powered.transport), ControlChannel(str(root / "guest" / "ctrl"))
        powered.off()
        for name in ("guest", "maker"):
            wipe(root / name)

    @staticmethod
    def frozen(control):
        control.store_volatile()
        return ports.VtpmBlobs(
            permanent=control.get_state(Blob.PERMANENT),
            volatile=control.get_state(Blob.VOLATILE),
            savestate=control.get_state(Blob.SAVESTATE),
        )

    @staticmethod
    def identity_indices(tpm):
        with tpm.batch() as esys:
            _more, data = esys.get_capability(1, 0x01C00000, 64)
        return [int(handle) for handle in data.data.handles]

    def test_a_derived_clone_keeps_no_certificate_of_it(self, factory, guest):
        tpm, control = guest
        assert len(self.identity_indices(tpm)) > 2
        clone = factory.derive("clone", self.frozen(control))
        assert self.identity_indices(clone.tpm) == [templates.EK_CERTIFICATE_RSA]

    def test_it_is_derived_though_its_firmware_locked_the_platform(self, factory, guest):
        tpm, control = guest
        with tpm.batch() as esys:
            esys.hierarchy_change_auth(ESYS_TR.PLATFORM, os.urandom(32))
        ak = tpm.ak_public()
        assert factory.derive("clone", self.frozen(control)).tpm.ak_public() != ak

    def test_it_is_not_derived_when_its_firmware_disabled_the_platform(self, factory, guest):
        tpm, control = guest
        with tpm.batch() as esys:
            esys.hierarchy_control(ESYS_TR.PLATFORM, ESYS_TR.PLATFORM, False)
        with pytest.raises(VtpmStateError, match="only cloned as new"):
            factory.derive("clone", self.frozen(control))

    def test_its_shadow_shows_its_own_certificate_and_state(self, factory, guest):
        tpm, control = guest
        tpm.extend(3, b"m" * 32)
        shadow = factory.shadow(self.frozen(control))
        assert shadow.ek_chain[0] == tpm.ek_certificate()
        assert shadow.tpm.ak_public() == tpm.ak_public()
        assert shadow.tpm.read_pcrs(range(8)) == tpm.read_pcrs(range(8))

    def test_a_guest_that_keeps_its_endorsement_hierarchy_cannot_vouch(self, factory, guest):
        tpm, control = guest
        with tpm.batch() as esys:
            esys.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"mine")
        blobs = self.frozen(control)
        with pytest.raises(VtpmStateError, match="endorsement hierarchy"):
            factory.shadow(blobs)
        factory.derive("clone", blobs).discard()

    def test_it_goes_on_undisturbed(self, factory, guest):
        tpm, control = guest
        before = tpm.ak_public()
        factory.shadow(self.frozen(control)).discard()
        assert tpm.ak_public() == before


class TestShadow:
    def test_it_quotes_and_changes_nothing(self, factory):
        blobs = factory.new("source", LOG).hand_over()
        shadow = factory.shadow(blobs)
        first = require_good_quote(shadow.tpm, replayed(LOG))
        assert first.reset_count >= 0
        with pytest.raises(VtpmReadOnlyError):
            shadow.tpm.extend(7, bytes(32))
        with pytest.raises(VtpmGoneError):
            shadow.hand_over()
        require_ek_chain(shadow)

    def test_its_randomness_is_not_the_sources(self, factory):
        blobs = factory.new("source", []).hand_over()
        assert factory.shadow(blobs).tpm.random(32) != factory.shadow(blobs).tpm.random(32)


class TestStateThatIsNone:
    @pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b"", lambda b: b"\x63" + b[1:]])
    def test_malformed_blobs_are_refused_before_swtpm_sees_them(self, factory, change):
        blobs = factory.new("source", []).hand_over()
        with pytest.raises(VtpmStateError):
            factory.shadow(ports.VtpmBlobs(change(blobs.permanent), blobs.volatile))

    def test_blobs_do_not_show_themselves(self, factory):
        blobs = factory.new("source", []).hand_over()
        assert repr(blobs).count("b'") <= 1


def test_the_pool_is_used_and_refilled(root):
    factory = SwtpmFactory(host_ca().issuer, root, pool_size=2)
    try:
        deadline = time.monotonic() + 30
        while factory.ready < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        started = time.monotonic()
        instance = factory.new("quick", LOG)
        assert time.monotonic() - started < 0.5
        require_good_quote(instance.tpm, replayed(LOG))
    finally:
        factory.close()
    assert list(root.iterdir()) == []


CRASHING = """
import os, pathlib, sys
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory
from tests.unit.vtpm.pki import host_ca
factory = SwtpmFactory(host_ca().issuer, pathlib.Path(sys.argv[1]))
factory.new("lost", [])
print(next(pathlib.Path(sys.argv[1]).rglob("pid")).read_text(), flush=True)
os._exit(1)
"""


def test_what_a_crashed_process_left_is_ended_and_wiped(root):
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(root)], capture_output=True, text=True, check=False
    )
    pid, started = (int(part) for part in done.stdout.split())
    assert start_time(pid) == started
    SwtpmFactory(host_ca().issuer, root).close()
    assert start_time(pid) != started
    assert list(root.iterdir()) == []
