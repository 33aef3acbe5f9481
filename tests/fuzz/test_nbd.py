"""Whatever an NBD server answers: the client ends with its own error or has exactly what it asked for."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from nova_trusted_clone.hypervisor.qemu.nbd import NbdError
from tests.unit.hypervisor.nbdserver import chunk
from tests.unit.hypervisor.test_nbd import conversation

CHUNKS = st.builds(
    chunk,
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1, 2, 5, 0x8001, 77]),
    st.one_of(
        st.binary(max_size=64), st.integers(0, 8192).map(lambda n: struct.pack(">Q", n) + bytes(n))
    ),
    st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(CHUNKS, st.binary(max_size=40)), max_size=5))
def test_reads(answers: list[bytes]) -> None:
    with contextlib.suppress(NbdError):
        assert len(conversation(*answers).read(0, 4096)) == 4096


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(CHUNKS, st.binary(max_size=40)), max_size=5))
def test_block_status(answers: list[bytes]) -> None:
    with contextlib.suppress(NbdError):
        assert conversation(*answers).zero(0, 4096) in (True, False)
