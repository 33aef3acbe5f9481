"""A host as the use cases see it: who it is, what it trusts, what it can do, and its limits."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.core.protocol.source import LocalHost
from nova_trusted_clone.ports import (
    DestinationHypervisor,
    Passphrase,
    Peer,
    Quote,
    SourceHypervisor,
    Tpm,
    VtpmFactory,
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of ``conf.opts``, in seconds and counts."""

    message_timeout_s: float = 30.0
    network_limit_s: float = 60.0
    completion_limit_s: float = 3600.0
    early_disk_limit_s: float = 0.0
    max_clones: int = 8


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a host keeps its state and where others reach it."""

    state_path: pathlib.Path
    libvirt_uri: str
    listen_address: str
    bulk_port_min: int
    bulk_port_max: int

    @property
    def freezes(self) -> pathlib.Path:
        """One directory for each freeze in use."""
        return self.state_path / "freezes"

    @property
    def clones(self) -> pathlib.Path:
        """One directory for each clone received."""
        return self.state_path / "clones"

    @property
    def stores(self) -> pathlib.Path:
        """One directory for each store process."""
        return self.state_path / "stores"

    @property
    def used(self) -> pathlib.Path:
        """One empty file for each clone id that was ever used here."""
        return self.state_path / "used"

    def make(self) -> None:
        """Make the directories, private to the service."""
        for path in (self.state_path, self.freezes, self.clones, self.stores, self.used):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


@dataclasses.dataclass(frozen=True)
class Host:
    """Everything that the source's and the destination's use cases need.

    :ivar open_tpm: opens the host's TPM; the caller closes it, so that others can use it in between
    :ivar peers: another host by its address, in whatever words the transport has for it
    :ivar passphrases: what encrypts a vTPM's state here, by the server's UUID and the secret's; raises
        ``PassphraseUnavailable``
    :ivar ground: reads the operator's roots and policy anew, so that a change needs no restart
    """

    local: LocalHost
    place: Place
    limits: Limits
    open_tpm: Callable[[], Tpm]
    ground: Callable[[], Ground]
    vtpms: VtpmFactory
    source: SourceHypervisor
    destination: DestinationHypervisor
    peers: Callable[[str], Peer]
    passphrases: Callable[[str, str], Passphrase]
    now: Callable[[], int] = lambda: int(time.time())

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> Quote:
        """Quote by the host's AK."""
        with contextlib.closing(self.open_tpm()) as tpm:
            return tpm.quote(qualifying_data, pcrs)

    def random(self, count: int) -> bytes:
        """Random bytes of the host's TPM."""
        with contextlib.closing(self.open_tpm()) as tpm:
            return tpm.random(count)
