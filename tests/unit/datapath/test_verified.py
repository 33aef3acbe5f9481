"""The gate: what goes in, what comes out, who is woken, what is fetched next. No network, no mount."""

from __future__ import annotations

import os
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.integrity.manifest import Region, RegionTable
from nova_trusted_clone.core.integrity.segment import SegmentManifest, each_bit
from nova_trusted_clone.core.integrity.signed import sign_batch
from nova_trusted_clone.datapath import bulk
from nova_trusted_clone.datapath.errors import FrameError, StoreFailed
from nova_trusted_clone.datapath.staging import Staging
from nova_trusted_clone.datapath.verified import VerifiedRegions, Verifier

KEY = Ed25519PrivateKey.generate()
FREEZE = bytes(range(16))
RAM = Region(1, "ram", "pc.ram", 6 << 20)
DISK = Region(2, "disk", "vda", 5000)
DOMAIN = Region(3, "domain", "domain", 10)
TABLE = RegionTable([RAM, DISK, DOMAIN])
CONTENT = {
    1: os.urandom(2 << 20) + bytes(1 << 20) + os.urandom(3 << 20),
    2: os.urandom(5000),
    3: b"definition",
}


def open_regions(directory: pathlib.Path, staging: Staging | None = None) -> VerifiedRegions:
    key = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    verifier = Verifier(FREEZE, key)
    return VerifiedRegions(FREEZE, TABLE, directory, verifier, staging or Staging(directory))


def reply(request: bulk.SegmentRequest, content: bytes | None = None) -> bulk.SegmentReply:
    region, start = TABLE[request.region], request.index << 20
    data = (content or CONTENT[region.id])[start : start + region.segment_bytes(request.index)]
    manifest = SegmentManifest.of(FREEZE, region, request.index, data)
    leaves = [data[n * 4096 : (n + 1) * 4096] for n in range(manifest.leaf_count)]
    wanted = each_bit(manifest.present_bits & request.wanted_bits)
    return bulk.SegmentReply(
        region.id,
        request.index,
        sign_batch([manifest.encode()], KEY)[0],
        b"".join(leaves[n] for n in wanted),
    )


def ask(regions: VerifiedRegions, faults_only: bool = False) -> bulk.SegmentRequest:
    request = regions.next_request(faults_only, 0)
    assert request is not None
    return request


def place(request: bulk.SegmentRequest) -> tuple[int, int]:
    return request.region, request.index


def test_small_regions_first_then_ram_then_disks(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    order = [place(ask(regions)) for _ in range(8)]
    assert order == [(3, 0), *((1, n) for n in range(6)), (2, 0)]
    assert regions.next_request(False, 0) is None


def test_what_a_guest_waits_for_comes_first_and_then_its_neighbours(
    tmp_path: pathlib.Path,
) -> None:
    regions = open_regions(tmp_path)
    assert regions.next_request(True, 0) is None
    regions.wait_for(1, 3 << 20, 100, lambda: None)
    assert place(ask(regions, faults_only=True)) == (1, 3)
    assert [place(ask(regions)) for _ in range(3)] == [(1, 4), (1, 5), (3, 0)]


def test_a_lost_request_is_asked_for_again_at_once(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    lost = ask(regions)
    ask(regions)
    regions.put_back(lost)
    assert ask(regions) == lost


def test_bytes_are_served_once_they_are_verified_and_the_reader_is_woken(
    tmp_path: pathlib.Path,
) -> None:
    regions, woken = open_regions(tmp_path), []
    assert regions.read_now(2, 0, 5000) is None
    regions.wait_for(2, 0, 5000, lambda: woken.append("disk"))
    request = ask(regions, faults_only=True)
    assert woken == []
    assert regions.accept(request, reply(request)) == 0
    assert woken == ["disk"]
    assert regions.read(2, 10, 100) == CONTENT[2][10:110]
    regions.wait_for(2, 0, 10, lambda: woken.append("at once"))
    assert woken == ["disk", "at once"]


def test_everything_gives_root_and_counts(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    assert regions.summary is None
    while (request := regions.next_request(False, 0)) is not None:
        regions.accept(request, reply(request))
    summary = regions.summary
    assert summary is not None
    assert (summary[1].segments, summary[1].leaves) == (8, 6 * 256 + 2 + 1)
    assert (summary[1].zero_leaves, summary[1].bytes) == (256, (6 << 20) + 5010)
    path = regions.path_if_complete(1)
    assert path is not None and path.read_bytes() == CONTENT[1]
    # A later trouble cannot take back what is complete.
    regions.fail(StoreFailed("too late"))
    assert regions.failure is None


def test_a_subset_of_leaves_makes_only_those_readable(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    request = bulk.SegmentRequest(1, 0, 0b110)
    missing = regions.accept(request, reply(request))
    assert missing == ((1 << 256) - 1) & ~0b110
    assert regions.has(1, 4096, 8192)
    assert not regions.has(1, 4095, 2)
    assert not regions.has(1, 3 * 4096, 1)


def test_zero_pages_are_there_with_the_manifest_alone(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    request = bulk.SegmentRequest(1, 2, 0)
    assert regions.accept(request, reply(request)) == 0
    assert regions.read(1, 2 << 20, 1 << 20) == bytes(1 << 20)


def test_nothing_unverified_goes_in_and_then_nothing_comes_out(tmp_path: pathlib.Path) -> None:
    regions, woken = open_regions(tmp_path), []
    good = ask(regions)
    regions.accept(good, reply(good))
    request = bulk.SegmentRequest(1, 0, 1)
    changed = bulk.SegmentReply(1, 0, reply(request).signed, b"x" * 4096)
    regions.wait_for(1, 0, 1, lambda: woken.append(1))
    with pytest.raises(CoreError) as caught:
        regions.accept(request, changed)
    assert (tmp_path / "1" / "data").read_bytes() == bytes(6 << 20)
    regions.fail(caught.value, distrust=True)
    assert woken == [1]
    for region, offset in ((1, 0), (3, 0)):
        with pytest.raises(StoreFailed, match="leaf 0"):
            regions.read_now(region, offset, 1)
    with pytest.raises(StoreFailed):
        regions.next_request(False, 0)


def test_after_a_lost_network_verified_pages_are_still_served(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    request = ask(regions)
    regions.accept(request, reply(request))
    regions.fail(StoreFailed("away", code="trusted-clone.store.network"))
    assert regions.read_now(3, 0, 10) == b"definition"
    with pytest.raises(StoreFailed, match="away"):
        regions.read_now(1, 0, 1)


def test_a_reply_to_another_request_is_refused(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    request = bulk.SegmentRequest(1, 0, 1)
    with pytest.raises(FrameError, match="asked for region 1 segment 0"):
        regions.accept(request, reply(bulk.SegmentRequest(1, 1, 1)))


def test_two_manifests_for_one_segment_are_refused(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    first, second = bulk.SegmentRequest(1, 0, 1), bulk.SegmentRequest(1, 0, 2)
    regions.accept(first, reply(first))
    with pytest.raises(CoreError, match="two different manifests"):
        regions.accept(second, reply(second, os.urandom(6 << 20)))


def test_kept_pages_are_found_again(tmp_path: pathlib.Path) -> None:
    regions = open_regions(tmp_path)
    for _ in range(4):
        request = ask(regions)
        regions.accept(request, reply(request))
    regions.close()
    again = open_regions(tmp_path)
    assert again.progress() == {1: 3 * 256, 2: 0, 3: 1}
    while (request := again.next_request(False, 0)) is not None:
        again.accept(request, reply(request))
    assert again.summary is not None


def test_staged_leaves_are_taken_where_they_are_the_signed_ones(tmp_path: pathlib.Path) -> None:
    staging = Staging(tmp_path)
    staging.prepare(RegionTable([DISK]))
    staging.keep(DISK, 0, CONTENT[2][:4096] + b"other" + CONTENT[2][4101:])
    regions = open_regions(tmp_path, staging)
    regions.wait_for(2, 0, 1, lambda: None)
    request = ask(regions, faults_only=True)
    assert request.wanted_bits == 0
    assert regions.accept(request, reply(request)) == 0b10
    assert regions.read(2, 0, 4096) == CONTENT[2][:4096]
    assert not regions.has(2, 4096, 1)
    rest = bulk.SegmentRequest(2, 0, 0b10)
    assert regions.accept(rest, reply(rest)) == 0
    assert regions.read(2, 0, 5000) == CONTENT[2]
    staging.close()
