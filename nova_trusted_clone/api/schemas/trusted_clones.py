"""The records of clones, their evidence, and the end of a clone.

Leans on nova.api.validation for the names of things that are nova's own.
"""

from __future__ import annotations

from typing import Any

from nova.api.validation import parameter_types, response_types

from nova_trusted_clone.api.schemas.trusted_clone import GROUP, NONCE, UUID
from nova_trusted_clone.rpc import shapes

_NO_QUERY: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_TEXT = {"type": ["string", "null"]}
_TIME = {"type": ["string", "null"], "format": "date-time"}
_SIZE = {"type": "integer", "minimum": 0}
_PHASE = {"type": "string", "enum": list(shapes.PHASES)}

index_query = {
    "type": "object",
    "properties": {
        "limit": parameter_types.single_param(parameter_types.non_negative_integer),
        "marker": parameter_types.single_param(UUID),
        "phase": parameter_types.single_param(_PHASE),
    },
    "additionalProperties": False,
}
project_query = {
    **index_query,
    "properties": {
        **index_query["properties"],  # type: ignore[dict-item]
        "all_projects": parameter_types.single_param(parameter_types.boolean),
    },
}
show_query = _NO_QUERY
evidence_query = _NO_QUERY

_progress = {
    "type": "object",
    "properties": {
        "pages_verified": _SIZE,
        "pages_total": _SIZE,
        "bytes_verified": _SIZE,
        "bytes_total": _SIZE,
        "rate_bytes_s": _SIZE,
    },
    "additionalProperties": False,
}

_attempt = {
    "type": "object",
    "properties": {"host": _TEXT, "reason": _TEXT, "code": _TEXT, "ended_at": _TIME},
    "required": ["reason", "code", "ended_at"],
    "additionalProperties": False,
}

_HOSTS = ("source_host", "host")  # for those whom the policy lets see them
_record_properties: dict[str, Any] = {
    "id": UUID,
    "name": {"type": "string"},
    "server_id": UUID,
    "source_id": UUID,
    "lineage": {"type": "array", "items": UUID},
    "project_id": {"type": "string"},
    "group": GROUP,
    "freeze_id": {"type": ["string", "null"]},
    "phase": _PHASE,
    "reason": _TEXT,
    "code": _TEXT,
    "vtpm": {"type": "string", "enum": list(shapes.VTPM_MODES)},
    "memory": {"type": "string", "enum": list(shapes.MEMORY_MODES)},
    "nonce": NONCE,
    "progress": _progress,
    "pause_us": {"type": ["integer", "null"], "minimum": 0},
    "attempts": {"type": "array", "items": _attempt},
    "created_at": _TIME,
    "updated_at": _TIME,
    "completed_at": _TIME,
    "request_id": _TEXT,
    "source_host": _TEXT,
    "host": _TEXT,
}

_record = {
    "type": "object",
    "properties": _record_properties,
    "required": [key for key in _record_properties if key not in _HOSTS],
    "additionalProperties": False,
}

index_response = {
    "type": "object",
    "properties": {
        "trusted_clones": {"type": "array", "items": _record},
        "trusted_clones_links": response_types.collection_links,
    },
    "required": ["trusted_clones"],
    "additionalProperties": False,
}

show_response = {
    "type": "object",
    "properties": {"trusted_clone": _record},
    "required": ["trusted_clone"],
    "additionalProperties": False,
}

evidence_response = {
    "type": "object",
    "properties": {
        # Its own format is versioned by itself (core.protocol.evidence) and passed on as it is.
        "evidence": {
            "type": "object",
            "properties": {
                "format": {"type": "string"},
                "clone": {"type": "object", "properties": {}, "additionalProperties": True},
                "messages": {"type": "object", "properties": {}, "additionalProperties": True},
            },
            "required": ["format", "messages"],
            "additionalProperties": True,
        },
    },
    "required": ["evidence"],
    "additionalProperties": False,
}

delete_response = {"type": "null"}
