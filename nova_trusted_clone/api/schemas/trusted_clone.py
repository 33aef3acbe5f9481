"""The action ``trustedClone``.

Leans on nova.api.validation for the names of things that are nova's own.
"""

from __future__ import annotations

from nova.api.validation import parameter_types, response_types

MAX_COUNT = 100
"""As the conductor's and the order's own limit (rpc.shapes)."""
MAX_INTERFACES = 64
_HEX = "[0-9a-fA-F]"
GROUP = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
# Eight bytes, so that no two requests have the same by chance; an order has room for 64. Python's $ would let a line end pass.
NONCE = {"type": "string", "pattern": rf"^({_HEX}{{2}}){{8,64}}\Z"}
UUID = {"type": "string", "format": "uuid"}

# Not nova's az_name, whose complaint names no field. A colon would name a host, which is another field here.
ZONE = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^:\x00-\x1f\x7f]+\Z"}

_network = {
    "type": "object",
    "properties": {
        "uuid": parameter_types.network_id,
        "port": parameter_types.network_port_id,
        "fixed_ip": parameter_types.ip_address,
    },
    "additionalProperties": False,
}

create = {
    "type": "object",
    "properties": {
        "trustedClone": {
            "type": "object",
            "properties": {
                "name": parameter_types.name,
                "count": {"type": "integer", "minimum": 1, "maximum": MAX_COUNT},
                "availability_zone": ZONE,
                "host": parameter_types.fqdn,
                "vtpm": {"type": "string", "enum": ["new", "derive"]},
                "memory": {"type": "string", "enum": ["lazy", "eager"]},
                "nonce": NONCE,
                "metadata": parameter_types.metadata,
                "networks": {"type": "array", "items": _network, "maxItems": MAX_INTERFACES},
            },
            "additionalProperties": False,
        },
    },
    "required": ["trustedClone"],
    "additionalProperties": False,
}

_server = {
    "type": "object",
    "properties": {"id": UUID, "name": {"type": "string"}, "links": response_types.links},
    "required": ["id", "name", "links"],
    "additionalProperties": False,
}

_clone = {
    "type": "object",
    "properties": {"id": UUID, "server_id": UUID},
    "required": ["id", "server_id"],
    "additionalProperties": False,
}

create_response = {
    "type": "object",
    "properties": {
        "trusted_clones": {
            "type": "object",
            "properties": {
                "group": GROUP,
                "nonce": {"type": "string", "pattern": "^([0-9a-f]{2}){8,64}$"},
                "servers": {"type": "array", "items": _server, "minItems": 1},
                "clones": {"type": "array", "items": _clone, "minItems": 1},
            },
            "required": ["group", "nonce", "servers", "clones"],
            "additionalProperties": False,
        },
    },
    "required": ["trusted_clones"],
    "additionalProperties": False,
}
