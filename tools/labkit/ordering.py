"""Clones of a guest, as a control plane orders them: signed orders to both agents, then a look at how far they are."""

from __future__ import annotations

import dataclasses
import pathlib
import secrets
import time
import uuid
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from labkit.agent import PEER_PORT
from labkit.display import CloneProgress
from labkit.domain import Disk
from labkit.errors import LabError
from labkit.guests import new_mac
from labkit.host import BRIDGE
from nova_trusted_clone.clone.authority import Authority, CloneTerms
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.protocol import evidence
from nova_trusted_clone.transport import rpc

NONCE_BYTES = 32
ENDED = frozenset(("complete", "failed"))


class AnyHost(Protocol):
    """A host of the lab, by its name and the address at which others reach it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def address(self) -> str:
        """Its address."""


class AnyDefinition(Protocol):
    """What an order says of a server."""

    @property
    def memory_mib(self) -> int:
        """Its memory."""

    @property
    def disks(self) -> tuple[Disk, ...]:
        """Its disks."""

    @property
    def macs(self) -> tuple[str, ...]:
        """Its network cards."""


class AnyGuest(Protocol):
    """A guest that was started on a host."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def uuid(self) -> str:
        """Its UUID."""

    @property
    def host(self) -> Any:
        """Its host."""

    @property
    def definition(self) -> AnyDefinition:
        """What it is."""


class AnyAgent(Protocol):
    """The agent of a host."""

    @property
    def admin(self) -> rpc.Client:
        """Calls it as the operator does."""


class AnyOperator(Protocol):
    """Whoever signs orders and reaches the agents."""

    @property
    def authority(self) -> Authority:
        """The operator's authority."""

    @property
    def policy(self) -> pathlib.Path:
        """The policy file."""

    def agent(self, host: Any, /) -> AnyAgent:
        """The agent of a host."""


Source = TypeVar("Source", bound=AnyGuest)
Destination = TypeVar("Destination", bound=AnyHost)


@dataclasses.dataclass(frozen=True)
class Ordered:
    """One clone that was ordered.

    :ivar nonce: the tenant's own, which the evidence must carry
    """

    clone_id: str
    name: str
    uuid: str
    macs: tuple[str, ...]
    nonce: bytes


@dataclasses.dataclass(frozen=True)
class Cloning(Generic[Source, Destination]):
    """One freeze of ``source`` and its clones on ``destination``.

    :ivar ended_s: when a clone was first seen to have ended, seconds from the order, by clone id
    """

    operator: AnyOperator
    source: Source
    destination: Destination
    group: str
    clones: tuple[Ordered, ...]
    ordered_at: float
    ended_s: dict[str, float] = dataclasses.field(default_factory=dict)
    # An agent tells of a transfer only while it lasts: the last that was told stays.
    _transfers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def poll(self) -> tuple[CloneProgress, ...]:
        """How far each clone is, as its destination says, or its source where the destination never began."""
        freeze = self.operator.agent(self.source.host).admin.call("freeze_status", group=self.group)
        sent = {clone["clone_id"]: clone for clone in freeze["clones"]}
        return tuple(self._progress(clone, sent.get(clone.clone_id, {})) for clone in self.clones)

    def _progress(self, clone: Ordered, sent: dict[str, Any]) -> CloneProgress:
        told = self.operator.agent(self.destination).admin.call(
            "clone_status", clone_id=clone.clone_id
        )
        transfer = told.get("transfer") or self._transfers.get(clone.clone_id, {})
        self._transfers[clone.clone_id] = transfer
        failed = "failed" in (told["phase"], sent.get("phase"))
        ended = failed or (told["phase"] in ENDED and sent.get("phase") in ENDED)
        if ended:
            self.ended_s.setdefault(clone.clone_id, time.monotonic() - self.ordered_at)
        return CloneProgress(
            name=clone.name,
            phase="failed" if failed else told["phase"],
            pages_verified=transfer.get("pages_verified", 0),
            pages_total=transfer.get("pages_total", 0),
            bytes_verified=transfer.get("bytes_received", 0),
            ended=ended,
            reason=told.get("reason") or sent.get("reason", ""),
        )

    def pause_s(self) -> float:
        """How long the freeze stopped the source."""
        freeze = self.operator.agent(self.source.host).admin.call("freeze_status", group=self.group)
        return float(freeze["pause_us"]) / 1e6

    def evidence(self, clone: Ordered) -> Any:
        """The evidence of a complete clone."""
        admin = self.operator.agent(self.destination).admin
        return admin.call("evidence", clone_id=clone.clone_id)["evidence"]

    def wait(self, limit_s: float, poll_s: float = 0.2) -> tuple[CloneProgress, ...]:
        """Wait until every clone has ended; for tests, which want no bars.

        :raises LabError: when one has not ended in time
        """
        deadline = time.monotonic() + limit_s
        while True:
            found = self.poll()
            if all(clone.ended for clone in found):
                return found
            if time.monotonic() > deadline:
                raise LabError(f"clones have not ended within {limit_s:g} s: {found}")
            time.sleep(poll_s)


def order(
    operator: AnyOperator,
    source: Source,
    destination: Destination,
    *,
    count: int = 1,
    memory_mode: str = "lazy",
    vtpm_mode: str = "new",
    via: tuple[str, int] | None = None,
) -> Cloning[Source, Destination]:
    """Order ``count`` clones of ``source`` from one freeze.

    :param via: address and port to which the source sends its messages, when not the destination's own
    :raises RpcError: when an agent refuses
    """
    ordered_at = time.monotonic()
    group = secrets.token_bytes(16)
    pairs = [
        _order_one(operator, source, destination, group, number + 1, memory_mode, vtpm_mode)
        for number in range(count)
    ]
    address, port = via or (destination.address, PEER_PORT)
    orders = [{"order": raw, "address": address, "port": port} for _, raw in pairs]
    reply = operator.agent(source.host).admin.call("clone", orders=orders)
    return Cloning(
        operator,
        source,
        destination,
        reply["group"],
        tuple(clone for clone, _ in pairs),
        ordered_at,
    )


def _order_one(
    operator: AnyOperator,
    source: AnyGuest,
    destination: AnyHost,
    group: bytes,
    number: int,
    memory_mode: str,
    vtpm_mode: str,
) -> tuple[Ordered, bytes]:
    """Sign an order and announce it to the destination; return the clone and the signed order."""
    clone_id, server, nonce = (
        secrets.token_bytes(16),
        uuid.uuid4(),
        secrets.token_bytes(NONCE_BYTES),
    )
    definition = source.definition
    terms = CloneTerms(
        clone_id=clone_id,
        freeze_group=group,
        project_id="demo-project",
        user_id="demo-user",
        source_server=uuid.UUID(source.uuid).bytes,
        destination_server=server.bytes,
        source_host=source.host.name,
        destination_host=destination.name,
        disks=tuple((disk.target, disk.size_bytes) for disk in definition.disks),
        memory_bytes=definition.memory_mib << 20,
        policy_sha256=Policy.parse(operator.policy.read_bytes()).sha256,
        vtpm_mode=vtpm_mode,
        memory_mode=memory_mode,
        tenant_nonce=nonce,
    )
    raw = operator.authority.sign_order(terms).encode()
    clone = Ordered(
        clone_id.hex(),
        f"{source.name}-clone-{number}",
        str(server),
        tuple(new_mac() for _ in definition.macs),
        nonce,
    )
    nics: Sequence[dict[str, str]] = [{"mac": mac, "bridge": BRIDGE} for mac in clone.macs]
    admin: rpc.Client = operator.agent(destination).admin
    admin.call("prepare", order=raw, name=clone.name, uuid=clone.uuid, nics=list(nics))
    return clone, raw


def verdict_text(operator: AnyOperator, told: bytes, nonce: bytes) -> str:
    """What the offline verifier says of a file of evidence."""
    verdict, _ = evidence.verify_evidence(
        told, operator.authority.anchors(), Policy.parse(operator.policy.read_bytes()), nonce
    )
    return "accepted" if verdict.ok else f"REFUSED: {verdict}"
