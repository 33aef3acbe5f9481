"""State blobs: what is whole, and where the firmware's authorization stands."""

import struct

import pytest

from nova_trusted_clone.ports import VtpmBlobs
from nova_trusted_clone.vtpm.base import MAX_BLOB, VtpmStateError
from nova_trusted_clone.vtpm.blobs import platform_authorization, require_blob, require_blobs


def blob(body=b"state", *, version=2, header=10, flags=4, total=None):
    return struct.pack(">BBHHI", version, 1, header, flags, total or 10 + len(body)) + body


def volatile(auth=b"", policy=b"", enabled=(1, 1, 1), tail=b"pcrs"):
    head = bytes.fromhex("98897667") + b"\0\1" + bytes(enabled) + b"\0\x10"
    fields = struct.pack(">H", len(policy)) + policy + struct.pack(">H", len(auth)) + auth
    return b"something before" + head + fields + tail


def test_a_whole_blob_is_good():
    require_blob("permanent", blob())
    require_blobs(VtpmBlobs(blob(), blob()))
    require_blobs(VtpmBlobs(blob(), blob(), blob()))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"", "0 bytes"),
        (blob(b""), "10 bytes"),
        (b"x" * (MAX_BLOB + 1), "expected up to"),
        (blob()[:-1], "header says"),
        (blob() + b"x", "header says"),
        (blob(version=3), "format 3"),
        (blob(header=12), "header says"),
        (blob(flags=1), "flags 0x0001, expected it not encrypted"),
        (blob(flags=6), "flags 0x0006, expected it not encrypted"),
    ],
)
def test_what_is_not_whole_is_named(bad, said):
    with pytest.raises(VtpmStateError, match=f"volatile state: .*{said}"):
        require_blob("volatile", bad)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (4, "flags 0x0004, expected it by the passphrase"),
        (0x17, "flags 0x0017, expected it by the passphrase"),  # by the files' key besides
    ],
)
def test_encrypted_state_is_what_was_expected(flags, said):
    require_blob("volatile", blob(flags=0x16), encrypted=True)
    with pytest.raises(VtpmStateError, match=said):
        require_blob("volatile", blob(flags=flags), encrypted=True)


@pytest.mark.parametrize("position", range(3))
def test_each_of_the_three_is_checked(position):
    three = [blob(), blob(), blob()]
    three[position] = b"short"
    with pytest.raises(VtpmStateError):
        require_blobs(VtpmBlobs(*three))


@pytest.mark.parametrize("auth", [b"", b"a", bytes(range(32)), b"x" * 64])
@pytest.mark.parametrize("policy", [b"", b"p" * 32])
def test_the_platforms_authorization_is_found(auth, policy):
    assert platform_authorization(volatile(auth, policy)) == auth


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"nothing of it",
        volatile()[:24],
        volatile(b"a" * 32, tail=b"")[:-1],
        volatile(b"a" * 65),
        volatile(enabled=(1, 2, 1)),
    ],
)
def test_an_unknown_layout_is_refused_not_guessed(bad):
    with pytest.raises(VtpmStateError):
        platform_authorization(bad)
