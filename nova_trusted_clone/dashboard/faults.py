"""Which field of the form an error of the API is about."""

from __future__ import annotations

import re
from collections.abc import Collection

from django.utils.translation import gettext as _

from nova_trusted_clone.client import errors

# The API's own complaints begin with the field; those of nova's schema with a phrase before it.
_NAMED = re.compile(
    r"(?:Invalid input for field/attribute )?"
    r"(name|count|availability_zone|vtpm|memory|nonce|networks)\b(?:\[([0-9]+)\])?"
)
# Of nova, which names none.
_WORDS = (
    (errors.Forbidden, re.compile(r"quota", re.I), "count"),
    (errors.Refused, re.compile(r"availability zone", re.I), "availability_zone"),
    (errors.Refused, re.compile(r"\bvtpm\b", re.I), "vtpm"),
    (errors.Refused, re.compile(r"\b(network|port|address|interface)s?\b", re.I), "networks"),
)


def placed(error: errors.ClientError, fields: Collection[str]) -> tuple[str | None, str]:
    """Return the field, None for the whole form, and what is to be read there.

    :param fields: those that the form has; networks are ``network_0`` and so on
    """
    if not isinstance(error, errors.Refused):
        return None, _unknown(error) if error.transient else str(error)
    if isinstance(error, errors.Busy):
        return None, _unknown(error)
    field = _field(error, fields)
    return field if field in fields else None, error.said


def _field(error: errors.Refused, fields: Collection[str]) -> str | None:
    named = _NAMED.match(error.said)
    if named:
        return f"network_{named[2] or 0}" if named[1] == "networks" else named[1]
    for kind, words, field in _WORDS:
        if isinstance(error, kind) and words.search(error.said):
            return "network_0" if field == "networks" else field
    return None


def _unknown(error: errors.ClientError) -> str:
    text: str = _(
        "%s. Whether clones were made is not known: look at the list of trusted clones before you try again."
    )
    return text % str(error).rstrip(".")
