"""What every TPM adapter promises; a test module subclasses it and brings the fixtures ``tpm``
and ``reboot``."""

import hashlib
import os

import pytest

from nova_trusted_clone.core.attest import credential, quote, tpm_structs
from nova_trusted_clone.tpm.base import CredentialRefusedError
from nova_trusted_clone.vtpm.issuer import rsa_key_of

HOST_PCRS = range(8)


def judge(tpm, made, data, pcrs):
    key = tpm_structs.parse_attestation_key(tpm.ak_public())
    return quote.verify_quote(
        key, made.attest, made.signature, qualifying_data=data, pcrs=tpm.read_pcrs(pcrs)
    )


class TpmContract:
    """Fixture ``tpm``: an ``EnrolmentTpm`` just powered on. ``reboot``: a function that resets
    it."""

    def test_its_quotes_hold_by_every_check(self, tpm):
        data = os.urandom(32)
        verdict, facts = judge(tpm, tpm.quote(data, HOST_PCRS), data, HOST_PCRS)
        verdict.require()
        assert facts is not None

    @pytest.mark.parametrize("pcrs", [[7], [1, 2, 3, 4, 5, 6, 7], [7, 1], [16, 23], range(24)])
    def test_any_selection_may_be_quoted(self, tpm, pcrs):
        data = os.urandom(32)
        verdict, _facts = judge(tpm, tpm.quote(data, pcrs), data, pcrs)
        verdict.require()

    def test_a_quote_is_stale_for_other_data(self, tpm):
        verdict, _facts = judge(tpm, tpm.quote(bytes(32), HOST_PCRS), b"\1" * 32, HOST_PCRS)
        assert [check.code for check in verdict.failures] == ["trusted-clone.quote.stale"]

    def test_extending_changes_one_pcr_as_the_specification_says(self, tpm):
        before = tpm.read_pcrs(range(24))
        digest = hashlib.sha256(b"event").digest()
        tpm.extend(4, digest)
        after = tpm.read_pcrs(range(24))
        assert after == {**before, 4: hashlib.sha256(before[4] + digest).digest()}

    def test_the_ak_is_one_to_trust_and_always_the_same(self, tpm, reboot):
        before = tpm.ak_public()
        tpm_structs.parse_attestation_key(before)
        reboot()
        assert tpm.ak_public() == before

    def test_a_reboot_with_the_same_measurements_shows_in_the_counters_only(self, tpm, reboot):
        facts, pcrs = [], []
        for _ in range(2):
            tpm.extend(1, b"m" * 32)
            data = os.urandom(32)
            verdict, fact = judge(tpm, tpm.quote(data, HOST_PCRS), data, HOST_PCRS)
            verdict.require()
            facts.append(fact)
            pcrs.append(tpm.read_pcrs(HOST_PCRS))
            reboot()
        assert pcrs[0] == pcrs[1]
        assert facts[0].pcr_digest == facts[1].pcr_digest
        assert not quote.require_same_boot(*facts).ok
        assert facts[1].reset_count > facts[0].reset_count

    def test_the_clock_goes_on_between_quotes_of_one_boot(self, tpm):
        data = bytes(32)
        facts = [judge(tpm, tpm.quote(data, HOST_PCRS), data, HOST_PCRS)[1] for _ in range(2)]
        assert quote.require_same_boot(*facts).ok

    def test_random_bytes_come_in_any_number_and_never_again(self, tpm):
        assert [len(tpm.random(count)) for count in (1, 32, 33, 1024)] == [1, 32, 33, 1024]
        assert tpm.random(32) != tpm.random(32)

    def test_a_credential_for_it_opens(self, tpm):
        name = tpm_structs.parse_attestation_key(tpm.ak_public()).name
        made = credential.make_credential(
            rsa_key_of(tpm.ek_public()), name, b"s" * 32, os.urandom(32)
        )
        assert tpm.activate_credential(*made) == b"s" * 32

    def test_a_credential_for_another_ak_is_refused(self, tpm):
        made = credential.make_credential(
            rsa_key_of(tpm.ek_public()), b"\x00\x0b" + bytes(32), b"s" * 32, os.urandom(32)
        )
        with pytest.raises(CredentialRefusedError):
            tpm.activate_credential(*made)
        tpm.quote(bytes(32), HOST_PCRS)  # it still works: nothing was left loaded

    @pytest.mark.parametrize(
        "made", [(b"", b""), (b"\0" * 40, b"\0" * 256), (b"\xff" * 80, b"\xff" * 256)]
    )
    def test_a_credential_that_is_none_is_refused(self, tpm, made):
        with pytest.raises(CredentialRefusedError):
            tpm.activate_credential(*made)

    def test_many_operations_leave_nothing_loaded(self, tpm):
        """A TPM has three object slots: a leak shows at once."""
        for _ in range(8):
            tpm.quote(bytes(32), HOST_PCRS)
            tpm.ak_public()

    @pytest.mark.parametrize("data", [b"", bytes(31), bytes(33)])
    def test_qualifying_data_is_a_digest(self, tpm, data):
        with pytest.raises(ValueError, match="qualifying data"):
            tpm.quote(data, HOST_PCRS)

    @pytest.mark.parametrize("pcrs", [[], [1, 1], [24], [-1]])
    def test_selections_that_are_none(self, tpm, pcrs):
        with pytest.raises(ValueError, match="PCR selection"):
            tpm.quote(bytes(32), pcrs)
        with pytest.raises(ValueError, match="PCR selection"):
            tpm.read_pcrs(pcrs)

    @pytest.mark.parametrize(("pcr", "digest"), [(24, bytes(32)), (1, bytes(20))])
    def test_extensions_that_are_none(self, tpm, pcr, digest):
        with pytest.raises(ValueError, match="PCR"):
            tpm.extend(pcr, digest)

    @pytest.mark.parametrize("count", [0, -1, 1025])
    def test_random_counts_that_are_none(self, tpm, count):
        with pytest.raises(ValueError, match="random bytes"):
            tpm.random(count)
