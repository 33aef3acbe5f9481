"""Each segment is signed once, and the root is the one that the store computes."""

from __future__ import annotations

import os
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.manifest import Counts, ManifestRoot, Region, RegionTable
from nova_trusted_clone.core.integrity.signed import PageKey, SignedManifest
from nova_trusted_clone.datapath.book import Book, Sealer
from nova_trusted_clone.datapath.errors import SourceGone

FREEZE = bytes(range(16))
REGION = Region(1, "ram", "a", (2 << 20) + 5)
TABLE = RegionTable([REGION])
DATA = os.urandom(1 << 20) + bytes(1 << 20) + b"short"


KEY = Ed25519PrivateKey.generate()
SEALER = Sealer.of(FREEZE, KEY)


def part(index: int) -> bytes:
    return DATA[index << 20 : (index + 1) << 20]


def signed(book: Book, *indices: int) -> list[SignedManifest]:
    return book.sign([book.draft(REGION, index, part(index)) for index in indices])


def test_a_segment_is_signed_once(tmp_path: pathlib.Path) -> None:
    book = Book(FREEZE, TABLE, tmp_path, SEALER)
    assert book.signed(REGION, 1) is None
    (first,) = signed(book, 1)
    assert book.signed(REGION, 1) == first
    assert list(tmp_path.iterdir()) == []
    book.close()


def test_segments_that_are_sent_together_share_a_signature(tmp_path: pathlib.Path) -> None:
    book = Book(FREEZE, TABLE, tmp_path, SEALER)
    together = signed(book, 0, 1, 2)
    assert len({one.signature for one in together}) == len({one.root for one in together}) == 1
    key = PageKey(KEY.public_key().public_bytes_raw())
    assert all(key.has_signed(book.signed(REGION, index) or together[0]) for index in range(3))
    # Drawn up again, alone, it is the same manifest: the root of the freeze does not change.
    (again,) = signed(book, 2)
    assert again.signature != together[2].signature
    assert again.digest == together[2].digest
    assert book.root() is not None
    book.close()


def test_the_signer_walks_over_what_is_missing_and_gives_the_root(tmp_path: pathlib.Path) -> None:
    book = Book(FREEZE, TABLE, tmp_path, SEALER)
    digests = {1: signed(book, 1)[0].digest}
    while (place := book.next_unknown()) is not None:
        assert book.root() is None
        digests[place[1]] = signed(book, place[1])[0].digest
    root = ManifestRoot(FREEZE, TABLE)
    root.add_region(REGION, [digest for _, digest in sorted(digests.items())])
    assert book.root() == (root.digest(), Counts(3, 513, 256, len(DATA)))
    book.close()


def test_a_source_that_changes_is_found_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book(FREEZE, TABLE, tmp_path, SEALER)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    # Without room for manifests each is made anew, and must be what it was.
    monkeypatch.setattr(os, "pwrite", full)
    first = signed(book, 0)
    assert book.signed(REGION, 0) is None
    assert signed(book, 0) == first
    with pytest.raises(SourceGone, match="not what it was"):
        book.sign([book.draft(REGION, 0, part(1))])
    book.close()
