"""The protocols between use cases and adapters.

Use cases (``clone``) speak to these and never to an adapter; every adapter package has an implementation on real parts and a
fake that really works. Values are frozen; sizes are bytes, times are seconds.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Quote:
    """A TPM2_Quote as the TPM gave it (TPM 2.0 Library, part 3, 18.4).

    :ivar attest: the TPMS_ATTEST, marshalled, exactly the signed bytes
    :ivar signature: the TPMT_SIGNATURE, marshalled
    """

    attest: bytes
    signature: bytes


class Tpm(Protocol):
    """A TPM 2.0 with one attestation key in the endorsement hierarchy."""

    def random(self, count: int) -> bytes:
        """Return ``count`` bytes of the TPM's own random number generator."""

    def ak_public(self) -> bytes:
        """Return the AK's TPMT_PUBLIC, marshalled."""

    def quote(self, qualifying_data: bytes, pcrs: Sequence[int]) -> Quote:
        """Quote the SHA-256 bank's ``pcrs`` by the AK over 32 bytes of ``qualifying_data``."""

    def read_pcrs(self, pcrs: Sequence[int]) -> Mapping[int, bytes]:
        """Return the SHA-256 bank's values, 32 bytes each, by index."""

    def extend(self, pcr: int, digest: bytes) -> None:
        """Extend the SHA-256 bank's ``pcr`` by a 32-byte digest."""

    def close(self) -> None:
        """Flush what was loaded and let the transport go."""


@dataclasses.dataclass(frozen=True)
class VtpmBlobs:
    """The three state blobs of an swtpm, as QEMU's ``tpm-emulator`` section carries them. Secret."""

    permanent: bytes = dataclasses.field(repr=False)
    volatile: bytes = dataclasses.field(repr=False)
    savestate: bytes = dataclasses.field(default=b"", repr=False)


@dataclasses.dataclass(frozen=True)
class Passphrase:
    """What a vTPM's state is encrypted by. It is never logged, and never an argument of a program."""

    value: bytes = dataclasses.field(repr=False)


class PassphraseUnavailable(Exception):
    """The passphrase of a vTPM's state cannot be had; the message says why, and nothing of it."""


class VtpmInstance(Protocol):
    """A vTPM that runs outside any guest, until its state is handed over or it is discarded."""

    @property
    def ek_chain(self) -> Sequence[bytes]:
        """The EK certificate and its intermediates, DER, leaf first, without the root."""

    @property
    def tpm(self) -> Tpm:
        """Commands to it."""

    def hand_over(self) -> VtpmBlobs:
        """Stop it and return its state, which from then on belongs to the guest alone."""

    def discard(self) -> None:
        """Stop it and wipe its state; harmless when repeated or after ``hand_over``."""


class VtpmFactory(Protocol):
    """Makes vTPMs on this host."""

    def new(
        self,
        name: str,
        inherited: Sequence[tuple[int, bytes]],
        passphrase: Passphrase | None = None,
    ) -> VtpmInstance:
        """A freshly manufactured vTPM whose PCRs were extended by ``inherited`` (index, digest) in order.

        :param name: for the EK certificate's subject
        :param passphrase: what its state is encrypted by when it is handed over; without one it is not encrypted
        """

    def derive(
        self, name: str, source: VtpmBlobs, passphrase: Passphrase | None = None
    ) -> VtpmInstance:
        """A vTPM with the storage hierarchy of ``source`` and an identity (EPS, EK, EK certificate) of its own.

        :param source: not encrypted
        :param passphrase: as for ``new``
        """

    def shadow(self, source: VtpmBlobs, passphrase: Passphrase | None = None) -> VtpmInstance:
        """A short-lived instance of a frozen vTPM's state, to quote by its AK; never given to a guest.

        :param passphrase: what ``source`` is encrypted by, if it is
        """

    def decrypt(self, source: VtpmBlobs, passphrase: Passphrase) -> VtpmBlobs:
        """The same state, encrypted no longer."""

    def close(self) -> None:
        """End what is kept warm, and every instance that was neither handed over nor discarded."""


@dataclasses.dataclass(frozen=True)
class DiskShape:
    """A disk of a server: its target device (``vda``), virtual size, image format and path."""

    target: str
    size_bytes: int
    image_format: str
    path: str


@dataclasses.dataclass(frozen=True)
class NicShape:
    """A network interface of a server, by its alias in libvirt and its MAC address."""

    alias: str
    mac: str


@dataclasses.dataclass(frozen=True)
class ServerShape:
    """What a hypervisor says of a running server before anything is changed.

    :ivar vtpm_secret: UUID of the libvirt secret that encrypts its vTPM's state, if one does
    :ivar obstacles: reasons, in words, why this server cannot be cloned; empty when it can
    """

    uuid: str
    name: str
    memory_bytes: int
    running: bool
    disks: tuple[DiskShape, ...]
    nics: tuple[NicShape, ...]
    has_vtpm: bool
    has_generation_id: bool
    vtpm_secret: str | None = None
    obstacles: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RegionSource:
    """Where the exporter finds a region's frozen bytes.

    :ivar kind: ``ram`` (a RAM block), ``disk``, ``device`` (the device state) or ``domain`` (the definition)
    :ivar name: the RAM block's id, the disk's target, or the kind itself; unique within its kind
    :ivar source: a JSON-able mapping that the hypervisor's ``open_sources`` understands
    """

    kind: str
    name: str
    size_bytes: int
    source: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Frozen:
    """One instant of a source server, held until it is released.

    :ivar regions: every RAM block, disk, the device state and the definition
    :ivar pause_s: from the guest's stop to its going on, as the hypervisor's events tell
    :ivar vtpm: the vTPM's state at that instant, taken out of the device state
    :ivar steps: each step's name and seconds, in order; not all of them are within the pause
    """

    regions: tuple[RegionSource, ...]
    pause_s: float
    vtpm: VtpmBlobs | None = dataclasses.field(default=None, repr=False)
    steps: tuple[tuple[str, float], ...] = ()


class SourceHypervisor(Protocol):
    """Freezes a running server while it goes on running."""

    def inspect(self, server_uuid: str) -> ServerShape:
        """Describe the server; raises when there is none."""

    def offer_disks(self, server_uuid: str, directory: pathlib.Path) -> tuple[RegionSource, ...]:
        """Serve the disks as they are, before the freeze; ``release`` with the same directory ends it."""

    def freeze(
        self, server_uuid: str, directory: pathlib.Path, capture_socket: pathlib.Path
    ) -> Frozen:
        """Freeze memory, device state and disks at one instant and let the server run on.

        What its memory is taken with is handed over at ``capture_socket``, where an exporter listens already. What this puts
        onto the server is named in ``directory`` before it is done, so that ``release`` can take it off after a crash too.
        """

    def release(self, server_uuid: str, directory: pathlib.Path) -> None:
        """Take everything that a freeze put onto the server off again; resume it if it was left paused; repeatable."""


@dataclasses.dataclass(frozen=True)
class NicIdentity:
    """A network interface that the clone gets: its MAC and, where it is not the source's, its bridge."""

    mac: str
    bridge: str | None = None


@dataclasses.dataclass(frozen=True)
class HostSide:
    """What a control plane has decided of a clone's place on its host; without one the hypervisor's adapter decides.

    The guest sees none of it. XML is libvirt's.

    :ivar interfaces: ``<interface>`` elements in the order of ``Identity.nics``, attached as they are
    :ivar disks: target to the path of the clone's own image, which the restore makes
    :ivar metadata: a ``<metadata>`` element, or nothing
    :ivar console_log: the file that takes the console's output, where ``characters`` does not say it
    :ivar graphics: ``<graphics>`` elements: where its displays are served
    :ivar characters: ``<serial>``, ``<console>`` and ``<channel>`` elements in order: where they end on the host
    :ivar cpuset: the host's processors that may run it, as in ``<vcpu cpuset=…>``; any without one
    :ivar vtpm_secret: UUID of the libvirt secret that encrypts the vTPM's state
    :ivar boot: ``kernel`` and ``initrd`` to the files on this host that a next start takes, where it takes any
    :ivar persistent: whether libvirt keeps the definition when the clone does not run
    """

    interfaces: tuple[str, ...] = ()
    disks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metadata: str = ""
    console_log: str | None = None
    graphics: tuple[str, ...] = ()
    characters: tuple[str, ...] = ()
    cpuset: str | None = None
    vtpm_secret: str | None = None
    boot: Mapping[str, str] = dataclasses.field(default_factory=dict)
    persistent: bool = False


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who the clone is: nothing of it is the source's."""

    name: str
    uuid: str
    nics: tuple[NicIdentity, ...]
    host_side: HostSide | None = None


@dataclasses.dataclass(frozen=True)
class RestorePlan:
    """What a destination needs to let a clone run.

    :ivar memory: RAM blocks served as files by the store, block name to path
    :ivar small_blocks: RAM blocks carried inside the stream, block name to a file of its bytes
    :ivar ram_block_order: (name, size) of every block in the order in which the source's QEMU lists them
    :ivar backings: disk target to a read-only file that is the disk at the freeze
    """

    identity: Identity
    directory: pathlib.Path
    definition: str
    device_state: pathlib.Path
    memory: Mapping[str, pathlib.Path]
    small_blocks: Mapping[str, pathlib.Path]
    ram_block_order: tuple[tuple[str, int], ...]
    backings: Mapping[str, pathlib.Path]
    vtpm: VtpmBlobs | None = dataclasses.field(default=None, repr=False)


class DestinationHypervisor(Protocol):
    """Lets a clone run, and ends one that failed."""

    def restore(self, plan: RestorePlan) -> None:
        """Restore the clone, give it its identity and let it run; on an error leave nothing of it."""

    def settle(self, identity: Identity, directory: pathlib.Path) -> None:
        """After everything was verified: make the clone's disks independent of the store, whether it runs or not.

        Harmless when they are, or are no more.

        :param directory: as in the ``RestorePlan``
        """

    def warm_up(self) -> None:
        """Do at a service's start what the first clone would wait for otherwise."""

    def exists(self, server_uuid: str, directory: pathlib.Path) -> bool:
        """Whether the process that ``restore`` started is there, running or paused; not one that was started since."""

    def pause(self, server_uuid: str) -> None:
        """Stop the clone's processors."""

    def destroy(self, server_uuid: str, directory: pathlib.Path) -> None:
        """End the clone and remove what ``restore`` made; harmless when there is none."""


class PeerError(Exception):
    """The other host did not do what it was asked."""


class PeerUnreachable(PeerError):
    """No answer: worth another try."""


class PeerRefused(PeerError):
    """It answered with an error, which is the message."""


class Peer(Protocol):
    """Another host, as a source speaks to it. Nothing that it says is trusted: the handshake inside proves itself."""

    def call(
        self, operation: str, *, limit_s: float | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """Ask it for ``message``, ``early``, ``status`` or ``end``.

        :param limit_s: how long the answer is waited for; at most, and by default, as long as a message may take
        :raises PeerUnreachable: when there is no answer in time
        :raises PeerRefused: when it answers with an error
        """


class Clock(Protocol):
    """The time."""

    def now(self) -> int:
        """Seconds since 1970-01-01 UTC."""
