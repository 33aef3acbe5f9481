"""A cloud of the lab for the bench, in a place of its own beside the cloud that a person has up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from labkit import libvirtd, netns
from labkit.errors import LabError
from labkit.paths import LabPaths

from bench.report import BenchError, Say

if TYPE_CHECKING:
    from labkit.cloud.cloud import Cloud

TENANT = "demo"


@contextlib.contextmanager
def up(say: Say) -> Iterator[Cloud]:
    """A cloud for a block of code, with this thread in the network of its control node.

    ``LAB_CLOUD`` names the directory of one that is up already, and stays up: so nothing but the measurement itself
    needs a quiet machine.

    :raises BenchError: without root, or when a part of the cloud does not start or does not answer
    """
    if os.geteuid() != 0:
        raise BenchError("the cloud's nodes are namespaces and mounts: run it as root")
    # Not at the top: the other measurements need none of OpenStack's packages.
    from openstack.exceptions import SDKException

    libvirtd.quieten()
    try:
        with _running(say) as cloud, netns.inside(cloud.control.sandbox.holder.pid):
            yield cloud
    except (LabError, SDKException) as error:
        raise BenchError(f"the cloud: {error}") from error


@contextlib.contextmanager
def _running(say: Say) -> Iterator[Cloud]:
    from labkit.cloud.cloud import DIRECTORY, Cloud

    known = LabPaths.from_environment()
    if named := os.environ.get("LAB_CLOUD"):
        cloud = Cloud.at(dataclasses.replace(known, root=pathlib.Path(named).resolve()))
        if not cloud.is_up:
            raise BenchError(f"LAB_CLOUD names {cloud.paths.root}, where no cloud is up")
        yield cloud
        return
    cloud = Cloud.at(dataclasses.replace(known, root=known.root / "bench" / DIRECTORY))
    cloud.up(say)
    try:
        yield cloud
    finally:
        cloud.down(say)
