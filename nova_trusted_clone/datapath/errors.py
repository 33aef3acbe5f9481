"""What the data path raises besides core's errors."""

from __future__ import annotations


class DatapathError(Exception):
    """The root of this layer's errors.

    :ivar code: stable, for programs; the message is for people
    """

    code = "trusted-clone.datapath"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class SourceGone(DatapathError):
    """The frozen bytes can no longer be had; nothing will bring them back."""

    code = "trusted-clone.source.gone"


class FrameError(DatapathError):
    """A frame that is not allowed here: the peer's fault, not the network's."""

    code = "trusted-clone.bulk.frame"


class PeerError(DatapathError):
    """The exporter answered a request with an error."""

    code = "trusted-clone.bulk.peer"


class StoreFailed(DatapathError):
    """The store serves nothing more that was not verified; the message is the reason."""

    code = "trusted-clone.store.failed"
