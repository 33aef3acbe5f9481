"""One freeze of one server, from the preflight to the release, and the clones made from it.

    its turn → preflight → exporter → attest every destination → copy disks early → freeze → offer → serve → finish → release

Nothing about the server leaves before a destination is proven. Whatever was put onto the server is taken off when the last
clone has ended, however it ended; a restarted service takes a freeze over, or back.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

from nova_trusted_clone.clone import preflight, records
from nova_trusted_clone.clone.batch import Batch, FreezeFailed
from nova_trusted_clone.clone.helpers import Guard, Helper, decode, encode, remove
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.clone.outgoing import Outgoing, Serving
from nova_trusted_clone.clone.pace import Pace
from nova_trusted_clone.clone.source_vtpm import SourceVtpm, identity_of
from nova_trusted_clone.core.protocol.events import FreezeDone
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.datapath.control import ControlError
from nova_trusted_clone.datapath.processes import ProcessFailed
from nova_trusted_clone.ports import Frozen, RegionSource, ServerShape, VtpmInstance

LOG = logging.getLogger(__name__)
EXPORTER = "nova_trusted_clone.cmd.exporter"
POLL_S = 0.1
RELEASE_PAUSE_S = 1.0
LONGEST_RELEASE_PAUSE_S = 30.0


class FreezeJob:
    """One freeze and its clones."""

    def __init__(
        self, host: Host, group: str, server_uuid: str, exporter_module: str = EXPORTER
    ) -> None:
        self.group = group
        self.server_uuid = server_uuid
        self.pause_s = 0.0
        self.phase = "starting"
        self.directory = host.place.freezes / group
        self.batch = Batch(host, self.directory / "clones", self._dismiss)
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
        self._vtpm = SourceVtpm(host, server_uuid, self.batch)
        self._abort = threading.Event()
        self.released = threading.Event()

    # -- what is asked of it ------------------------------------------------------------------------------------------

    def run(self, others: Sequence[FreezeJob] = ()) -> None:
        """Carry it out, from the preflight to the release. Every clone has ended afterwards.

        :param others: freezes of the same server that must be released before
        """
        try:
            self._record("starting")
            self._await_turn(others)
            self._preflight()
            certificate = self._start_exporter()
            self._attest(certificate)
            self._early()
            self._freeze_and_offer()
            self._serve()
        except FreezeFailed as error:
            self.batch.fail_all(str(error))
        except Exception as error:
            LOG.exception("freeze %s", self.group)
            self.batch.fail_all(f"{type(error).__name__}: {error}")
        finally:
            self._release()

    def abort(self, clone_id: str | None, reason: str) -> None:
        """End one clone, or all.

        The freeze ends with its last clone by itself. Without an id those end too that are just being let in; with the id of a
        clone that is not of this freeze, since its host refused it, nothing ends.
        """
        for clone in self.batch.clones:
            if clone_id in (None, clone.clone_id):
                self.batch.fail(clone, reason)
        if clone_id is None:
            self._abort.set()

    def holds(self, server_uuid: str) -> bool:
        """Whether it is of that server, and may still have something on it."""
        return self.server_uuid == server_uuid and not self.released.is_set()

    def status(self) -> dict[str, Any]:
        """What an operator may know."""
        return {
            "group": self.group,
            "server": self.server_uuid,
            "phase": self.phase,
            "pause_us": round(self.pause_s * 1e6),
            "clones": [
                {"clone_id": clone.clone_id, "phase": clone.phase.value, "reason": clone.reason}
                for clone in self.batch.clones
            ],
        }

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _await_turn(self, others: Sequence[FreezeJob]) -> None:
        """A server has one freeze at a time. Destinations expect this one for as long as its orders are in force."""
        until = min(clone.order.expires_at for clone in self.batch.clones)
        while not all(other.released.is_set() for other in others):
            if self._abort.wait(POLL_S):
                raise FreezeFailed("aborted")
            self.batch.require_some()
            if self._host.now() > until:
                raise FreezeFailed(
                    "another freeze of the server did not end while the order was in force; order the clone anew"
                )

    def _preflight(self) -> None:
        shape: ServerShape = self._host.source.inspect(self.server_uuid)
        for clone in self.batch.clones:
            reasons = preflight.obstacles(clone.order, shape, clone.ground.policy)
            if reasons:
                clone.fail("; ".join(reasons))
        self.batch.require_some()
        if shape.vtpm_secret is not None:
            self._vtpm.fetch_passphrase(shape.vtpm_secret)

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
        self.batch.each(lambda clone: clone.attest(certificate))
        for clone in self.batch.running:
            self._exporter.call(
                "admit", certificate=encode(clone.store_certificate), clone_id=clone.clone_id
            )

    def _early(self) -> None:
        """Let the stores copy disks before the freeze, until each has been over them once or the limit is reached.

        What the source writes meanwhile is told by its digest, and copied again.
        """
        limit_s = self._host.limits.early_disk_limit_s
        if limit_s <= 0 or not self.batch.first.order.disks:
            return
        self._record("copying early")
        self._early_directory.mkdir(mode=0o700)
        disks = self._host.source.offer_disks(self.server_uuid, self._early_directory)
        try:
            self._exporter.call("early", regions=[_region_row(disk) for disk in disks])
            targets = tuple(disk.name for disk in disks)
            serving = Serving(self._host.place.listen_address, self._port)
            self.batch.each(lambda clone: clone.begin_early(targets, serving))
            self._await_early(limit_s)
            self._exporter.call("end_early")
        finally:
            self._host.source.release(self.server_uuid, self._early_directory)
            remove(self._early_directory)

    def _await_early(self, limit_s: float) -> None:
        deadline, pace = time.monotonic() + limit_s, Pace(POLL_S)
        while time.monotonic() < deadline and not self._abort.wait(pace.pause_s):
            self._exporter_status()
            self.batch.each(lambda clone: clone.poll())
            if all(clone.has_early_copy for clone in self.batch.running):
                return

    def _freeze_and_offer(self) -> None:
        self.batch.require_some()
        self._record("freezing")
        frozen = self._freeze()
        self.pause_s = frozen.pause_s
        reply = self._exporter.call(
            "frozen",
            regions=[
                _region_row(r)
                for r in (*frozen.regions, *self._vtpm.regions(frozen, self._freeze_directory))
            ],
        )
        event, vtpm = self._freeze_event(reply, frozen)
        serving = Serving(self._host.place.listen_address, int(reply["port"]))
        signer = vtpm.tpm.quote if vtpm is not None else None
        try:
            # One after the other: a vTPM answers one at a time, and each needs milliseconds.
            self.batch.each(lambda clone: clone.offer(event, signer, serving), workers=1)
        finally:
            if vtpm is not None:
                vtpm.discard()
        self._record("serving")

    def _freeze(self) -> Frozen:
        capture_socket = self._exporter.call("capture")["socket"]
        self._guard.wait_until_ready()
        frozen = self._host.source.freeze(
            self.server_uuid, self._freeze_directory, pathlib.Path(str(capture_socket))
        )
        self._guard.pause_is_over()
        return frozen

    def _freeze_event(
        self, reply: dict[str, Any], frozen: Frozen
    ) -> tuple[FreezeDone, VtpmInstance | None]:
        vtpm = self._vtpm.vouching(frozen)
        event = FreezeDone(
            freeze_id=bytes.fromhex(self.group),
            page_key=decode(reply["page_key"]),
            regions=tuple(
                (r["id"], r["kind"], r["name"], r["size_bytes"]) for r in reply["regions"]
            ),
            pause_us=round(frozen.pause_s * 1e6),
            vtpm=identity_of(vtpm),
        )
        return event, vtpm

    def _serve(self) -> None:
        """Watch over the exporter and the destinations until every clone has ended."""
        deadline, pace = time.monotonic() + self._host.limits.completion_limit_s, Pace(POLL_S)
        while running := self.batch.running:
            if self._abort.wait(pace.pause_s):
                raise FreezeFailed("aborted")
            if time.monotonic() > deadline:
                raise FreezeFailed(
                    f"not complete after {self._host.limits.completion_limit_s:.0f} s"
                )
            status = self._exporter_status()
            self.batch.each(lambda clone: clone.poll(), running)
            if status.get("root") is None:
                continue
            root, counts = decode(status["root"]), Counts(**status["counts"])
            fetched = [clone for clone in self.batch.running if clone.fetched]
            self.batch.each(lambda clone, r=root, c=counts: clone.finish(r, c), fetched)

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
            stack.callback(self._take_off, self._early_directory)
            stack.callback(self._take_off, self._freeze_directory)
            # With it goes what the memory is protected with: then whoever waited for a page goes on, QEMU itself too.
            stack.callback(self._exporter.stop)
            # Before these, so that two do not take a freeze off at once: it watches the exporter.
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
        self.batch.load()
        if phase == "ended":
            self.released.set()
            return
        if phase != "serving" or not self._exporter.alive:
            self.batch.fail_all(
                f"the service ended while the freeze was {phase}; order the clone anew"
            )
            self._release()
            return
        try:
            certificate = decode(self._exporter.call("identity")["certificate"])
            self.batch.each(lambda clone: clone.resume(certificate))
            self._serve()
        except Exception as error:
            LOG.exception("freeze %s after a restart", self.group)
            self.batch.fail_all(f"after a restart: {error}")
        finally:
            self._release()

    def _record(self, phase: str) -> None:
        self.phase = phase
        records.write(
            self.directory / "freeze.json",
            {"phase": phase, "server": self.server_uuid, "pause_s": self.pause_s},
        )

    def _dismiss(self, clone: Outgoing) -> None:
        try:
            self._exporter.call("dismiss", clone_id=clone.clone_id)
        except (ProcessFailed, ControlError, OSError) as error:
            LOG.info("freeze %s: nobody left to dismiss: %s", self.group, error)


def _region_row(region: RegionSource) -> dict[str, Any]:
    """A region as the exporter is told of it."""
    return {
        "kind": region.kind,
        "name": region.name,
        "size_bytes": region.size_bytes,
        "source": dict(region.source),
    }
