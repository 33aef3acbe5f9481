"""What nova's records say against cloning a server, in words: everything, not only the first.

What only its host can know (memory that cannot be frozen, a guest that has stopped, its firmware) the host says (``inspect``).

Leans on nova.objects.Instance and BlockDeviceMappingList, and on nova.virt.hardware for memory encryption.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nova import exception, objects
from nova.network import model as network_model
from nova.virt import hardware

# Of flavors' extra specs: resources[group]:CLASS. Custom classes of mediated devices are found by the host.
_DEVICE_RESOURCE = re.compile(r"resources\w*:(VGPU|PGPU|FPGA|PCI_DEVICE)")
_ELSEWHERE = "only local disks can be cloned: detach it"


def of_records(context: Any, instance: Any, block_devices: Any) -> list[str]:
    """Return every reason against cloning the server.

    :param context: one that is targeted at the server's cell
    """
    return [
        *_devices(instance),
        *_interfaces(instance),
        *_memory(instance),
        *_disks(block_devices),
        *_shares(context, instance),
    ]


def _devices(instance: Any) -> Iterator[str]:
    extra_specs = instance.flavor.extra_specs or {}
    if instance.pci_devices or (instance.pci_requests and instance.pci_requests.requests):
        yield "PCI devices are passed through to the server, and their state cannot be taken along"
    for key in sorted(extra_specs):
        found = _DEVICE_RESOURCE.fullmatch(key)
        if found:
            yield f"its flavor asks for a device of the host ({found[1]}), whose state cannot be taken along"
    if extra_specs.get("accel:device_profile"):
        yield "its flavor asks for an accelerator, whose state cannot be taken along"


def _interfaces(instance: Any) -> Iterator[str]:
    for vif in instance.get_network_info():
        kind = vif.get("vnic_type", network_model.VNIC_TYPE_NORMAL)
        if kind != network_model.VNIC_TYPE_NORMAL:
            yield (
                f"its interface {vif['id']} is of type {kind} (SR-IOV, vDPA or managed by a device): detach it, or use one "
                "of type normal"
            )


def _memory(instance: Any) -> Iterator[str]:
    if _is_encrypted(instance):
        yield "its memory is encrypted against its host (SEV or TDX), so that no host can read it for a clone"
    if instance.resources:
        yield "it has persistent memory of its host (vPMEM), which cannot be taken along"


def _is_encrypted(instance: Any) -> bool:
    try:
        return bool(hardware.get_mem_encryption_constraint(instance.flavor, instance.image_meta))
    except exception.NovaException:
        return True  # it is asked for, beside something that contradicts it


def _disks(block_devices: Any) -> Iterator[str]:
    for disk in block_devices:
        if disk.is_root and disk.is_volume:
            yield f"it boots from volume {disk.volume_id}: only servers with a local root disk can be cloned"
        elif disk.is_volume:
            yield f"volume {disk.volume_id} is attached to it: {_ELSEWHERE}"
        elif disk.encrypted:
            yield f"its disk {disk.device_name} is encrypted by its host with a key of its own"


def _shares(context: Any, instance: Any) -> Iterator[str]:
    for share in objects.share_mapping.ShareMappingList.get_by_instance_uuid(
        context, instance.uuid
    ):
        yield f"share {share.share_id} is attached to it: detach it"
