"""Letting a Xen clone run on this host, and ending it."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor import journals
from nova_trusted_clone.hypervisor.base import HypervisorError, MalformedState, RestoreFailed
from nova_trusted_clone.hypervisor.qemu import connection, definition, images
from nova_trusted_clone.hypervisor.qemu.identity import image_of
from nova_trusted_clone.hypervisor.qemu.identity import images as own_images
from nova_trusted_clone.hypervisor.xen import (
    cpupolicy,
    disks,
    identity,
    monitor,
    proof,
    saver,
    sending,
)
from nova_trusted_clone.hypervisor.xen.records import PAGE, Guest
from nova_trusted_clone.hypervisor.xen.state import DomainState, Range
from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms
from nova_trusted_clone.ports import Identity, RestorePlan

LOG = logging.getLogger(__name__)
PIPE = "restore.pipe"
JOURNAL = "restore.json"
MAX_STATE_BYTES = 256 << 20


class XenDestination:
    """``ports.DestinationHypervisor`` for the libvirt at ``uri``, which is this host's.

    :param vtpms: where the clones' vTPMs are kept
    """

    def __init__(self, uri: str, vtpms: HostVtpms) -> None:
        self._uri = uri
        self._vtpms = vtpms

    def restore(self, plan: RestorePlan) -> None:
        """Restore the clone, give it its identity and let it run; on an error leave nothing of it.

        :raises RestoreFailed: why it does not run
        """
        try:
            state = _read_state(plan.device_state)
            memory = _files_of(state, plan)
        except (MalformedState, OSError) as error:
            raise RestoreFailed(f"clone {plan.identity.uuid}: {error}") from error
        with connection.connected(self._uri) as libvirtd:
            connection.require_free(libvirtd, plan.identity.uuid, plan.identity.name)
            try:
                self._restore(libvirtd, plan, state, memory)
            except (HypervisorError, libvirt.libvirtError, OSError) as error:
                LOG.warning("restoring %s: %s: ending it", plan.identity.uuid, error)
                self.destroy(plan.identity.uuid, plan.directory)
                raise RestoreFailed(f"clone {plan.identity.uuid}: {error}") from error

    def _restore(
        self,
        libvirtd: Any,
        plan: RestorePlan,
        state: DomainState,
        memory: Mapping[Range, pathlib.Path],
    ) -> None:
        # Asked of Xen by a hypercall: nothing is forked for it.
        cpupolicy.require_fitting(state, saver.library().host_policy(state.guest is Guest.HVM))
        text = identity.of_clone(plan.definition, plan.identity, plan.directory, plan.backings)
        _require_boot_files(text)
        overlays = {t: image_of(plan.identity, plan.directory, t) for t in plan.backings}
        pipe = plan.directory / PIPE
        files = sorted({*map(str, overlays.values()), str(pipe)})
        journals.write(plan.directory / JOURNAL, {"uuid": plan.identity.uuid, "files": files})
        for target, backing in plan.backings.items():
            images.create_overlay(overlays[target], backing)
        if plan.vtpm is not None:
            self._vtpms.keep(plan.identity.uuid, plan.vtpm)
        with sending.sent(pipe, text, state, memory):
            libvirtd.restoreFlags(str(pipe), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
        domain = connection.find(libvirtd, plan.identity.uuid)
        journals.write(
            plan.directory / JOURNAL,
            {"uuid": plan.identity.uuid, "files": files, "domain": domain.ID()},
        )
        domain.resume()
        proof.require_running(domain)
        side = plan.identity.host_side
        if side is not None and side.persistent:
            libvirtd.defineXML(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def settle(self, identity: Identity, directory: pathlib.Path) -> None:
        """Copy the rest of the disks, so that they need the store no longer; of a clone that does not run, too.

        :raises HypervisorError: a disk could not be copied
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find_or_none(libvirtd, identity.uuid)
            if domain is None or not domain.isActive():
                for path in own_images(identity, directory):
                    images.detach(path)
                return
            paths = own_images(identity, directory)
            if not paths:
                return
            with monitor.connected(domain.ID()) as qemu:
                disks.pull(qemu, paths)

    def warm_up(self) -> None:
        """Have libvirt answer once.

        :raises HypervisorError: it does not
        """
        with connection.connected(self._uri) as libvirtd:
            try:
                libvirtd.getCapabilities()
            except libvirt.libvirtError as error:
                raise HypervisorError(f"{self._uri}: {error}") from error

    def exists(self, server_uuid: str, directory: pathlib.Path) -> bool:
        """Whether the domain that ``restore`` started is there; not one that was started since.

        Its memory is its own: what the store is needed for are its disks, until they have settled.
        """
        record = _journal(directory)
        if record is None or "domain" not in record:
            return False
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find_or_none(libvirtd, server_uuid)
            return (
                domain is not None and bool(domain.isActive()) and domain.ID() == record["domain"]
            )

    def pause(self, server_uuid: str) -> None:
        """Stop the clone's processors; harmless when they are stopped.

        :raises ServerNotFound: there is none
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find(libvirtd, server_uuid)
            if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                domain.suspend()

    def destroy(self, server_uuid: str, directory: pathlib.Path) -> None:
        """End the clone and remove what ``restore`` made; harmless when there is none.

        :raises HypervisorError: it does not end
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find_or_none(libvirtd, server_uuid)
            if domain is not None:
                connection.end(domain)
        record = _journal(directory)
        if record is None:
            return
        for path in record["files"]:
            pathlib.Path(path).unlink(missing_ok=True)
        self._vtpms.forget(server_uuid)
        (directory / JOURNAL).unlink(missing_ok=True)


def _read_state(path: pathlib.Path) -> DomainState:
    with path.open("rb") as file:
        raw = file.read(MAX_STATE_BYTES + 1)
    if len(raw) > MAX_STATE_BYTES:
        raise MalformedState(f"domain state: more than {MAX_STATE_BYTES} bytes")
    return DomainState.decode(raw)


def _files_of(state: DomainState, plan: RestorePlan) -> dict[Range, pathlib.Path]:
    """The file of each range of the state's.

    :raises MalformedState: the regions are not those of the state
    """
    expected = {one.name: one.count * PAGE for one in state.ranges}
    if expected != dict(plan.ram_block_order):
        raise MalformedState(
            f"the state has ranges {expected}, the regions are {plan.ram_block_order}"
        )
    paths = {**plan.memory, **plan.small_blocks}
    return {one: paths[one.name] for one in state.ranges}


def _require_boot_files(text: str) -> None:
    """The device model of an HVM domain opens them at a restore, too, and says in its own log only what is missing.

    :raises RestoreFailed: naming the file
    """
    root = definition.parse(text)
    if root.findtext("os/type") != identity.FULL:
        return
    for tag in ("kernel", "initrd"):
        name = root.findtext(f"os/{tag}")
        if name and not pathlib.Path(name).is_file():
            raise RestoreFailed(f"{name}, from which the server was booted, is not on this host")


def _journal(directory: pathlib.Path) -> dict[str, Any] | None:
    """What ``restore`` wrote down; None when it made nothing there.

    :raises HypervisorError: it is there and not readable
    """

    def record_of(raw: dict[str, Any]) -> dict[str, Any]:
        return {**raw, "files": [str(file) for file in raw["files"]]}

    return journals.read(directory / JOURNAL, record_of)
