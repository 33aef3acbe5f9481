"""Letting a clone run on this host, and ending it."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import time
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor import journals
from nova_trusted_clone.hypervisor.base import HypervisorError, RestoreFailed
from nova_trusted_clone.hypervisor.qemu import (
    compose,
    connection,
    definition,
    devicestate,
    hostside,
    identity,
    idprobe,
    images,
    memorylinks,
    nic,
    saveimage,
)
from nova_trusted_clone.hypervisor.qemu.identity import CloneDefinition
from nova_trusted_clone.hypervisor.qemu.identity import images as own_images
from nova_trusted_clone.hypervisor.qemu.memorylinks import MemoryLinks
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, of_domain
from nova_trusted_clone.ports import Identity, RestorePlan

LOG = logging.getLogger(__name__)
MEMORY_BACKING_DIR = pathlib.Path("/var/lib/libvirt/qemu/ram")
IMAGE = "restore.image"
JOURNAL = "restore.json"
# What libvirt keeps for a server beside its definition goes with it.
_UNDEFINE = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_TPM
_PULL_POLL_S = 0.2


class _WrongMemory(RestoreFailed):
    """QEMU did not map the store's files."""


class QemuDestination:
    """``ports.DestinationHypervisor`` for the libvirt at ``uri``.

    :param memory_backing_dir: as in this libvirt's qemu.conf
    """

    def __init__(self, uri: str, memory_backing_dir: pathlib.Path = MEMORY_BACKING_DIR) -> None:
        self._uri = uri
        self._memory_backing_dir = memory_backing_dir
        self._last_id = 0

    def restore(self, plan: RestorePlan) -> None:
        """Restore the clone, give it its identity and let it run; on an error leave nothing of it.

        :raises RestoreFailed: why it does not run
        """
        sizes = dict(plan.ram_block_order)
        store = memorylinks.require_files(plan.memory, sizes)
        if missing := sizes.keys() - plan.memory.keys() - plan.small_blocks.keys():
            raise RestoreFailed(f"blocks {sorted(missing)} are neither files nor in the stream")
        with connection.connected(self._uri) as libvirtd:
            connection.require_free(libvirtd, plan.identity.uuid, plan.identity.name)
            try:
                self._restore(libvirtd, plan, store)
            except (HypervisorError, libvirt.libvirtError, OSError) as error:
                LOG.warning("restoring %s: %s: ending it", plan.identity.uuid, error)
                self.destroy(plan.identity.uuid, plan.directory)
                raise RestoreFailed(f"clone {plan.identity.uuid}: {error}") from error

    def _restore(self, libvirtd: Any, plan: RestorePlan, store: pathlib.Path) -> None:
        made = identity.of_clone(plan.definition, plan.identity, plan.directory, plan.backings)
        overlays = {t: identity.image_of(plan.identity, plan.directory, t) for t in plan.backings}
        image = plan.directory / IMAGE
        named = identity.files_below(made.text, plan.directory)
        files = sorted({*named, *map(str, overlays.values()), str(image)})
        record = {"uuid": plan.identity.uuid, "name": plan.identity.name, "files": files}
        journal = plan.directory / JOURNAL
        journals.write(journal, record)
        for target, backing in plan.backings.items():
            if target in made.read_only:
                images.copy_whole(overlays[target], backing)
            else:
                images.create_overlay(overlays[target], backing)
        links = MemoryLinks(self._memory_backing_dir, plan.identity.name)
        try:
            _write_image(image, made, plan)
            domain = self._start(libvirtd, plan, links, store, image)
        finally:
            # It holds the clone's vTPM.
            image.unlink(missing_ok=True)
        process = dataclasses.asdict(of_domain(plan.identity.uuid))
        journals.write(journal, {**record, "process": process})
        monitor = Monitor(domain)
        cards = nic.silence(domain, monitor)
        domain.resume()
        nic.swap(domain, cards, made.interfaces)
        side = plan.identity.host_side
        if side is not None and side.persistent:
            flags = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE
            libvirtd.defineXML(hostside.persistent(domain.XMLDesc(flags)))

    def _start(
        self,
        libvirtd: Any,
        plan: RestorePlan,
        links: MemoryLinks,
        store: pathlib.Path,
        image: pathlib.Path,
    ) -> Any:
        """Start the clone, paused, on the store's memory.

        The first try guesses the domain's id. If QEMU then finds an empty memory it fails, or is found to map
        other files, and the second try begins with the id learned from a domain that is started for that alone.
        """
        first = max([self._last_id, *libvirtd.listDomainsID()]) + 1
        try:
            return self._try(libvirtd, plan, links, store, image, first)
        except (_WrongMemory, libvirt.libvirtError) as error:
            LOG.info(
                "clone %s with ids from %d: %s: learning the id", plan.identity.uuid, first, error
            )
        self._last_id = idprobe.learn_id(libvirtd, plan.definition)
        try:
            return self._try(libvirtd, plan, links, store, image, self._last_id + 1)
        except libvirt.libvirtError as error:
            raise RestoreFailed(
                f"{error} (if it is the memory that does not fit: is {self._memory_backing_dir} this libvirt's "
                "memory_backing_dir?)"
            ) from error

    def _try(
        self,
        libvirtd: Any,
        plan: RestorePlan,
        links: MemoryLinks,
        store: pathlib.Path,
        image: pathlib.Path,
        first_id: int,
    ) -> Any:
        links.lay(first_id, store)
        used = None
        try:
            libvirtd.restoreFlags(str(image), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
            domain = connection.find(libvirtd, plan.identity.uuid)
            self._last_id = domain.ID()
            if not memorylinks.mapped(of_domain(plan.identity.uuid), plan.memory):
                domain.destroy()
                raise _WrongMemory(
                    f"QEMU does not map the store's files: is {self._memory_backing_dir} this libvirt's "
                    "memory_backing_dir?"
                )
            used = self._last_id
        finally:
            links.clear(keep=used)
        return domain

    def settle(self, identity: Identity, directory: pathlib.Path) -> None:
        """Pull the rest of the disks, so that they need the store no longer; of a clone that does not run, too.

        Memory goes on being the store's file for as long as this QEMU runs: the store must stay until then.

        :raises HypervisorError: a disk could not be pulled
        """
        server_uuid = identity.uuid
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find_or_none(libvirtd, server_uuid)
            try:
                if domain is None or not domain.isActive():
                    for path in own_images(identity, directory):
                        images.detach(path)
                    return
                for target in _backed_disks(domain):
                    domain.blockPull(target, 0, 0)
                    while domain.blockJobInfo(target, 0):
                        time.sleep(_PULL_POLL_S)
                left = _backed_disks(domain)
            except libvirt.libvirtError as error:
                raise HypervisorError(f"a disk was not pulled: {error}") from error
            if left:
                raise HypervisorError(f"disks {left} still need the store")

    def warm_up(self) -> None:
        """Have libvirt look at what QEMU can do now: it takes seconds, which the first clone would wait for otherwise.

        :raises HypervisorError: libvirt does not answer, or knows no QEMU
        """
        with connection.connected(self._uri) as libvirtd:
            try:
                libvirtd.getDomainCapabilities(None, None, None, None, 0)
            except libvirt.libvirtError as error:
                raise HypervisorError(f"{self._uri}: {error}") from error

    def exists(self, server_uuid: str, directory: pathlib.Path) -> bool:
        """Whether the process that ``restore`` started is there, running or paused; not one that was started since."""
        record = _journal(directory)
        if record is None or "process" not in record:
            return False
        return ProcessId(**record["process"]).alive()

    def pause(self, server_uuid: str) -> None:
        """Stop the clone's processors; harmless when they are stopped.

        :raises ServerNotFound: there is none
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find(libvirtd, server_uuid)
            if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                domain.suspend()

    def destroy(self, server_uuid: str, directory: pathlib.Path) -> None:
        """End the clone and remove what ``restore`` made; harmless when there is none.

        :raises HypervisorError: it does not end
        """
        with connection.connected(self._uri) as libvirtd:
            domain = connection.find_or_none(libvirtd, server_uuid)
            if domain is not None:
                connection.end(domain, _UNDEFINE)
        record = _journal(directory)
        if record is None:
            return
        for path in record["files"]:
            pathlib.Path(path).unlink(missing_ok=True)
        MemoryLinks(self._memory_backing_dir, record["name"]).clear()
        (directory / JOURNAL).unlink(missing_ok=True)


def _journal(directory: pathlib.Path) -> dict[str, Any] | None:
    """What ``restore`` wrote down; None when it made nothing there.

    :raises HypervisorError: it is there and not readable
    """

    def record_of(raw: dict[str, Any]) -> dict[str, Any]:
        return {**raw, "files": [str(file) for file in raw["files"]], "name": str(raw["name"])}

    return journals.read(directory / JOURNAL, record_of)


def _write_image(path: pathlib.Path, made: CloneDefinition, plan: RestorePlan) -> None:
    state = devicestate.give_vtpm(plan.device_state.read_bytes(), plan.vtpm)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(saveimage.header(made.text))
        for part in compose.incoming_stream(
            made.machine, plan.ram_block_order, plan.small_blocks, state
        ):
            file.write(part)


def _backed_disks(domain: Any) -> list[str]:
    root = definition.parse(domain.XMLDesc(0))
    return [
        target.get("dev", "")
        for disk in root.iterfind("devices/disk")
        if disk.find("backingStore/source") is not None
        and (target := disk.find("target")) is not None
    ]
