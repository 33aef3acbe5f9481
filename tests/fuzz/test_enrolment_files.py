"""Whatever stands in a file of an enrolment or in a state blob, only the layer's own error comes
out."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_trusted_clone.clone.enrolment_files import Challenge, Grant, Request, Response
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.vtpm.base import VtpmStateError
from nova_trusted_clone.vtpm.blobs import platform_authorization, require_blob

KINDS = [Request, Challenge, Response, Grant]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=300))
def test_any_bytes(kind, data):
    with contextlib.suppress(CoreError):
        kind.decode(data)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_the_right_keys_with_any_values(kind, data):
    fields = ["host_id", *kind.__dataclass_fields__]
    raw = {field: data.draw(JSON) for field in fields}
    raw["format"] = f"trusted-clone-enrolment-{kind.KIND}/1"
    raw["host_id"] = data.draw(st.sampled_from(["host-a", "", "../x", 3]))
    with contextlib.suppress(CoreError):
        kind.decode(json.dumps(raw).encode())


@given(st.binary(max_size=200))
def test_any_blob(data):
    with contextlib.suppress(VtpmStateError):
        require_blob("volatile", data)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_volatile_state(before, after):
    with contextlib.suppress(VtpmStateError):
        platform_authorization(before + bytes.fromhex("98897667") + after)
