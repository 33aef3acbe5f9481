"""A measured boot: the log replays to the very PCRs of the TPM that was extended by it."""

from nova_trusted_clone.core.attest import eventlog
from nova_trusted_clone.tpm.bootlog import Machine, events, measure_boot
from nova_trusted_clone.tpm.fake import SoftwareTpm, shared_keys


def boot(machine):
    tpm = SoftwareTpm(shared_keys("boot"))
    log = measure_boot(tpm, events(machine))
    return tpm.read_pcrs(range(8)), log


def test_the_log_leads_to_the_tpms_pcrs():
    values, log = boot(Machine())
    told = eventlog.replay(eventlog.parse(log))
    assert {pcr: told[pcr] for pcr in range(8)} == values
    assert len(set(values.values())) > 4


def test_two_machines_of_one_model_differ_in_pcr_1_alone():
    one, other = boot(Machine(serial="1"))[0], boot(Machine(serial="2"))[0]
    assert [pcr for pcr in range(8) if one[pcr] != other[pcr]] == [1]


def test_a_machine_without_secure_boot_differs_in_pcr_7_alone():
    one, other = boot(Machine())[0], boot(Machine(secure_boot=False))[0]
    assert [pcr for pcr in range(8) if one[pcr] != other[pcr]] == [7]


def test_other_firmware_shows_in_pcr_0_alone():
    one, other = boot(Machine())[0], boot(Machine(firmware="1.1"))[0]
    assert [pcr for pcr in range(8) if one[pcr] != other[pcr]] == [0]
