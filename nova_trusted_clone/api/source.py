"""What clones take over from their source: a list of things by name, and nothing else.

Above all not its system metadata: in there is the secret of its vTPM, and deleting the clone would delete it. And not
today's image: the properties that the server was booted with decide on its hardware, and the guest runs already.

Leans on nova.objects.Instance, RequestSpec and BlockDeviceMapping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nova import block_device, exception, objects, utils
from nova.virt import configdrive

# What nova.utils.get_system_metadata_from_image writes; the reverse takes other keys as well.
_IMAGE = utils.SM_IMAGE_PROP_PREFIX
_NUMBERS = ("min_ram", "min_disk")
_DISK_FIELDS = (
    "source_type",
    "destination_type",
    "guest_format",
    "device_type",
    "disk_bus",
    "boot_index",
    "device_name",
    "delete_on_termination",
    "volume_size",
    "image_id",
    "no_device",
)


@dataclasses.dataclass(frozen=True)
class Template:
    """The arguments of nova's create that come from the source.

    :ivar image: its image, as glance would show it
    :ivar disks: its local disks, as nova's API would name them
    """

    server: str
    flavor: Any
    image_ref: str
    image: Mapping[str, Any]
    disks: tuple[Mapping[str, Any], ...]
    config_drive: bool
    user_data: str | None
    key_name: str | None
    key_data: str | None
    key_pair: Any
    metadata: Mapping[str, str]
    trusted_certs: list[str] | None
    availability_zone: str | None


def template(context: Any, instance: Any, block_devices: Any) -> Template:
    """Return what clones of a server take over."""
    key_pairs = instance.keypairs.objects if instance.keypairs else []
    certs = instance.trusted_certs
    return Template(
        server=instance.uuid,
        flavor=instance.flavor,
        image_ref=instance.image_ref,
        image=image_of(instance),
        disks=tuple(disk_of(disk) for disk in block_devices),
        config_drive=bool(configdrive.required_by(instance)),
        user_data=instance.user_data,
        key_name=instance.key_name if instance.key_data else None,
        key_data=instance.key_data,
        key_pair=key_pairs[0] if key_pairs else None,
        metadata=dict(instance.metadata),
        trusted_certs=list(certs.ids) if certs else None,
        availability_zone=requested_zone(context, instance.uuid),
    )


def image_of(instance: Any) -> dict[str, Any]:
    """Return the image that the server was booted from, as it was then."""
    kept = {key: value for key, value in instance.system_metadata.items() if key.startswith(_IMAGE)}
    image: dict[str, Any] = utils.get_image_from_system_metadata(kept)
    image |= {key: int(image[key]) for key in _NUMBERS if key in image}
    return image | {"id": instance.image_ref, "status": "active"}


def disk_of(disk: Any) -> dict[str, Any]:
    """Return a disk as nova's API would name it: without what makes it this server's own."""
    fields = {field: disk[field] for field in _DISK_FIELDS if field in disk}
    found: dict[str, Any] = block_device.BlockDeviceDict(fields)
    return found


def requested_zone(context: Any, server: str) -> str | None:
    """Return the zone that was asked for when the server was made; not the one where it happens to be."""
    try:
        zone: str | None = objects.RequestSpec.get_by_instance_uuid(
            context, server
        ).availability_zone
    except exception.RequestSpecNotFound:
        return None
    return zone
