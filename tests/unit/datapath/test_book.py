"""Each segment is signed once, and the root is the one that the store computes."""

from __future__ import annotations

import os
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.leaf import Buffer
from nova_trusted_clone.core.integrity.manifest import Counts, ManifestRoot, Region, RegionTable
from nova_trusted_clone.core.integrity.segment import SignedManifest
from nova_trusted_clone.datapath.book import Book, sealer
from nova_trusted_clone.datapath.errors import SourceGone

FREEZE = bytes(range(16))
REGION = Region(1, "ram", "a", (2 << 20) + 5)
TABLE = RegionTable([REGION])
DATA = os.urandom(1 << 20) + bytes(1 << 20) + b"short"


class CountingSeal:
    """Seals, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0
        self._seal = sealer(FREEZE, Ed25519PrivateKey.generate())

    def __call__(self, region: Region, index: int, data: Buffer) -> SignedManifest:
        self.calls += 1
        return self._seal(region, index, data)


def part(index: int) -> bytes:
    return DATA[index << 20 : (index + 1) << 20]


def test_a_segment_is_signed_once(tmp_path: pathlib.Path) -> None:
    seal = CountingSeal()
    book = Book(FREEZE, TABLE, tmp_path, seal)
    assert book.signed(REGION, 1, None) is None
    first = book.signed(REGION, 1, part(1))
    assert book.signed(REGION, 1, None) == book.signed(REGION, 1, part(1)) == first
    assert seal.calls == 1
    assert list(tmp_path.iterdir()) == []
    book.close()


def test_the_signer_walks_over_what_is_missing_and_gives_the_root(tmp_path: pathlib.Path) -> None:
    book = Book(FREEZE, TABLE, tmp_path, CountingSeal())
    digests = {1: book.signed(REGION, 1, part(1))}
    while (place := book.next_unknown()) is not None:
        assert book.root() is None
        digests[place[1]] = book.signed(REGION, place[1], part(place[1]))
    root = ManifestRoot(FREEZE, TABLE)
    root.add_region(REGION, [d.digest for _, d in sorted(digests.items()) if d is not None])
    assert book.root() == (root.digest(), Counts(3, 513, 256, len(DATA)))
    book.close()


def test_a_source_that_changes_is_found_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book(FREEZE, TABLE, tmp_path, CountingSeal())

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    # Without room for manifests each is made anew, and must be what it was.
    monkeypatch.setattr(os, "pwrite", full)
    first = book.signed(REGION, 0, part(0))
    assert book.signed(REGION, 0, part(0)) == first
    with pytest.raises(SourceGone, match="not what it was"):
        book.signed(REGION, 0, part(1))
    book.close()
