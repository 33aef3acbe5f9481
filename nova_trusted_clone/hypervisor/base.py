"""What every hypervisor's adapter raises.

The contract itself is ``ports.SourceHypervisor`` and ``ports.DestinationHypervisor``.
"""

from __future__ import annotations

from collections.abc import Sequence


class HypervisorError(Exception):
    """The root of this layer's errors.

    :ivar code: stable, for programs; the message is for people
    """

    code = "trusted-clone.hypervisor"


class ServerNotFound(HypervisorError):
    """There is no such server on this host."""

    code = "trusted-clone.server.not-found"


class Obstacles(HypervisorError):
    """The server cannot be cloned; nothing was changed.

    :ivar reasons: each of them, in words
    """

    code = "trusted-clone.server.obstacles"

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


class FreezeBusy(HypervisorError):
    """The server is frozen already, or something else holds what a freeze needs; try again when that has ended."""

    code = "trusted-clone.freeze.busy"


class FreezeFailed(HypervisorError):
    """The freeze did not come about; everything was taken off the server again and it runs."""

    code = "trusted-clone.freeze.failed"


class ReleaseFailed(HypervisorError):
    """Something of a freeze is still on the server; releasing can be repeated."""

    code = "trusted-clone.release.failed"


class RestoreFailed(HypervisorError):
    """The clone could not be restored; nothing of it is left."""

    code = "trusted-clone.restore.failed"


class MonitorError(HypervisorError):
    """The hypervisor refused a command, or did not answer it.

    :ivar kind: the error's class as the hypervisor names it
    """

    code = "trusted-clone.monitor"

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class MalformedState(HypervisorError):
    """Bytes of a migration stream, a device state or a reply that are not what they must be."""

    code = "trusted-clone.state.malformed"
