"""Nova's compute API, making servers that are to be clones.

Quotas, placement, scheduling, ports, events and notifications are nova's own: a clone is made as any server is. Beside
that it carries two marks, needs a trait of its host, and its image, key pair and disks are those of its source.

Leans on nova.compute.api.API: its decorators, ``create``, and the private methods ``_get_image`` and
``_validate_and_build_base_options`` that ``create`` calls; on nova.scheduler for what the scheduler will ask of placement.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from nova import context as nova_context
from nova import exception, objects
from nova.compute import api as compute
from nova.compute import vm_states
from nova.scheduler import request_filter
from nova.scheduler import utils as scheduler_utils
from oslo_log import log as logging
from oslo_utils import uuidutils

from nova_trusted_clone.api.faults import Away, BadRequest, NotNow
from nova_trusted_clone.api.source import Template

LOG = logging.getLogger(__name__)

TRAIT = "CUSTOM_TRUSTED_CLONE"
# Keys of a clone's system metadata: what nova-compute receives a clone for (virt.servers).
GROUP_MARK, SOURCE_MARK = "trusted_clone_group", "trusted_clone_source"
ACTION = "trusted_clone"
"""The source's instance action; the clones have nova's own, ``create``, with the same request id."""


@dataclasses.dataclass(frozen=True)
class Making:
    """One request for servers."""

    group: str
    template: Template
    count: int
    name: str
    networks: Any
    security_groups: Sequence[str]
    metadata: dict[str, str]
    availability_zone: str | None
    host: str | None


class API(compute.API):
    """One for all requests; ``make`` works on a copy of it."""

    _making: Making

    @compute.check_instance_lock
    @compute.check_instance_state(vm_state=[vm_states.ACTIVE])
    @compute.check_instance_host(check_is_up=True)
    def trusted_clone(self, context: Any, instance: Any) -> None:
        """Require what nova requires of a server before anything is done with it.

        :raises InstanceInvalidState: it is not ACTIVE, or has a task
        :raises InstanceIsLocked: it is locked, and the caller no administrator
        :raises ServiceUnavailable: its host is down
        :raises NotNow: its host offers no trusted clones
        """
        node = objects.ComputeNode.get_by_host_and_nodename(context, instance.host, instance.node)
        try:
            traits = self.placementclient.get_provider_traits(context, node.uuid).traits
        except exception.ResourceProviderTraitRetrievalFailed as error:
            raise Away("Nova's placement service did not tell about the server's host") from error
        if TRAIT not in traits:
            raise NotNow(
                "The server's host does not offer trusted clones at present: ask the operator to move the server to one "
                "that does"
            )

    def make(self, context: Any, making: Making) -> list[Any]:
        """Create the servers, all or none, and hand them to the scheduler.

        :param context: any; it need not be targeted at a cell
        :raises Exception: as nova's ``create``; ``faults.TABLE`` has them all
        """
        bound = copy.copy(self)
        bound._making = making
        template = making.template
        with nova_context.target_cell(context, None) as everywhere:
            instances, _reservation = bound.create(
                everywhere,
                template.flavor,
                template.image_ref,
                min_count=making.count,
                max_count=making.count,
                display_name=making.name,
                key_name=template.key_name,
                key_data=template.key_data,
                security_groups=list(making.security_groups),
                availability_zone=making.availability_zone,
                user_data=template.user_data,
                metadata=making.metadata,
                block_device_mapping=[copy.copy(disk) for disk in template.disks],
                legacy_bdm=False,
                requested_networks=making.networks,
                config_drive=template.config_drive,
                scheduler_hints={},  # None crashes the scheduler
                check_server_group_quota=True,
                trusted_certs=template.trusted_certs,
                supports_port_resource_request=True,
                requested_host=making.host,
            )
        return list(instances)

    def unmake(self, context: Any, servers: Sequence[str]) -> None:
        """Delete servers that nobody will clone into; one that cannot be deleted is logged."""
        for server in servers:
            try:
                self.delete(context, self.get(context, server))
            except exception.InstanceNotFound:
                LOG.debug("Server %s is gone already", server)
            except Exception:
                LOG.exception(
                    "Server %s was made for a clone that will not be, and could not be deleted",
                    server,
                )

    def tell_started(self, context: Any, instance: Any, action: str = ACTION) -> None:
        """Note in the server's list of events what was asked of it."""
        self._record_action_start(context, instance, action)

    # -- what create() asks of itself ---------------------------------------------------------------------------------

    def _get_image(self, context: Any, image_href: str) -> tuple[str, dict[str, Any]]:
        """The image as the source was booted from it: glance may have changed or lost it since."""
        return image_href, copy.deepcopy(dict(self._making.template.image))

    def _validate_and_build_base_options(
        self, context: Any, flavor: Any, boot_meta: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        options, most, _key_pair, *rest = super()._validate_and_build_base_options(
            context, flavor, boot_meta, *args, **kwargs
        )
        if options["pci_requests"].requests:
            raise BadRequest(
                "networks: a port asks for a device of its host (SR-IOV), into which no guest can be put that runs "
                "already: give ports of type normal"
            )
        options["system_metadata"] |= {
            GROUP_MARK: self._making.group,
            SOURCE_MARK: self._making.template.server,
        }
        wanted = options["request_level_params"] or objects.RequestLevelParams()
        wanted.root_required = {*wanted.root_required, TRAIT}
        options["request_level_params"] = wanted
        self._require_room(context, flavor, boot_meta, options)
        return (options, most, self._making.template.key_pair, *rest)

    def _require_room(self, context: Any, flavor: Any, image: Any, options: Any) -> None:
        """Ask placement what the scheduler will ask, for one host.

        It spares the client a server in ERROR where it is known beforehand. Whether all the clones find room, and what the
        scheduler's filters say, comes out when they are scheduled.

        :raises NoValidHost: when no host can be
        """
        spec = objects.RequestSpec.from_components(
            context,
            uuidutils.generate_uuid(),
            image,
            flavor,
            options["numa_topology"],
            options["pci_requests"],
            {},
            None,
            options["availability_zone"],
            port_resource_requests=options["port_resource_requests"],
            request_level_params=copy.deepcopy(options["request_level_params"]),
        )
        spec.is_bfv = False
        spec.requested_networks = self._making.networks
        request_filter.process_reqspec(context, spec)
        wanted = scheduler_utils.resources_from_request_spec(context, spec, host_manager=None)
        wanted._limit = 1
        answer = self.placementclient.get_allocation_candidates(context, wanted)
        if answer is None:
            raise Away("Nova's placement service does not answer")
        # Placement refuses to look for a trait that no host has ever had; the client then gives None for the list.
        if not answer[0]:
            raise exception.NoValidHost(
                reason="no host that can receive trusted clones has room for the server's flavor"
            )
