"""The errors that may cross between services, as data: a kind, a stable code and a text.

Not as exceptions: oslo.messaging would import the class that a reply names, and its list of allowed modules is fixed when
nova makes its transport, which is before a driver is loaded.
"""

from __future__ import annotations

from typing import Any, ClassVar

MAX_CODE = 80
MAX_TEXT = 4096


class CloneError(Exception):
    """What the other service answered, or why there is no answer.

    :ivar code: a stable public name, such as ``trusted-clone.record.ended``
    """

    KIND: ClassVar[str] = "refused"
    CODE: ClassVar[str] = "trusted-clone.error"

    def __init__(self, text: str, code: str | None = None) -> None:
        super().__init__(text[:MAX_TEXT])
        self.text = text[:MAX_TEXT]
        self.code = (code or self.CODE)[:MAX_CODE]


class NotFound(CloneError):
    """There is no such clone, group, server or freeze, as far as this service knows."""

    KIND = "not-found"
    CODE = "trusted-clone.not-found"


class Conflict(CloneError):
    """It exists, and is in a state in which that cannot be done."""

    KIND = "conflict"
    CODE = "trusted-clone.conflict"


class Refused(CloneError):
    """Well-formed, and not to be trusted or not allowed; the text has every failed check."""

    KIND = "refused"
    CODE = "trusted-clone.refused"


class Invalid(CloneError):
    """Not what the message should be; the text names the field."""

    KIND = "invalid"
    CODE = "trusted-clone.rpc.invalid"


class Unavailable(CloneError):
    """No answer, or none that can be used: worth another try."""

    KIND = "unavailable"
    CODE = "trusted-clone.rpc.unavailable"


KINDS: dict[str, type[CloneError]] = {
    error.KIND: error for error in (NotFound, Conflict, Refused, Invalid, Unavailable)
}


def to_reply(error: CloneError) -> dict[str, Any]:
    """Return what is sent in place of a result."""
    return {"error": {"kind": error.KIND, "code": error.code, "text": error.text}}


def from_reply(raw: Any) -> CloneError:
    """Return the error that a reply tells of; whatever cannot be read is :class:`Unavailable`."""
    if isinstance(raw, dict) and all(
        isinstance(raw.get(key), str) for key in ("kind", "code", "text")
    ):
        kind = KINDS.get(raw["kind"])
        if kind is not None:
            return kind(raw["text"], raw["code"])
    return Unavailable(
        "the reply holds an error that cannot be read", "trusted-clone.rpc.malformed-reply"
    )
