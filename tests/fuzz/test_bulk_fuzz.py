"""Whatever comes over the line or the control socket: a typed error, never another one."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from nova_trusted_clone.datapath import bulk, control
from nova_trusted_clone.datapath.errors import FrameError
from tests.unit.datapath.test_bulk import Line

KINDS = st.sampled_from(sorted(bulk.Kind))
FRAMES = st.builds(
    lambda kind, body, wrong: bulk.HEADER.pack(kind, max(0, len(body) + wrong)) + body,
    KINDS,
    st.binary(max_size=200),
    st.sampled_from([0, 0, 0, -1, 1, 1 << 20]),
)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=100) | FRAMES)
def test_any_request(raw: bytes) -> None:
    with contextlib.suppress(FrameError, ConnectionResetError):
        request = bulk.read_request(Line(raw, step=1000))
        assert raw.startswith(bulk.encode_request(request))


READER = bulk.ReplyReader(Line())


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=100) | FRAMES)
def test_any_reply(raw: bytes) -> None:
    READER._stream = Line(raw, step=1000)
    with contextlib.suppress(FrameError, ConnectionResetError):
        READER.read()


FIELDS = {
    "text": control.TEXT,
    "number": control.NUMBER,
    "base64": control.BASE64,
    "hex": control.HEX,
    "list": control.LIST,
    "seconds": control.optional(control.SECONDS),
}
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=300, deadline=None)
@given(VALUES | st.dictionaries(st.sampled_from([*FIELDS, "other"]), VALUES))
def test_any_arguments(value: object) -> None:
    with contextlib.suppress(control.FieldError):
        arguments = control.decode_arguments("op", FIELDS, value)
        assert set(FIELDS) - {"seconds"} <= set(arguments) <= set(FIELDS)
