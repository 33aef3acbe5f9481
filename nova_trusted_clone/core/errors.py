"""What core raises, and nothing else ever comes out of it.

Core knows no HTTP and no RPC: the edge translates these one by one. ``code`` is public and never
changes once released; the message names what was found, what was expected and, where there is
something to do, what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nova_trusted_clone.core.attest.verdict import Verdict


class CoreError(Exception):
    """The root of this layer's errors.

    :ivar code: a stable public name, such as ``trusted-clone.quote.stale``
    """

    def __init__(self, message: str, *, code: str = "trusted-clone.error") -> None:
        super().__init__(message)
        self.code = code


class MalformedInput(CoreError):
    """Bytes that are not what they claim to be; the message names the field."""

    def __init__(self, message: str, *, code: str = "trusted-clone.malformed") -> None:
        super().__init__(message, code=code)


class ProtocolError(CoreError):
    """An event that the transition table does not allow in this state; the session is unchanged."""

    def __init__(self, state: str, event: str) -> None:
        super().__init__(
            f"the session is {state}, in which {event} is not expected",
            code="trusted-clone.protocol.unexpected",
        )
        self.state = state
        self.event = event


class Refused(CoreError):
    """Something was well-formed and is not to be trusted.

    :ivar verdict: every check that was made; its failures say why
    """

    def __init__(self, verdict: Verdict) -> None:
        failures = verdict.failures
        super().__init__(
            str(verdict), code=failures[0].code if failures else "trusted-clone.refused"
        )
        self.verdict = verdict
