"""``spawn()`` of a server that is to be a clone.

    guest XML and instance directory → plug the ports → claim → order → the engine's phases → ports are up → an ordinary server

Nova does what it does for any server: which ports, which image files, which vTPM secret, waiting for the ports, cleaning up.
The engine starts the guest. Every step is taken back when a later one fails; then either Nova tries another host (this one
was refused), or the server goes to ERROR with the reason.

Leans on private methods of nova.virt.libvirt.driver.LibvirtDriver; each is named where it is called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import nova.conf
import oslo_messaging
from nova import exception
from nova.compute import utils as compute_utils
from nova.virt import driver as virt_driver
from nova.virt.libvirt import blockinfo
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging

from nova_trusted_clone.ports import Identity
from nova_trusted_clone.rpc.conductor import ConductorAPI
from nova_trusted_clone.rpc.errors import CloneError
from nova_trusted_clone.virt import guest, secrets, servers
from nova_trusted_clone.virt.follow import Follower
from nova_trusted_clone.virt.reception import (
    CloneEnded,
    Ending,
    Reception,
    Receptions,
    unclaimed,
)
from nova_trusted_clone.virt.servers import Mark
from nova_trusted_clone.virt.service import CloneService, Engine

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
EVENT = "trusted_clone_receive"
# A status ends the wait at once; that the server is still wanted is a question to the conductor.
LOOK_S = 2.0
RUNNING = frozenset(("provisional", "complete"))
CONFIG_DRIVE = "disk.config"
# What Nova does not answer with another host; everything else is tried elsewhere.
_ABORTS = (
    exception.BuildAbortException,
    exception.VirtualInterfaceCreateException,
    exception.VTPMSecretForbidden,
)


class HostRefused(Exception):
    """This host was refused. Nova answers any exception that it does not know by trying another host."""


@dataclasses.dataclass(frozen=True)
class Build:
    """What nova-compute gives ``spawn()``."""

    context: Any
    instance: Any
    image_meta: Any
    network_info: Any
    block_device_info: Any = None
    accel_info: Any = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a receiver works with: the driver is Nova's, the others are this host's own."""

    driver: Any
    engine: Engine
    receptions: Receptions
    conductor: ConductorAPI
    follower: Follower


def receive(
    parts: Parts | None, follower: Follower, service: CloneService, mark: Mark, build: Build
) -> None:
    """Receive a clone on this host, if it can.

    :raises HostRefused: when another host may do
    :raises BuildAbortException: with the reason, when none may
    :raises InstanceNotFound: when the server was deleted meanwhile
    """
    if parts is None:
        reason = service.why_not()
        ending = Ending(reason, "trusted-clone.host.unable", refused_here=True)
        follower.unborn(mark.group, build.instance.uuid, None, ending, retry=True)
        raise HostRefused(reason)
    Receiver(parts, mark, build).receive()


class Receiver:
    """Receives one clone."""

    def __init__(self, parts: Parts, mark: Mark, build: Build) -> None:
        self._parts = parts
        self._driver = parts.driver
        self._mark = mark
        self._build = build
        self._instance = build.instance
        self._clone_id = ""

    def receive(self) -> None:
        """Return when the clone runs and its ports are up; raises as the function ``receive``."""
        with (
            compute_utils.EventReporter(
                self._build.context, EVENT, CONF.host, self._instance.uuid, graceful_exit=True
            ),
            self._told(),
            self._taken_back(),
        ):
            identity = self._guest()
            with self._plugged():
                reception = Reception(identity, self._parts.engine.destination.prepare)
                self._parts.receptions.add(reception)
                self._claim(reception)
                self._clone_id = reception.wait_for_order(
                    CONF.trusted_clone.order_limit_s, self._require_wanted
                )
                self._follow(reception)
            self._become_ordinary()

    def take_over(self, clone_id: str) -> None:
        """Go on with a clone whose ``spawn()`` ended with a former nova-compute; it has its order already.

        :raises Exception: as ``receive``
        """
        self._clone_id = clone_id
        with self._told(), self._taken_back():
            self._follow(None)
            self._become_ordinary()

    def take_back(self, ending: Ending, clone_id: str | None) -> None:
        """Take back what a former nova-compute left of a clone that will not come."""
        self._clone_id = clone_id or ""
        with contextlib.suppress(CloneEnded), self._taken_back():
            raise CloneEnded(ending)
        self._tell(ending, retry=False)

    # -- before the claim ---------------------------------------------------------------------------------------------

    def _guest(self) -> Identity:
        """Have Nova decide on the guest's parts, and make its directory."""
        self._require_plain()
        build, instance = self._build, self._instance
        directory = pathlib.Path(libvirt_utils.get_instance_path(instance))
        directory.mkdir(parents=True, exist_ok=True)
        self._driver._ensure_console_log_for_instance(instance)
        disk_info = blockinfo.get_disk_info(
            CONF.libvirt.virt_type, instance, build.image_meta, build.block_device_info
        )
        secrets.define_for_clone(self._driver, build.context, instance, build.image_meta)
        xml = self._driver._get_guest_xml(
            build.context,
            instance,
            build.network_info,
            disk_info,
            build.image_meta,
            block_device_info=build.block_device_info,
        )
        try:
            identity = guest.identity(instance.name, instance.uuid, xml)
        except guest.UnfitGuest as error:
            raise self._abort(f"it cannot be a clone: {error}") from error
        write_disk_info(directory, identity)
        assert identity.host_side is not None
        self._fetch_boot_files(identity.host_side.boot)
        return identity

    def _fetch_boot_files(self, boot: Mapping[str, str]) -> None:
        """What the server's image has it start from, for its next start: from Glance, not from the source's host."""
        ids = {"kernel": self._instance.kernel_id, "initrd": self._instance.ramdisk_id}
        for tag, path in boot.items():
            certificates = self._instance.trusted_certs
            libvirt_utils.fetch_raw_image(self._build.context, path, ids[tag], certificates)

    def _require_plain(self) -> None:
        if virt_driver.block_device_info_get_mapping(self._build.block_device_info):
            raise self._abort("it has volumes; only servers with local disks can be cloned")
        if self._build.accel_info:
            raise self._abort("it has accelerators, whose state cannot be taken along")

    @contextlib.contextmanager
    def _plugged(self) -> Iterator[None]:
        """Plug the ports, and wait at the end until Neutron says that they are up, as ``_create_guest_with_network`` does."""
        driver, network_info = self._driver, self._build.network_info
        timeout_s = CONF.vif_plugging_timeout
        events = driver._get_neutron_events(network_info) if timeout_s else []
        try:
            with driver.virtapi.wait_for_instance_event(
                self._instance,
                events,
                timeout=timeout_s,
                error_callback=driver._neutron_failed_callback,
            ):
                driver.plug_vifs(self._instance, network_info)
                yield
        except exception.InstanceEventTimeout as error:
            if CONF.vif_plugging_is_fatal:
                raise exception.VirtualInterfaceCreateException() from error

    # -- from the claim to the running guest --------------------------------------------------------------------------

    def _claim(self, reception: Reception) -> None:
        host_id = self._parts.engine.host.local.host_id
        try:
            clone_id = self._parts.conductor.claim(
                self._build.context, self._mark.group, self._instance.uuid, CONF.host, host_id
            )
        except CloneError as error:
            raise CloneEnded(unclaimed(error)) from error
        self._clone_id = clone_id
        reception.claim(clone_id)

    def _follow(self, reception: Reception | None) -> None:
        """Wait until the guest runs."""
        destination = self._parts.engine.destination
        while True:
            status = destination.wait(self._clone_id, RUNNING, LOOK_S)
            if status["phase"] in RUNNING:
                return
            if status["phase"] == "failed":
                raise CloneEnded(_ending_of(status))
            self._require_wanted()

    def _require_wanted(self) -> None:
        """A broker, conductor or database that does not answer says nothing about the server: it is asked again.

        :raises InstanceNotFound: it is wanted no longer
        """
        try:
            servers.require_wanted(self._build.context, self._instance.uuid)
        except oslo_messaging.MessagingException as error:
            LOG.warning("is it still wanted? %s", error, instance=self._instance)

    def _become_ordinary(self) -> None:
        """From here on nothing but the marks says that it is a clone."""
        instance = self._instance
        directory = pathlib.Path(libvirt_utils.get_instance_path(instance))
        context = self._build.context
        # What the metadata service tells of devices; it is read from the running guest.
        instance.device_metadata = self._driver._build_device_metadata(context, instance)
        servers.make_done(
            instance,
            self._clone_id,
            foreign_config_drive=(directory / CONFIG_DRIVE).exists(),
        )
        self._driver._register_undefined_instance_details(context, instance)

    # -- ends ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell the conductor of an end, and tell Nova in a way that it answers rightly."""
        try:
            yield
        except CloneEnded as error:
            self._tell(error.ending, retry=error.ending.refused_here)
            if error.ending.refused_here:
                raise HostRefused(error.ending.reason) from error
            raise self._abort(error.ending.reason) from error
        except exception.InstanceNotFound as error:
            if servers.is_wanted(self._build.context, self._instance.uuid):
                # Libvirt does not know it, say: for Nova it would be a deletion, and the server be built for ever.
                ending = Ending(str(error), "trusted-clone.host.error", refused_here=True)
                self._tell(ending, retry=True)
                raise HostRefused(str(error)) from error
            ending = Ending("the server was deleted", "trusted-clone.server.deleted")
            self._tell(ending, retry=False)
            raise
        except Exception as error:
            ending = Ending(f"{type(error).__name__}: {error}", "trusted-clone.host.error")
            self._tell(ending, retry=not isinstance(error, _ABORTS))
            raise

    def _tell(self, ending: Ending, *, retry: bool) -> None:
        self._parts.follower.unborn(
            self._mark.group, self._instance.uuid, self._clone_id or None, ending, retry=retry
        )

    @contextlib.contextmanager
    def _taken_back(self) -> Iterator[None]:
        """Take everything back when the clone does not come; always let the secret go that was there for the start."""
        try:
            yield
        except BaseException as error:
            told = isinstance(error, CloneEnded)
            LOG.info("taking the clone back: %s", error, instance=self._instance, exc_info=not told)
            try:
                self._take_back(str(error))
            except Exception:
                # Nova cleans up a failed build once more by itself; the first reason is the one to be told.
                LOG.exception("not all of the clone was taken back", instance=self._instance)
            raise
        finally:
            secrets.let_go(self._driver, self._instance)
            reception = self._parts.receptions.of_server(self._instance.uuid)
            if reception is not None:
                self._parts.receptions.remove(reception)

    def _take_back(self, reason: str) -> None:
        build = self._build
        with contextlib.ExitStack() as steps:  # each is tried even if another fails
            steps.callback(self._driver._host.delete_secret, "vtpm", self._instance.uuid)
            steps.callback(
                self._driver._cleanup,
                build.context,
                self._instance,
                build.network_info,
                build.block_device_info,
                destroy_vifs=True,
                cleanup_instance_dir=True,
                cleanup_instance_disks=True,
            )
            steps.callback(self._driver._destroy, self._instance)
            steps.callback(self._parts.engine.destination.forget, self._instance.uuid, reason)

    def _abort(self, reason: str) -> Exception:
        error: Exception = exception.BuildAbortException(
            instance_uuid=self._instance.uuid, reason=reason
        )
        return error


def write_disk_info(directory: pathlib.Path, identity: Identity) -> None:
    """Tell Nova's image backends that every disk here is qcow2, the config drive too (``imagebackend.disk_info_path``)."""
    assert identity.host_side is not None
    formats = {str(path): "qcow2" for path in identity.host_side.disks.values()}
    (directory / "disk.info").write_text(json.dumps(formats))


def _ending_of(status: Any) -> Ending:
    code = str(status.get("code") or "trusted-clone.failed")
    return Ending(str(status["reason"]), code, refused_here=code == HOST_REFUSED)


HOST_REFUSED = "trusted-clone.host.refused"
