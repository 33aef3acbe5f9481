"""One message, one form: every other is refused with the field's name."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import cbor2
import pytest

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.cborscan import scan
from nova_trusted_clone.core.protocol.wire import Message, Nested, Record, decode
from nova_trusted_clone.core.protocol.wiretypes import (
    Choice,
    Many,
    Octets,
    PcrValues,
    Row,
    Text,
    Uint,
)


@dataclasses.dataclass(frozen=True)
class Inner(Record):
    number: Annotated[int, Uint(1, 9)]


@dataclasses.dataclass(frozen=True)
class Sample(Message):
    LABEL: ClassVar[str] = "trusted-clone/1/sample"
    nonce: Annotated[bytes, Octets(2)]
    name: Annotated[str, Text("[a-z]+", 4)]
    mode: Annotated[str, Choice(("a", "b"))]
    rows: Annotated[tuple[tuple[str, int], ...], Many(Row((Text("[a-z]+", 4), Uint())), 0, 2)]
    pcrs: Annotated[dict[int, bytes], PcrValues((1, 2))]
    inner: Annotated[Inner, Nested(Inner)]


GOOD = Sample(b"nn", "ab", "a", (("x", 5),), {1: bytes(32), 2: bytes(32)}, Inner(3))
PLAIN: dict[str, Any] = cbor2.loads(GOOD.encode())


def raw(**changes: Any) -> bytes:
    return cbor2.dumps({**PLAIN, **changes}, canonical=True)


def test_a_message_comes_back_as_it_was() -> None:
    assert Sample.decode(GOOD.encode()) == GOOD


def test_its_bytes_are_deterministic_cbor() -> None:
    assert GOOD.encode().hex() == (
        "a7"
        "646d6f6465" "6161"
        "646e616d65" "626162"
        "6470637273" "a2" "015820" + "00" * 32 + "025820" + "00" * 32 +
        "64726f7773" "81" "82" "6178" "05"
        "65696e6e6572" "a1" "666e756d626572" "03"
        "656e6f6e6365" "426e6e"
        "676d657373616765" "76" + b"trusted-clone/1/sample".hex()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (raw(nonce=b"n"), "sample.nonce: found 1 bytes"),
        (raw(nonce="nn"), "sample.nonce: found str"),
        (raw(name="ABC"), "sample.name"),
        (raw(name="abcde"), "sample.name"),
        (raw(name="ab\n"), "sample.name"),
        (raw(mode="c"), "sample.mode"),
        (raw(rows=[["x", 1]] * 3), "sample.rows: found 3 items"),
        (raw(rows=[["x"]]), r"sample.rows\[0\]: expected a list of 2"),
        (raw(rows=[["x", "y"]]), r"sample.rows\[0\]\[1\]"),
        (raw(rows={}), "sample.rows: found dict"),
        (raw(pcrs={1: bytes(32)}), r"sample.pcrs: found PCR \[1\]"),
        (raw(pcrs={1: bytes(32), 2: bytes(31)}), r"sample.pcrs\[2\]"),
        (raw(pcrs={"1": bytes(32)}), "sample.pcrs"),
        (raw(inner={"number": 0}), "sample.inner.number: found 0"),
        (raw(inner={"number": 3, "x": 1}), "sample.inner: found"),
        (raw(inner={}), "sample.inner: found"),
        (raw(surprise=1), "sample: found"),
        (raw(message="trusted-clone/1/other"), "found message"),
        (raw(message=5), "found message"),
        (cbor2.dumps([1]), "found message"),
        (cbor2.dumps(dict(reversed(PLAIN.items()))), "deterministic"),
        (GOOD.encode() + b"\0", "1 bytes follow"),
        (GOOD.encode()[:-1], "in the middle"),
        (GOOD.encode().replace(b"\x81\x82", b"\x81\x98\x02"), "deterministic"),
        (b"", "in the middle"),
        (bytes((1 << 20) + 1), "at most"),
    ],
)
def test_any_other_form_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(MalformedInput, match=said):
        Sample.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x60",  # a tag
        b"\xf9\x00\x00",  # a float
        b"\xf5",  # true
        b"\xf6",  # null
        b"\x20",  # -1
        b"\x9f\xff",  # an indefinite list
        b"\x5f\xff",  # indefinite bytes
        b"\x1c",  # a reserved length
        b"\x9b" + b"\xff" * 8,  # a list longer than the world
        b"\xbb" + b"\x7f" * 8,
        b"\x5b" + b"\xff" * 8,
        b"\x81\x81\x81\x81\x81\x00",  # five levels
        b"\xa1\x00",
    ],
)
def test_what_no_message_has_is_refused_before_the_library_sees_it(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        scan(data, "test")


def test_four_levels_are_enough_and_allowed() -> None:
    scan(b"\x81\x81\x81\x81\x00", "test")


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": b""},
        {"nonce": bytearray(b"nn")},
        {"name": None},
        {"rows": "xy"},
        {"pcrs": {1: bytes(32)}},
        {"inner": None},
    ],
)
def test_nothing_bad_is_sent_either(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        dataclasses.replace(GOOD, **changes).encode()


def test_true_is_no_number() -> None:
    with pytest.raises(MalformedInput, match="found bool"):
        Inner(True).to_plain("inner")


def test_a_message_is_one_of_the_kinds_asked_for() -> None:
    assert decode((Sample,), GOOD.encode()) == GOOD
    with pytest.raises(MalformedInput) as caught:
        decode((), GOOD.encode())
    assert caught.value.code == "trusted-clone.message.kind"
