"""The C module and hashlib must give the same digests; both must give SHA-256."""

from __future__ import annotations

import hashlib
import random
import threading

import pytest

from nova_trusted_clone.core.integrity import leaf

LENGTHS = [0, 1, 63, 64, 4095, 4096, 4097, 8192, 16 * 4096 + 55, 17 * 4096 + 56, 1 << 20]


def content(length: int) -> bytes:
    chooser = random.Random(length)
    data = bytearray(chooser.randbytes(length))
    for index in range(0, leaf.leaf_count(length), 3):
        data[index * 4096 : (index + 1) * 4096] = bytes(
            len(data[index * 4096 : (index + 1) * 4096])
        )
    return bytes(data)


@pytest.mark.parametrize("length", LENGTHS)
def test_both_implementations_give_the_same(length: int) -> None:
    data = content(length)
    assert leaf.hash_leaves(data) == leaf.hash_leaves_by_hashlib(data)
    assert leaf.zero_bitmap(data) == leaf.zero_bitmap_by_hashlib(data)
    assert leaf.digest_segment(data) == leaf.digest_segment_by_hashlib(data)


def test_a_digest_is_sha256_of_its_leaf() -> None:
    data = content(3 * 4096 + 7)
    digests = leaf.hash_leaves(memoryview(bytearray(data)))
    assert digests[32:64] == hashlib.sha256(data[4096:8192]).digest()
    assert digests[-32:] == hashlib.sha256(data[-7:]).digest()


def test_zero_leaves_are_named_and_not_hashed() -> None:
    data = bytes(4096) + b"\1" + bytes(4095) + bytes(100)
    bitmap, digests = leaf.digest_segment(data)
    assert bitmap == bytes([0b101])
    assert digests == hashlib.sha256(data[4096:8192]).digest()


def test_one_byte_anywhere_makes_a_leaf_not_zero() -> None:
    for place in (0, 1, 63, 64, 4032, 4095):
        data = bytearray(4096)
        data[place] = 1
        assert leaf.zero_bitmap(data) == b"\0"


def test_threads_hash_at_the_same_time_and_do_not_disturb_each_other() -> None:
    wrong = []

    def work(seed: int) -> None:
        data = random.Random(seed).randbytes(64 * 4096)
        expected = leaf.hash_leaves_by_hashlib(data)
        wrong.extend(seed for _ in range(30) if leaf.hash_leaves(data) != expected)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_implementation_has_a_name() -> None:
    assert leaf.implementation() in ("ipsec-mb", "openssl", "hashlib")
