"""From verified regions in a store to the plan of a restore."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.clone.stores import Store
from nova_trusted_clone.ports import Identity, RestorePlan, VtpmBlobs

# RAM blocks that QEMU opens as files; the others are small and travel in the restored stream.
FILE_BLOCKS = ("pc.ram",)
Regions = Sequence[Mapping[str, Any]]


def region_path(store: Store, regions: Regions, kind: str) -> pathlib.Path:
    """Wait until the one region of a kind is verified whole; a file of its bytes."""
    (region,) = (r for r in regions if r["kind"] == kind)
    return store.read_region(region["id"])


def plan(
    store: Store,
    regions: Regions,
    identity: Identity,
    directory: pathlib.Path,
    vtpm: VtpmBlobs | None,
) -> RestorePlan:
    """What the hypervisor needs to let a clone run; waits for what it must have whole before."""
    ram = [r for r in regions if r["kind"] == "ram"]
    disks = [r for r in regions if r["kind"] == "disk"]
    mount = store.mount_path
    return RestorePlan(
        identity=identity,
        directory=directory,
        definition=region_path(store, regions, "domain").read_text(),
        device_state=region_path(store, regions, "device"),
        memory={
            r["name"]: mount / "ram" / identity.name / r["name"]
            for r in ram
            if r["name"] in FILE_BLOCKS
        },
        small_blocks={
            r["name"]: store.read_region(r["id"]) for r in ram if r["name"] not in FILE_BLOCKS
        },
        ram_block_order=tuple((r["name"], r["size_bytes"]) for r in ram),
        backings={r["name"]: mount / "disks" / r["name"] for r in disks},
        vtpm=vtpm,
    )
