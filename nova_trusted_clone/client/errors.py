"""What the client raises, under one root. Which of it may be tried again stands in ``transient``."""

from __future__ import annotations


class ClientError(Exception):
    """The root of this layer's errors.

    :ivar transient: whether the same request may succeed a little later
    """

    transient = False


class BadReply(ClientError):
    """The reply is not what the API promises; the message names the field."""


class Unsupported(ClientError):
    """The cloud has no trusted clones."""


class Unreachable(ClientError):
    """No answer came. Whether the request had an effect is not known."""

    def __init__(self, message: str, *, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient


class Refused(ClientError):
    """The API answered with an error.

    :ivar status: the HTTP status
    :ivar said: what the API said, cleaned for a terminal
    :ivar request_id: what an operator can look for, or an empty text
    :ivar retry_after_s: how long the API asked to wait, if it did
    """

    def __init__(
        self, status: int, said: str, request_id: str = "", retry_after_s: int | None = None
    ) -> None:
        tail = f" (HTTP {status}, request {request_id})" if request_id else f" (HTTP {status})"
        super().__init__(said + tail)
        self.status = status
        self.said = said
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BadRequest(Refused):
    """400."""


class Unauthorized(Refused):
    """401: the token has expired and the credentials could not get another."""


class Forbidden(Refused):
    """403: policy or quota."""


class NotFound(Refused):
    """404: no such server or clone, or not for this project."""


class Conflict(Refused):
    """409: the server cannot be cloned as it is; the message says why."""


class Busy(Refused):
    """429 and 5xx: overloaded, restarting or broken."""

    transient = True


_BY_STATUS: dict[int, type[Refused]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: Busy,
}


def refusal(
    status: int, said: str, request_id: str = "", retry_after_s: int | None = None
) -> Refused:
    """Return the error for an HTTP status from 400."""
    kind = _BY_STATUS.get(status, Busy if status >= 500 else Refused)
    return kind(status, said, request_id, retry_after_s)
