"""The software TPM keeps the contract."""

import pytest

from nova_trusted_clone.tpm.base import NoEkCertificateError
from nova_trusted_clone.tpm.fake import SoftwareTpm, shared_keys
from tests.unit.tpm.contract import TpmContract


class TestSoftwareTpm(TpmContract):
    @pytest.fixture
    def tpm(self):
        return SoftwareTpm(shared_keys("contract"), certificate=b"certificate")

    @pytest.fixture
    def reboot(self, tpm):
        return tpm.reboot


def test_without_a_certificate_it_says_so():
    with pytest.raises(NoEkCertificateError):
        SoftwareTpm(shared_keys("contract")).ek_certificate()
