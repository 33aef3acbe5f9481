"""The versions of this API.

Leans on nova.api.validation for links.
"""

from __future__ import annotations

from nova.api.validation import response_types

index_query = {"type": "object", "properties": {}, "additionalProperties": False}

_version = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "status": {"type": "string", "enum": ["CURRENT", "SUPPORTED", "DEPRECATED"]},
        "updated": {"type": "string", "format": "date-time"},
        "links": response_types.links,
    },
    "required": ["id", "status", "updated", "links"],
    "additionalProperties": False,
}

index_response = {
    "type": "object",
    "properties": {"versions": {"type": "array", "items": _version, "minItems": 1}},
    "required": ["versions"],
    "additionalProperties": False,
}
