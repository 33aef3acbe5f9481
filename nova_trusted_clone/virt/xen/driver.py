"""Nova 34's libvirt driver for libvirt's Xen driver, which Nova itself supports no longer; and with clones.

Naming it as ``compute_driver`` is all that is needed: it sets ``virt_type`` itself, as Nova refuses ``xen`` in a file.

What Nova does for a hypervisor whose name it does not know is right for Xen in most places: neither QEMU's devices nor its
checks. Here is what is left.

=========================  =============================================================================================
asked                      answer
=========================  =============================================================================================
create, start, reboot,     Nova's own, with a definition for libxl
delete, pause, suspend,
snapshot, rescue, resize
console log                of a PVH or PV guest what xenconsoled wrote, of an HVM guest its serial line
console                    VNC of HVM guests; the other kinds have no display
volumes, interfaces        attached and detached by Xen's own protocol; a port must be a bridge's
config drive               a disk that cannot be written
vTPM                       kept by the host, for every server (the guest sees none)
live migration             refused beforehand
=========================  =============================================================================================

Leans on private methods of nova.virt.libvirt.driver.LibvirtDriver; each is overridden here by its name.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import nova.conf
from nova import exception
from nova.objects import fields
from nova.virt.libvirt import driver, vif
from oslo_log import log as logging

from nova_trusted_clone.hypervisor.drivers import VTPMS
from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms
from nova_trusted_clone.virt import servers
from nova_trusted_clone.virt.mixin import TrustedCloneMixin
from nova_trusted_clone.virt.xen import definition, names, vtpms
from nova_trusted_clone.virt.xen.definition import Kind
from nova_trusted_clone.virt.xen.host import XenHost
from nova_trusted_clone.vtpm.base import VtpmError

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
URI = "xen:///system"


class XenDriver(driver.LibvirtDriver):  # type: ignore[misc]
    """Nova's libvirt driver with Xen in the place of QEMU."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        names.teach()
        super().__init__(virtapi, read_only)
        self._host = XenHost(
            self._uri(),
            read_only,
            lifecycle_event_handler=self.emit_event,
            conn_event_handler=self._handle_conn_event,
        )
        self.vif_driver = vif.LibvirtGenericVIFDriver(self._host)

    @staticmethod
    def _uri() -> str:
        return str(CONF.libvirt.connection_uri or URI)

    def _get_instance_capabilities(self) -> list[tuple[str, str, str]]:
        """What the scheduler compares an image's wishes with; libxl's own names of its kinds are not Nova's."""
        modes = (fields.VMMode.HVM, fields.VMMode.XEN)
        return [(fields.Architecture.X86_64, fields.HVType.XEN, mode) for mode in modes]

    # -- what Nova says of every libvirt, and no Xen guest has --------------------------------------------------------

    def _get_packed_virtqueue_traits(self) -> dict[str, bool]:
        return {}

    def _get_sound_model_traits(self) -> dict[str, bool]:
        return {}

    def _get_iommu_model_traits(self) -> dict[str, bool]:
        return {}

    # -- a guest's definition -----------------------------------------------------------------------------------------

    def _get_guest_xml(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        disk_info: Any,
        image_meta: Any,
        *args: Any,
        **kwargs: Any,
    ) -> str:
        """As Nova's, for libxl.

        :raises UnsupportedHardware: when Xen has no such guest
        """
        xml = super()._get_guest_xml(
            context, instance, network_info, disk_info, image_meta, *args, **kwargs
        )
        try:
            return definition.of_guest(
                xml,
                _kind(image_meta, xml),
                self._get_console_log_path(instance),
                CONF.trusted_clone.xen_tsc_mode,
            )
        except definition.Unfit as error:
            raise exception.UnsupportedHardware(model=str(error), virt=names.VIRT_TYPE) from error

    def _find_default_for_image_property(
        self, instance: Any, image_property: str, disk_info: Any, guest_config: Any
    ) -> Any:
        """What Nova writes down of a server, so that it stays the same: its kind, not the machine that QEMU has by default."""
        if image_property == "hw_machine_type":
            return definition.kind_of(self._host.get_guest(instance).get_xml_desc()).value
        if image_property in ("hw_disk_bus", "hw_cdrom_bus"):
            return super()._find_default_for_image_property(
                instance, image_property, disk_info, guest_config
            )
        return None

    # -- what is asked of a guest -------------------------------------------------------------------------------------

    def get_console_output(self, context: Any, instance: Any) -> Any:
        """As Nova's for HVM; of the others what xenconsoled has written of them."""
        xml = self._host.get_guest(instance).get_xml_desc()
        if definition.kind_of(xml) is Kind.HVM:
            return super().get_console_output(context, instance)
        log = pathlib.Path(CONF.trusted_clone.xen_console_log_dir) / f"guest-{instance.name}.log"
        if not log.exists():
            LOG.info("%s is not there; does xenconsoled run with --log=guest?", log)
            return b""
        return self._get_console_output_file(instance, str(log))

    def check_can_live_migrate_destination(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, before anything is prepared.

        :raises MigrationPreCheckError: always
        """
        raise exception.MigrationPreCheckError(
            reason="servers on Xen are not migrated while they run; migrate them stopped"
        )


class XenLibvirtDriver(TrustedCloneMixin, XenDriver):
    """It receives and gives clones, too; and keeps a vTPM for each server."""

    @functools.cached_property
    def _vtpms(self) -> HostVtpms:
        return HostVtpms(pathlib.Path(CONF.trusted_clone.state_path) / VTPMS)

    def spawn(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """As Nova's, and a vTPM is made for the server. A clone comes with its own."""
        is_clone = servers.mark_of(instance) is not None
        super().spawn(context, instance, *args, **kwargs)
        if not is_clone:
            self._keep_vtpm(instance)

    def finish_migration(
        self, context: Any, migration: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As Nova's, and a vTPM of this host's is made: one is never handed from host to host."""
        super().finish_migration(context, migration, instance, *args, **kwargs)
        self._keep_vtpm(instance)

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        """As Nova's; the vTPM that this host kept for the server goes, too."""
        super().confirm_migration(context, migration, instance, network_info)
        if instance.host != CONF.host:
            self._vtpms.forget(instance.uuid)

    def _keep_vtpm(self, instance: Any) -> None:
        engine = self._clones.engine
        if engine is None:
            return
        try:
            vtpms.make(self._vtpms, engine.host, instance.uuid)
        except (VtpmError, OSError) as error:
            # The server runs and needs none. Whether it may be cloned without one is the policy's to say.
            LOG.error("no vTPM could be made for the server: %s", error, instance=instance)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As Nova's; with its disks goes its vTPM."""
        super().cleanup(
            context, instance, network_info, block_device_info, destroy_disks, *args, **kwargs
        )
        if destroy_disks:
            self._vtpms.forget(instance.uuid)


def _kind(image_meta: Any, xml: str) -> Kind:
    properties = image_meta.properties
    return definition.kind(
        properties.get("hw_machine_type"),
        properties.get("hw_vm_mode"),
        has_kernel="<kernel>" in xml,
    )
