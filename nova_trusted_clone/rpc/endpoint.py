"""The answering side: arguments are checked before a method sees them, and errors become replies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nova_trusted_clone.rpc import checks
from nova_trusted_clone.rpc.errors import CloneError, to_reply

Method = Callable[..., Any]


def answers(**arguments: checks.Check) -> Callable[[Method], Method]:
    """Make a method one that the broker's messages may call.

    The method gets its context and the checked arguments by name. Every argument of the call must be among ``arguments``;
    one that may be left out is given as ``checks.optional(...)`` and is then None. A :class:`CloneError` is sent as a reply;
    any other exception is a fault of ours: oslo.messaging logs it, and the caller sees ``Unavailable``.
    """

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def answer(self: Any, context: Any, **untrusted: Any) -> dict[str, Any]:
            try:
                values = _checked(method.__name__, arguments, untrusted)
                return {"result": method(self, context, **values)}
            except CloneError as error:
                return to_reply(error)

        return answer

    return decorate


def _checked(
    name: str, arguments: dict[str, checks.Check], untrusted: dict[str, Any]
) -> dict[str, Any]:
    whole = checks.mapping({}, arguments)(untrusted, name)
    return {
        key: whole[key] if key in whole else arguments[key](None, f"{name}.{key}")
        for key in arguments
    }
