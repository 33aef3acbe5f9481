"""The adapter on a real TPM 2.0 implementation: the contract, and sharing one TPM between
processes."""

import concurrent.futures
import os
import subprocess
import sys
import time

import pytest
from cryptography import x509
from tpm2_pytss import ESYS_TR

from nova_trusted_clone.core.attest import credential, tpm_structs
from nova_trusted_clone.tpm.base import (
    NoEkCertificateError,
    TpmBusyError,
    TpmError,
    TpmUnreachableError,
)
from nova_trusted_clone.tpm.esys import EsysTpm
from tests.integration.software_hardware import (
    PoweredTpm,
    make_maker,
    manufacture,
    short_directory,
)
from tests.unit.tpm.contract import TpmContract

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def directory():
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module", params=["rsa", "ecc"])
def machine(request, directory):
    state = directory / request.param
    manufacture(state, make_maker(directory / "maker"), ecc=request.param == "ecc")
    powered = PoweredTpm(state)
    yield powered
    powered.off()


@pytest.fixture
def tpm(machine):
    machine.reboot()
    return EsysTpm(machine.transport)


@pytest.fixture
def reboot(machine):
    return machine.reboot


class TestEsysTpm(TpmContract):
    @pytest.fixture
    def machine(self, directory):
        state = directory / "contract"
        if not state.exists():
            manufacture(state, make_maker(directory / "maker"))
        powered = PoweredTpm(state)
        yield powered
        powered.off()


def test_the_ek_is_the_one_of_its_certificate(tpm):
    certificate = x509.load_der_x509_certificate(tpm.ek_certificate())
    numbers = certificate.public_key().public_numbers()
    modulus_or_y = getattr(numbers, "n", None) or numbers.y
    assert tpm.ek_public().endswith(modulus_or_y.to_bytes((modulus_or_y.bit_length() + 7) // 8))


def test_a_credential_opens_for_either_kind_of_ek(tpm):
    key = x509.load_der_x509_certificate(tpm.ek_certificate()).public_key()
    name = tpm_structs.parse_attestation_key(tpm.ak_public()).name
    made = credential.make_credential(key, name, b"secret", os.urandom(32))
    assert tpm.activate_credential(*made) == b"secret"


def test_threads_and_a_second_process_take_turns(tpm, machine):
    """swtpm serves one connection: without turns, the second would wait for ever."""
    code = (
        "import sys; from nova_trusted_clone.tpm.esys import EsysTpm\n"
        "for _ in range(20): EsysTpm(sys.argv[1]).quote(bytes(32), range(8))"
    )
    other = subprocess.Popen([sys.executable, "-c", code, machine.transport])

    def quote(_number: int) -> None:
        for _ in range(10):
            EsysTpm(machine.transport).quote(bytes(32), range(8))

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        list(threads.map(quote, range(3)))  # raises what a thread raised
    assert other.wait(30) == 0


def test_whoever_holds_it_too_long_is_named(tpm, machine):
    with tpm.batch():
        waiting = EsysTpm(machine.transport, lock_wait_s=0.1)
        started = time.monotonic()
        with pytest.raises(TpmBusyError, match="held by another process"):
            waiting.random(8)
        assert time.monotonic() - started < 2
    assert len(waiting.random(8)) == 8


def test_a_tpm_that_dies_in_between_is_unreachable_not_silent(tpm, machine):
    try:
        with pytest.raises(TpmUnreachableError), tpm.batch():
            machine.off()
            tpm.random(8)
        with pytest.raises(TpmUnreachableError):
            tpm.random(8)
    finally:
        machine.reboot()


def test_a_refused_command_is_a_tpm_error_and_leaves_it_usable(tpm):
    with pytest.raises(TpmError), tpm.batch() as esys:
        esys.pcr_reset(ESYS_TR.PCR0)  # needs a dynamic launch
    assert len(tpm.random(4)) == 4


@pytest.mark.parametrize("transport", ["", "device:", "tcp:/x", "swtpm:relative", "/dev/tpm0"])
def test_transports_that_are_none(transport):
    with pytest.raises(ValueError, match="TPM transport"):
        EsysTpm(transport)


def test_nobody_there():
    with pytest.raises(TpmUnreachableError):
        EsysTpm("swtpm:/run/nobody/data").random(4)
    with pytest.raises(TpmUnreachableError):
        EsysTpm("device:/dev/no-such-tpm").random(4)


def test_libtss2_is_silent():
    assert os.environ["TSS2_LOG"] == "all+none"


def test_a_tpm_without_ek_certificate_says_so(directory):
    state = directory / "bare"
    state.mkdir()
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", "sha256"],
        check=True,
        capture_output=True,
    )
    powered = PoweredTpm(state)
    try:
        with pytest.raises(NoEkCertificateError, match="0x01c00002"):
            EsysTpm(powered.transport).ek_certificate()
    finally:
        powered.off()
