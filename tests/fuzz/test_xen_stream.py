"""Whatever a saved domain's bytes are: they are read, or refused with a typed error."""

from __future__ import annotations

import contextlib
import io
import pathlib
import tempfile

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen import compose, saveimage, stream
from nova_trusted_clone.hypervisor.xen.capture import Capture
from nova_trusted_clone.hypervisor.xen.records import PAGE, Guest, Libxc
from nova_trusted_clone.hypervisor.xen.state import DomainState, Range, Run
from tests.unit.hypervisor import test_xen_stream as unit

SMALL = {
    "HVM": DomainState(
        Guest.HVM,
        (4, 17),
        (Range(0, 3), Range(0xFEFF8, 1)),
        (Run(0, 2, 0), Run(2, 1, 14), Run(0xFEFF8, 1, 0)),
        unit.pvh().head,
        unit.pvh().tail,
        unit.pvh().emulator,
    ),
    "PV": DomainState(
        Guest.PV,
        (4, 17),
        (Range(0, 3),),
        (Run(0, 2, 0), Run(2, 1, 4)),
        unit.pv().head,
        ((Libxc.SHARED_INFO, bytes(64)),),
        (),
    ),
}
RAW = {kind: unit.raw_stream(state) for kind, state in SMALL.items()}


def read(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        capture = Capture(pathlib.Path(name) / "memory")
        try:
            with contextlib.suppress(MalformedState):
                stream.read(io.BytesIO(raw), capture)
                state = capture.state(0)
                assert DomainState.decode(state.encode()) == state
                parts = compose.stream(state, lambda _first, count: bytes(count * PAGE))
                assert all(isinstance(part, bytes) for part in parts)
        finally:
            capture.close()


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_random_bytes(raw: bytes) -> None:
    read(raw)


@pytest.mark.parametrize("kind", sorted(RAW))
@settings(deadline=None)
@given(data=st.data())
def test_flipped_and_cut_bytes(kind: str, data: st.DataObject) -> None:
    raw = bytearray(RAW[kind])
    # The headers and records at both ends, rather than the pages between.
    places = st.one_of(st.integers(0, 200), st.integers(len(raw) - 1300, len(raw) - 1))
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(places)] = data.draw(st.integers(0, 255))
    read(
        bytes(raw[: data.draw(st.integers(0, len(raw)))])
        if data.draw(st.booleans())
        else bytes(raw)
    )


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_page_records(body: bytes, length: int, count: int) -> None:
    raw = RAW["HVM"]
    at = raw.index(stream.RECORD.pack(Libxc.PAGE_DATA, 8 + 2 * (8 + PAGE)))
    read(
        raw[:at] + stream.RECORD.pack(Libxc.PAGE_DATA, length) + count.to_bytes(4, "little") + body
    )


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.binary(max_size=8), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_states(raw: bytes) -> None:
    with contextlib.suppress(MalformedState):
        DomainState.decode(raw)


@settings(deadline=None)
@given(st.sampled_from(("guest", "version", "ranges", "runs", "head", "tail", "emulator")), TREES)
def test_states_with_another_field(name: str, value: object) -> None:
    rows = cbor2.loads(SMALL["HVM"].encode())
    with contextlib.suppress(MalformedState):
        DomainState.decode(cbor2.dumps({**rows, name: value}))


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_xl_headers(raw: bytes) -> None:
    for whole in (raw, saveimage.XL_MAGIC + raw):
        with contextlib.suppress(MalformedState):
            saveimage.skip_xl_header(io.BytesIO(whole))
