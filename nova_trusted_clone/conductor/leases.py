"""Who orders a freeze, and for how long that is believed of one that was killed."""

from __future__ import annotations

import dataclasses
import datetime
import secrets


@dataclasses.dataclass(frozen=True)
class Lease:
    """A worker's name, and how long its work stays its own after the last sign of life.

    :ivar host: nova's name of the machine: one service of it runs at one time
    :ivar incarnation: of that service, from its start to its end; all its workers share it
    """

    host: str
    incarnation: str
    duration_s: float
    token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4))

    @property
    def worker(self) -> str:
        """This process, and no other that was or will be."""
        return f"{self.host}/{self.incarnation}/{self.token}"

    def until(self, now: datetime.datetime) -> datetime.datetime:
        """Return when a lease that is taken now ends."""
        return now + datetime.timedelta(seconds=self.duration_s)

    def has_ended(self, worker: str, until: datetime.datetime, now: datetime.datetime) -> bool:
        """Whether a worker's lease is over: by time, or since it was of this machine's service before that was
        started anew.
        """
        if until < now:
            return True
        host, _, rest = worker.partition("/")
        return host == self.host and not rest.startswith(f"{self.incarnation}/")
