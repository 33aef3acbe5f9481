"""vTPMs that the host keeps for its domains."""

from __future__ import annotations

import pytest

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms
from nova_trusted_clone.ports import VtpmBlobs

UUID = "11111111-2222-3333-4444-555555555555"
BLOBS = VtpmBlobs(b"permanent", b"volatile", b"")


def test_a_vtpm_is_kept_until_its_domain_is_no_more(tmp_path):
    vtpms = HostVtpms(tmp_path / "vtpms")
    assert vtpms.read(UUID) is None and not vtpms.has(UUID)
    vtpms.keep(UUID, BLOBS)
    assert vtpms.has(UUID) and vtpms.read(UUID) == BLOBS
    vtpms.forget(UUID)
    vtpms.forget(UUID)
    assert not vtpms.has(UUID)


def test_nobody_else_reads_it(tmp_path):
    HostVtpms(tmp_path / "vtpms").keep(UUID, BLOBS)
    assert (tmp_path / "vtpms" / UUID).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "vtpms").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("raw", [b"", b"\x83", b"\x82\x40\x40", b"\x83\x40\x40\x01", b"\xff" * 40])
def test_a_file_that_is_none_says_nothing_of_what_is_in_it(tmp_path, raw):
    vtpms = HostVtpms(tmp_path)
    (tmp_path / UUID).write_bytes(raw)
    with pytest.raises(MalformedState, match="not a vTPM's state"):
        vtpms.read(UUID)


@pytest.mark.parametrize("name", ["../../etc/shadow", "", UUID.upper() + "x", "a" * 300])
def test_a_name_is_a_uuid(tmp_path, name):
    with pytest.raises(MalformedState, match="not a UUID"):
        HostVtpms(tmp_path).has(name)
