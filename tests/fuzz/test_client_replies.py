"""Whatever a cloud replies, the client has a checked value or one error, and a terminal is safe."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_trusted_clone.client import replies
from nova_trusted_clone.client.osc import columns
from nova_trusted_clone.client.values import Clone, Created
from nova_trusted_clone.core import terminal
from nova_trusted_clone.core.errors import MalformedInput
from tests.fuzz.mutation import mutated

ID = "8f2bd6a1-7fd0-4d0b-8e0f-0e5a8d8f2b11"
RECORD: dict[str, Any] = {
    "id": ID,
    "server_id": ID,
    "source_id": ID,
    "name": "web-1",
    "phase": "fetching",
    "reason": None,
    "progress": {"bytes_verified": 1, "bytes_total": 2, "rate_bytes_s": 3.5},
    "pause_us": 23000,
    "attempts": [{"host": "b", "reason": "no", "code": "x", "ended_at": "then"}],
    "lineage": [ID],
}
CREATED = {
    "group": "ab" * 16,
    "nonce": "00" * 16,
    "servers": [{"id": ID, "name": "web-1"}],
    "clones": [{"id": ID, "server_id": ID}],
}
GOOD = {
    replies.record: {"trusted_clone": RECORD},
    replies.records: {"trusted_clones": [RECORD]},
    replies.created: {"trusted_clones": CREATED},
    replies.evidence: {"evidence": {"format": "trusted-clone-evidence/1", "messages": {}}},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def require_harmless(value: Any) -> None:
    """What comes out can be printed anywhere, as a table and as JSON."""
    if isinstance(value, Clone):
        shown = columns.shown(value)
        require_harmless([str(field) for field in shown.values()])
        json.dumps(dataclasses.asdict(value))
    elif isinstance(value, Created):
        require_harmless(list(value.clones))
    elif isinstance(value, tuple | list):
        for item in value:
            require_harmless(item)
    elif isinstance(value, str):
        value.encode()
        commands = {char for char in value if unicodedata.category(char) == "Cc"}
        assert commands <= {"\n"}  # between attempts, in a cell of a table


@pytest.mark.parametrize("parse", GOOD, ids=lambda parse: parse.__name__)
@given(data=st.data())
def test_good_replies_with_something_changed(parse, data):
    raw = data.draw(mutated(json.dumps(GOOD[parse]).encode()))
    with contextlib.suppress(MalformedInput):
        require_harmless(parse(raw))


@given(data=st.data())
def test_a_record_with_any_values(data):
    field = data.draw(st.sampled_from(sorted(RECORD)))
    changed = RECORD | {field: data.draw(JSON)}
    with contextlib.suppress(MalformedInput):
        require_harmless(replies.record(json.dumps({"trusted_clone": changed}).encode()))


@given(st.text())
def test_any_text(text):
    require_harmless(terminal.clean(text))
