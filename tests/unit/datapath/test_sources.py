"""Regions in files."""

from __future__ import annotations

import pytest

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.datapath.sources import FileSource


def test_two_regions_lie_in_one_file(tmp_path):
    path = tmp_path / "memory"
    path.write_bytes(b"a" * SEGMENT_BYTES + b"b" * SEGMENT_BYTES + b"c" * 4096)
    source = FileSource(Region(1, "ram", "0x100", SEGMENT_BYTES + 4096), path, SEGMENT_BYTES)
    assert source.read(0) == b"b" * SEGMENT_BYTES
    assert source.read(1) == b"c" * 4096
    source.close()


def test_a_file_that_ends_before_the_region_does(tmp_path):
    path = tmp_path / "memory"
    path.write_bytes(b"a" * 5000)
    source = FileSource(Region(1, "ram", "0x1", 4096), path, 4096)
    with pytest.raises(SourceGone, match="904 bytes of 4096"):
        source.read(0)
    source.close()
