"""A clone's config drive: the source's for as long as the guest runs on the source's memory, then its own.

A mounted drive must not change under a running guest, so the clone starts with the frozen one (a qcow2 overlay at Nova's
path). When Nova makes a definition for its next start, the drive is made anew: the clone then boots with its own UUID, name
and network data. Nova's driver makes its drives for a domain that is defined already; here there is none yet, so that the same
builder is called directly.

Leans on nova.virt.configdrive.ConfigDriveBuilder and nova.api.metadata.base.InstanceMetadata.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from nova.api.metadata import base as metadata
from nova.virt import configdrive
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging

from nova_trusted_clone.virt import servers

LOG = logging.getLogger(__name__)
NAME = "disk.config"


def renew(instance: Any, network_info: Any) -> None:
    """Make the server's own config drive, where it still has its source's. The old one stays if that fails."""
    if servers.CONFIG_DRIVE not in instance.system_metadata:
        return
    directory = pathlib.Path(libvirt_utils.get_instance_path(instance))
    drive, old = directory / NAME, directory / f"{NAME}.source"
    if not drive.exists():
        return
    drive.replace(old)
    try:
        make(instance, network_info, drive)
        set_format(directory, drive, "raw")
    except Exception:
        LOG.exception("the config drive stays that of the clone's source", instance=instance)
        old.replace(drive)
        return
    old.unlink()
    del instance.system_metadata[servers.CONFIG_DRIVE]
    instance.save()


def make(instance: Any, network_info: Any, drive: pathlib.Path) -> None:
    """Write a server's config drive."""
    content = metadata.InstanceMetadata(instance, network_info=network_info)
    with configdrive.ConfigDriveBuilder(instance_md=content) as builder:
        builder.make_drive(str(drive))


def set_format(directory: pathlib.Path, path: pathlib.Path, image_format: str) -> None:
    """Write an image's format into the file by which Nova's image backends know it (``imagebackend.disk_info_path``)."""
    book = directory / "disk.info"
    formats = json.loads(book.read_text()) if book.exists() else {}
    book.write_text(json.dumps({**formats, str(path): image_format}))
