"""The mixin over nova.virt.libvirt.driver.LibvirtDriver (Nova 34): what nova-compute asks becomes calls of this package.

It holds no logic. Methods have the signatures of Nova's, which they call.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import nova.conf
import oslo_messaging as messaging
from nova import exception, rpc
from nova.virt import event as virtevent
from oslo_log import log as logging

from nova_trusted_clone.conf import opts
from nova_trusted_clone.rpc import COMPUTE_TOPIC
from nova_trusted_clone.rpc.conductor import ConductorAPI
from nova_trusted_clone.virt import configdrive, guest, servers, startup
from nova_trusted_clone.virt.endpoint import ComputeEndpoint
from nova_trusted_clone.virt.follow import Follower
from nova_trusted_clone.virt.lifecycle import Lifecycle
from nova_trusted_clone.virt.protect import Busy, Need, Protection
from nova_trusted_clone.virt.receive import Build, Parts, receive
from nova_trusted_clone.virt.reception import Receptions
from nova_trusted_clone.virt.service import CloneService

if TYPE_CHECKING:
    from nova.virt.libvirt.driver import LibvirtDriver as _NovaDriver
else:
    _NovaDriver = object

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
TRAIT = "CUSTOM_TRUSTED_CLONE"

opts.register(CONF)


class TrustedCloneMixin(_NovaDriver):  # type: ignore[misc]
    """Receives clones in ``spawn()``, gives them by RPC, and keeps both apart from what else is done with a server."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        super().__init__(virtapi, read_only)
        self._receptions = Receptions()
        self._conductor = ConductorAPI()
        self._follower = Follower(
            self._conductor, self._receptions, pathlib.Path(CONF.trusted_clone.state_path)
        )
        self._clones = CloneService(self._follower.listen, self._follower.start)
        self._clone_rpc: Any = None
        self._lifecycle = Lifecycle(super().emit_event)

    # -- the service's life -------------------------------------------------------------------------------------------

    def init_host(self, host: str) -> None:
        """As Nova's; then the engine takes over what a former nova-compute left, and RPC begins."""
        super().init_host(host)
        self._clones.look()
        target = messaging.Target(topic=COMPUTE_TOPIC, server=CONF.host)
        endpoint = ComputeEndpoint(self._clones, self._receptions)
        self._clone_rpc = rpc.get_server(target, [endpoint])
        self._clone_rpc.start()

    def process_instances_at_startup(self, context: Any, instances: Any) -> Any:
        """As Nova's; clones whose build was interrupted are taken over, or taken back."""
        instances = super().process_instances_at_startup(context, instances)
        return startup.process(self._parts(), context, instances)

    def cleanup_host(self, host: str) -> None:
        """As Nova's; clones and freezes go on by themselves."""
        if self._clone_rpc is not None:
            self._clone_rpc.stop()
            self._clone_rpc.wait()
        self._follower.close()
        self._clones.stop()
        super().cleanup_host(host)

    def update_provider_tree(
        self, provider_tree: Any, nodename: str, allocations: Any = None
    ) -> None:
        """As Nova's; with the trait that the scheduler asks for where this host can receive clones."""
        super().update_provider_tree(provider_tree, nodename, allocations=allocations)
        if self._clones.look():
            provider_tree.add_traits(nodename, TRAIT)
        else:
            provider_tree.remove_traits(nodename, TRAIT)

    def emit_event(self, event: Any) -> None:
        """As Nova's, but a lifecycle's event does not hold up libvirt's event loop while Nova takes it in."""
        if isinstance(event, virtevent.LifecycleEvent):
            self._lifecycle.take(event)
        else:
            super().emit_event(event)

    def _parts(self) -> Parts | None:
        engine = self._clones.engine
        if engine is None:
            return None
        return Parts(self, engine, self._receptions, self._conductor, self._follower)

    # -- servers that are clones --------------------------------------------------------------------------------------

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
    ) -> None:
        """As Nova's, but a server that the API marked as a clone is received."""
        mark = servers.mark_of(instance)
        if mark is None:
            super().spawn(
                context,
                instance,
                image_meta,
                injected_files,
                admin_password,
                allocations,
                network_info=network_info,
                block_device_info=block_device_info,
                power_on=power_on,
                accel_info=accel_info,
            )
            return
        build = Build(context, instance, image_meta, network_info, block_device_info, accel_info)
        receive(self._parts(), self._follower, self._clones, mark, build)

    def _get_guest_xml(
        self, context: Any, instance: Any, network_info: Any, *args: Any, **kwargs: Any
    ) -> str:
        """As Nova's; with a generation id, and for a clone that starts anew with a config drive of its own."""
        if not (args[2:] or kwargs.get("rescue")):
            configdrive.renew(instance, network_info)
        xml = super()._get_guest_xml(context, instance, network_info, *args, **kwargs)
        return guest.with_generation_id(xml)

    # -- what else is done with a server ------------------------------------------------------------------------------

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """As Nova's, when its clones, or it as a clone, have finished or were ended."""
        if destroy_disks:
            self._make_way(instance, Need.DESTROYS, "the deletion")
        else:
            self._make_way(instance, Need.DISRUPTS, "a restart")
        super().destroy(
            context, instance, network_info, block_device_info, destroy_disks, destroy_secrets
        )

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
        """As Nova's; the engine's records of a clone that has left this host go too."""
        super().cleanup(
            context, instance, network_info, block_device_info, destroy_disks, *args, **kwargs
        )
        if destroy_disks:
            self._forget(instance, "the server was deleted")

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        """As Nova's; the engine's records of a clone that has left this host go too."""
        super().confirm_migration(context, migration, instance, network_info)
        if instance.host != CONF.host:
            self._forget(instance, "the server has moved to another host")

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.DISRUPTS, "a stop")
        super().power_off(instance, timeout, retry_interval)

    def reboot(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> Any:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.DISRUPTS, "a reboot")
        return super().reboot(context, instance, *args, **kwargs)

    def pause(self, instance: Any) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.DISRUPTS, "a pause")
        super().pause(instance)

    def suspend(self, context: Any, instance: Any) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.DISRUPTS, "a suspension")
        super().suspend(context, instance)

    def rescue(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.DISRUPTS, "a rescue")
        super().rescue(context, instance, *args, **kwargs)

    def snapshot(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.DISRUPTS, "a snapshot")
        super().snapshot(context, instance, *args, **kwargs)

    def attach_volume(
        self, context: Any, connection_info: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.CHANGES, "attaching a volume")
        super().attach_volume(context, connection_info, instance, *args, **kwargs)

    def detach_volume(
        self, context: Any, connection_info: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.CHANGES, "detaching a volume")
        super().detach_volume(context, connection_info, instance, *args, **kwargs)

    def attach_interface(self, context: Any, instance: Any, image_meta: Any, vif: Any) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.CHANGES, "attaching an interface")
        super().attach_interface(context, instance, image_meta, vif)

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        """As Nova's, when way was made."""
        self._make_way(instance, Need.CHANGES, "detaching an interface")
        super().detach_interface(context, instance, vif)

    def check_can_live_migrate_source(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As Nova's, when way was made and it can move; later a freeze does not begin, since Nova says that it migrates."""
        try:
            self._make_way(instance, Need.DISRUPTS, "a live migration")
        except exception.InstanceInvalidState as error:
            raise exception.MigrationPreCheckError(reason=str(error)) from error
        # With that option Nova itself has every server's memory in files, and moves it so.
        if not CONF.libvirt.file_backed_memory:
            reason = guest.immovable(self._host.get_guest(instance).get_xml_desc())
            if reason is not None:
                raise exception.MigrationPreCheckError(reason=reason)
        return super().check_can_live_migrate_source(context, instance, *args, **kwargs)

    def migrate_disk_and_power_off(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As Nova's, when way was made; otherwise the server stays as it is."""
        try:
            self._make_way(instance, Need.DISRUPTS, "a migration")
        except exception.InstanceInvalidState as error:
            check = exception.MigrationPreCheckError(reason=str(error))
            raise exception.InstanceFaultRollback(check) from error
        return super().migrate_disk_and_power_off(context, instance, *args, **kwargs)

    def _make_way(self, instance: Any, need: Need, operation: str) -> None:
        """Have clones out of an operation's way.

        :raises InstanceInvalidState: when it must not go on now, with what to do
        """
        engine = self._clones.engine
        if engine is None:
            return
        ways = Protection(
            engine.source,
            engine.destination,
            self._follower.expect_end,
            CONF.trusted_clone.protect_limit_s,
        )
        try:
            ways.before(instance.uuid, need, operation)
        except Busy as error:
            raise exception.InstanceInvalidState(str(error)) from error

    def _forget(self, instance: Any, reason: str) -> None:
        engine = self._clones.engine
        if engine is not None:
            engine.destination.forget(instance.uuid, reason)
