"""The source's use case: one freeze of one server, and the clones made from it.

    preflight → exporter → attest every destination → copy disks early → freeze → offer → serve → finish → release

Nothing about the server leaves before a destination is proven. Each clone succeeds or fails alone. Whatever was put onto
the server is taken off when the last clone has ended, however it ended; a restarted service takes a freeze over, or back.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nova_trusted_clone.clone import preflight, records
from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.clone.helpers import Guard, Helper, decode, encode, pack_vtpm, remove
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.outgoing import CloneFailed, Outgoing, Phase, Serving
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol.events import FreezeDone, VtpmIdentity
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.core.protocol.order import Order, SignedOrder
from nova_trusted_clone.core.protocol.proofs import certified_vtpm
from nova_trusted_clone.datapath.control import ControlError
from nova_trusted_clone.datapath.processes import ProcessFailed
from nova_trusted_clone.ports import (
    Frozen,
    Passphrase,
    PassphraseUnavailable,
    RegionSource,
    ServerShape,
    VtpmInstance,
)

LOG = logging.getLogger(__name__)
EXPORTER = "nova_trusted_clone.cmd.exporter"
POLL_S = 0.1
RELEASE_PAUSE_S = 1.0
LONGEST_RELEASE_PAUSE_S = 30.0
RELEASE_LIMIT_S = 60.0
VTPM_PCRS = tuple(range(1, 8))


class FreezeFailed(Exception):
    """No clone of this freeze can go on."""


class FreezeJob:
    """One freeze and its clones."""

    def __init__(
        self, host: Host, group: str, server_uuid: str, exporter_module: str = EXPORTER
    ) -> None:
        self.group = group
        self.server_uuid = server_uuid
        self.pause_s = 0.0
        self.phase = "starting"
        self.clones: list[Outgoing] = []
        self.directory = host.place.freezes / group
        self._host = host
        self._freeze_directory = self.directory / "freeze"
        self._early_directory = self.directory / "early"
        self._port = 0
        self._exporter = Helper(exporter_module, self.directory / "exporter")
        self._guard = Guard(
            self.directory / "guard",
            self._freeze_directory,
            self._exporter.directory,
            host.place.libvirt_uri,
            server_uuid,
        )
        self._passphrase: Passphrase | None = None
        self._vtpm_is_readable = True
        self._abort = threading.Event()
        self.released = threading.Event()

    # -- what is asked of it ------------------------------------------------------------------------------------------

    def admit(self, signed: SignedOrder, order: Order, destination: str) -> None:
        """Add a clone; before ``run`` only."""
        directory = self.directory / "clones" / order.clone_id.hex()
        if directory.exists():
            raise FreezeFailed(f"clone {order.clone_id.hex()} is ordered twice")
        directory.mkdir(mode=0o700, parents=True)
        ground = self._host.ground()
        ground.save(directory)
        clone = Outgoing(self._host, directory, signed, order, destination, ground)
        clone.save()
        self.clones.append(clone)

    def run(self) -> None:
        """Carry it out, from the preflight to the release. Every clone has ended afterwards."""
        try:
            self._record("starting")
            self._preflight()
            certificate = self._start_exporter()
            self._attest(certificate)
            self._early()
            self._freeze_and_offer()
            self._serve()
        except FreezeFailed as error:
            self._fail_all(str(error))
        except Exception as error:
            LOG.exception("freeze %s", self.group)
            self._fail_all(f"{type(error).__name__}: {error}")
        finally:
            self._release()

    def abort(self, clone_id: str | None, reason: str) -> None:
        """End one clone, or all."""
        for clone in self.clones:
            if clone_id in (None, clone.clone_id):
                self._fail(clone, reason)
        if not self._running():
            self._abort.set()

    def status(self) -> dict[str, Any]:
        """What an operator may know."""
        return {
            "group": self.group,
            "server": self.server_uuid,
            "phase": self.phase,
            "pause_us": round(self.pause_s * 1e6),
            "clones": [
                {"clone_id": clone.clone_id, "phase": clone.phase.value, "reason": clone.reason}
                for clone in self.clones
            ],
        }

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _preflight(self) -> None:
        shape: ServerShape = self._host.source.inspect(self.server_uuid)
        for clone in self.clones:
            reasons = preflight.obstacles(clone.order, shape, clone.ground.policy)
            if reasons:
                clone.fail("; ".join(reasons))
        self._require_some()
        if shape.vtpm_secret is not None:
            self._fetch_passphrase(shape.vtpm_secret)

    def _fetch_passphrase(self, secret_uuid: str) -> None:
        """Get what encrypts the vTPM's state, before anything is changed; without it the vTPM cannot vouch.

        :raises FreezeFailed: where the clones cannot do without
        """
        try:
            self._passphrase = self._host.passphrases(self.server_uuid, secret_uuid)
        except PassphraseUnavailable as error:
            if self._derives or not self.clones[0].ground.policy.allow_without_vtpm:
                raise FreezeFailed(str(error)) from error
            LOG.info("freeze %s: the host vouches for the server: %s", self.group, error)
            self._vtpm_is_readable = False

    @property
    def _derives(self) -> bool:
        return self.clones[0].order.vtpm_mode == "derive"

    def _start_exporter(self) -> bytes:
        # The guard needs a moment to watch, and has it during the handshake.
        self._freeze_directory.mkdir(mode=0o700)
        self._guard.start()
        self._exporter.start()
        place = self._host.place
        reply = self._exporter.call(
            "listen",
            freeze_id=self.group,
            address=place.listen_address,
            port_min=place.bulk_port_min,
            port_max=place.bulk_port_max,
        )
        self._port = int(reply["port"])
        return decode(self._exporter.call("identity")["certificate"])

    def _attest(self, certificate: bytes) -> None:
        self._record("attesting")
        self._each(lambda clone: clone.attest(certificate))
        for clone in self._running():
            self._exporter.call(
                "admit", certificate=encode(clone.store_certificate), clone_id=clone.clone_id
            )

    def _early(self) -> None:
        """Let the stores copy disks before the freeze, until each has been over them once or the limit is reached.

        What the source writes meanwhile is told by its digest, and copied again.
        """
        limit_s = self._host.limits.early_disk_limit_s
        if limit_s <= 0 or not self.clones[0].order.disks:
            return
        self._record("copying early")
        self._early_directory.mkdir(mode=0o700)
        disks = self._host.source.offer_disks(self.server_uuid, self._early_directory)
        try:
            self._exporter.call("early", regions=[_region_row(disk) for disk in disks])
            targets = tuple(disk.name for disk in disks)
            serving = Serving(self._host.place.listen_address, self._port)
            self._each(lambda clone: clone.begin_early(targets, serving))
            self._await_early(limit_s)
            self._exporter.call("end_early")
        finally:
            self._host.source.release(self.server_uuid, self._early_directory)
            remove(self._early_directory)

    def _await_early(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and not self._abort.wait(POLL_S):
            self._exporter_status()
            self._each(lambda clone: clone.poll())
            if all(clone.has_early_copy for clone in self._running()):
                return

    def _freeze_and_offer(self) -> None:
        self._record("freezing")
        frozen = self._freeze()
        self.pause_s = frozen.pause_s
        self._hand_over_memory(frozen)
        reply = self._exporter.call(
            "frozen",
            regions=[_region_row(r) for r in (*frozen.regions, *self._vtpm_region(frozen))],
        )
        event, vtpm = self._freeze_event(reply, frozen)
        serving = Serving(self._host.place.listen_address, int(reply["port"]))
        signer = vtpm.tpm.quote if vtpm is not None else None
        try:
            # One after the other: a vTPM answers one at a time, and each needs milliseconds.
            self._each(lambda clone: clone.offer(event, signer, serving), workers=1)
        finally:
            if vtpm is not None:
                vtpm.discard()
        self._record("serving")

    def _freeze(self) -> Frozen:
        drain_socket = self._exporter.call("drain")["socket"]
        self._guard.wait_until_ready()
        frozen = self._host.source.freeze(
            self.server_uuid, self._freeze_directory, pathlib.Path(str(drain_socket))
        )
        self._guard.pause_is_over()
        return frozen

    def _hand_over_memory(self, frozen: Frozen) -> None:
        """The exporter has no right of its own over the server's process."""
        memory = self._host.source.memory_files(frozen)
        if memory is None:
            return
        try:
            self._exporter.call(
                "memory", memory.descriptors, pid=memory.pid, start_time=memory.start_time
            )
        finally:
            for descriptor in memory.descriptors:
                os.close(descriptor)

    def _vtpm_region(self, frozen: Frozen) -> list[RegionSource]:
        """The vTPM's state leaves the host only when the order says that the clone's is derived from it."""
        if frozen.vtpm is None or not self._derives:
            return []
        state = frozen.vtpm
        if self._passphrase is not None:
            state = self._host.vtpms.decrypt(state, self._passphrase)
        path = self._freeze_directory / "vtpm"
        path.touch(mode=0o600)
        path.write_bytes(pack_vtpm(state))
        return [
            RegionSource("vtpm", "vtpm", path.stat().st_size, {"type": "file", "path": str(path)})
        ]

    def _vouching_vtpm(self, frozen: Frozen) -> VtpmInstance | None:
        """The frozen vTPM if it can vouch; else none, where the policy lets the host's AK vouch alone.

        :raises FreezeFailed: where it does not
        """
        if frozen.vtpm is None or not self._vtpm_is_readable:
            return None
        shadow = self._host.vtpms.shadow(frozen.vtpm, self._passphrase)
        ground = self.clones[0].ground
        verdict = certified_vtpm(
            shadow.ek_chain, self._host.local.host_id, ground.anchors, self._host.now()
        )
        if verdict.ok:
            return shadow
        shadow.discard()
        if not ground.policy.allow_without_vtpm:
            raise FreezeFailed(
                f"the server's vTPM is not one of this host's ({verdict}), and the policy does not let the host vouch alone"
            )
        LOG.info("freeze %s: the host vouches for the server: %s", self.group, verdict)
        return None

    def _freeze_event(
        self, reply: dict[str, Any], frozen: Frozen
    ) -> tuple[FreezeDone, VtpmInstance | None]:
        vtpm = self._vouching_vtpm(frozen)
        identity = None
        if vtpm is not None:
            identity = VtpmIdentity(
                mode="source",
                ek_chain=tuple(vtpm.ek_chain),
                ak_public=vtpm.tpm.ak_public(),
                pcr_values=dict(vtpm.tpm.read_pcrs(VTPM_PCRS)),
            )
        event = FreezeDone(
            freeze_id=bytes.fromhex(self.group),
            page_key=decode(reply["page_key"]),
            regions=tuple(
                (r["id"], r["kind"], r["name"], r["size_bytes"]) for r in reply["regions"]
            ),
            pause_us=round(frozen.pause_s * 1e6),
            vtpm=identity,
        )
        return event, vtpm

    def _serve(self) -> None:
        """Watch over the exporter and the destinations until every clone has ended."""
        deadline = time.monotonic() + self._host.limits.completion_limit_s
        while running := self._running():
            if self._abort.wait(POLL_S):
                raise FreezeFailed("aborted")
            if time.monotonic() > deadline:
                raise FreezeFailed(
                    f"not complete after {self._host.limits.completion_limit_s:.0f} s"
                )
            status = self._exporter_status()
            self._each(lambda clone: clone.poll(), running)
            if status.get("root") is None:
                continue
            root, counts = decode(status["root"]), Counts(**status["counts"])
            fetched = [clone for clone in self._running() if clone.fetched]
            self._each(lambda clone, r=root, c=counts: clone.finish(r, c), fetched)

    def _exporter_status(self) -> dict[str, Any]:
        try:
            status = self._exporter.call("status")
        except ProcessFailed as error:
            raise FreezeFailed(
                f"{error}; the source server is unharmed: order the clone anew"
            ) from error
        if status.get("failed"):
            raise FreezeFailed(f"the exporter: {status['failed']}")
        return status

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Take everything off the server and end the exporter; again until it is done: a server is never left frozen.

        A hypervisor that does not answer now will do so later; a restarted service goes on here.
        """
        pause_s = RELEASE_PAUSE_S
        while True:
            try:
                self._release_once()
                self.released.set()
                return
            except Exception:
                LOG.exception("freeze %s: not released; again in %.0f s", self.group, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RELEASE_PAUSE_S)

    def _release_once(self) -> None:
        """Each part is tried even if another fails; what failed keeps its record."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._exporter.stop)
            stack.callback(self._take_off, self._early_directory)
            stack.callback(self._take_off, self._freeze_directory)
            # Before these, so that two do not take a freeze off at once.
            stack.callback(self._guard.dismiss)
            # Called first, as the last one pushed; a full disk must not keep the server frozen.
            stack.callback(self._record, "releasing")
        self._record("ended")

    def _take_off(self, directory: pathlib.Path) -> None:
        if directory.exists():
            self._host.source.release(self.server_uuid, directory)
            remove(directory)

    def resume(self) -> None:
        """After a restart: take the freeze over if it was being served, else take it back."""
        record = records.read(self.directory / "freeze.json")
        phase = record.get("phase")
        self.pause_s = float(record.get("pause_s", 0))
        self._load_clones()
        if phase == "ended":
            self.released.set()
            return
        if phase != "serving" or not self._exporter.alive:
            self._fail_all(f"the service ended while the freeze was {phase}; order the clone anew")
            self._release()
            return
        try:
            certificate = decode(self._exporter.call("identity")["certificate"])
            self._each(lambda clone: clone.resume(certificate))
            self._serve()
        except Exception as error:
            LOG.exception("freeze %s after a restart", self.group)
            self._fail_all(f"after a restart: {error}")
        finally:
            self._release()

    def _load_clones(self) -> None:
        for path in sorted((self.directory / "clones").glob("*/clone.json")):
            try:
                self.clones.append(self._load_clone(path))
            except (records.RecordError, CoreError, KeyError, TypeError, ValueError) as error:
                # It cannot go on; the server must not stay frozen for that.
                LOG.error("clone %s cannot be taken over: %s", path.parent.name, error)

    def _load_clone(self, path: pathlib.Path) -> Outgoing:
        record = records.read(path)
        signed = SignedOrder.decode(bytes.fromhex(record["order"]))
        clone = Outgoing(
            self._host,
            path.parent,
            signed,
            signed.order(),
            str(record["destination"]),
            Ground.load(path.parent),
        )
        clone.phase, clone.reason = Phase(record["phase"]), str(record["reason"])
        clone.store_certificate = bytes.fromhex(record["store_certificate"])
        return clone

    def _record(self, phase: str) -> None:
        self.phase = phase
        records.write(
            self.directory / "freeze.json",
            {"phase": phase, "server": self.server_uuid, "pause_s": self.pause_s},
        )

    # -- all of them --------------------------------------------------------------------------------------------------

    def _running(self) -> list[Outgoing]:
        return [clone for clone in self.clones if not clone.phase.ended]

    def _require_some(self) -> None:
        if not self._running():
            raise FreezeFailed("no clone of this freeze is left")

    def _each(self, step: Any, clones: Sequence[Outgoing] | None = None, workers: int = 8) -> None:
        """Do a step for every clone; a clone that fails in it ends alone."""
        targets = self._running() if clones is None else clones

        def one(clone: Outgoing) -> None:
            try:
                step(clone)
            except CloneFailed as error:
                self._fail(clone, str(error), error.code)

        with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
            for future in [pool.submit(one, clone) for clone in targets]:
                future.result()
        self._require_some() if clones is None else None

    def _fail_all(self, reason: str) -> None:
        for clone in self._running():
            self._fail(clone, reason)

    def _fail(self, clone: Outgoing, reason: str, code: str = "") -> None:
        """End one clone: its store gets no page of the others' freeze any more."""
        admitted = bool(clone.store_certificate)
        clone.fail(reason, code)
        if not admitted:
            return
        try:
            self._exporter.call("dismiss", clone_id=clone.clone_id)
        except (ProcessFailed, ControlError, OSError) as error:
            LOG.info("freeze %s: nobody left to dismiss: %s", self.group, error)


class Source:
    """Every freeze of this host."""

    def __init__(self, host: Host, exporter_module: str = EXPORTER) -> None:
        """:param exporter_module: the exporters' program; others than the default are for tests"""
        self._host = host
        self._exporter_module = exporter_module
        self._lock = threading.Lock()
        self._jobs: dict[str, FreezeJob] = {}

    def clone(self, signed_orders: Iterable[tuple[bytes, str]]) -> str:
        """Start one freeze for the given orders, which must all name the same server and freeze group.

        :param signed_orders: each with the address of its destination, as ``Host.peers`` understands it

        :returns: the freeze's id
        :raises CoreError: when an order is malformed
        :raises FreezeFailed: when the orders do not belong together, or the freeze was used before
        """
        orders = []
        for raw, destination in signed_orders:
            signed = SignedOrder.decode(raw)
            orders.append((signed, signed.order(), destination))
        groups = {
            (o.freeze_group, o.source_server, o.vtpm_mode, o.memory_mode) for _, o, _ in orders
        }
        if len(groups) != 1:
            raise FreezeFailed(
                f"orders of {len(groups)} freezes at once: one server, freeze group, vTPM and memory mode expected"
            )
        group, server, *_ = groups.pop()
        job = self._new_job(group.hex(), _uuid_text(server))
        with self._lock:
            if job.directory.exists():
                raise FreezeFailed(f"freeze {job.group} was used before")
            job.directory.mkdir(mode=0o700)
            self._jobs[job.group] = job
        try:
            for signed, order, destination in orders:
                job.admit(signed, order, destination)
        except BaseException:
            # Nothing has begun: the same orders may come again.
            with self._lock:
                del self._jobs[job.group]
            remove(job.directory)
            raise
        _in_background(job.run, job)
        return job.group

    def resume(self) -> None:
        """Take over, or back, what a former service left."""
        for directory in sorted(self._host.place.freezes.iterdir()):
            try:
                server = str(records.read(directory / "freeze.json")["server"])
                job = self._new_job(records.require_hex_id(directory.name, "freeze"), server)
            except (records.RecordError, KeyError) as error:
                # Killed before the first record: nothing was started yet.
                LOG.warning("freeze directory %s: %s", directory, error)
                if not (directory / "freeze").exists():
                    remove(directory)
                continue
            self._jobs[job.group] = job
            _in_background(job.resume, job)

    def abort(self, group: str, clone_id: str | None, reason: str) -> None:
        """End one clone of a freeze, or all of them.

        :raises FreezeFailed: when there is no such freeze
        """
        self._job(group).abort(clone_id, reason)

    def status(self, group: str) -> dict[str, Any]:
        """How far a freeze and its clones are."""
        return self._job(group).status()

    def inspect(self, server_uuid: str) -> ServerShape:
        """What the hypervisor says of a server, every obstacle to its being cloned included.

        :raises ServerNotFound: of the hypervisor's adapter, when there is none
        """
        return self._host.source.inspect(server_uuid)

    def uses(self, server_uuid: str) -> list[str]:
        """The freezes of a server that still have something on it."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [j.group for j in jobs if j.server_uuid == server_uuid and not j.released.is_set()]

    def end_all(self, server_uuid: str, wait_s: float, reason: str) -> None:
        """Wait for a server's freezes to end; end those that have not by then, and wait for their release.

        :param wait_s: how long they may go on
        :raises FreezeFailed: when one could not be released yet; that goes on
        """
        jobs = [self._job(group) for group in self.uses(server_uuid)]
        deadline = time.monotonic() + wait_s
        for job in jobs:
            if not job.released.wait(max(0.0, deadline - time.monotonic())):
                job.abort(None, reason)
        for job in jobs:
            if not job.released.wait(RELEASE_LIMIT_S):
                raise FreezeFailed(
                    f"freeze {job.group} of server {server_uuid} is not released yet"
                )

    def _new_job(self, group: str, server_uuid: str) -> FreezeJob:
        return FreezeJob(self._host, group, server_uuid, self._exporter_module)

    def _job(self, group: str) -> FreezeJob:
        job = self._jobs.get(group)
        if job is None:
            raise FreezeFailed(f"no freeze {group[:64]!r} here")
        return job


def _in_background(step: Callable[[], None], job: FreezeJob) -> None:
    # A daemon: a service that is asked to end does so at once, and takes the freeze over when it is back.
    threading.Thread(target=step, name=f"freeze-{job.group[:8]}", daemon=True).start()


def _region_row(region: RegionSource) -> dict[str, Any]:
    """A region as the exporter is told of it."""
    return {
        "kind": region.kind,
        "name": region.name,
        "size_bytes": region.size_bytes,
        "source": dict(region.source),
    }


def _uuid_text(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
