"""What is asked of a server before anything is changed: every reason against a clone, in words."""

from __future__ import annotations

from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.protocol.order import Order
from nova_trusted_clone.ports import ServerShape

# RAM blocks beside the guest's own memory (video memory, firmware) that an order's memory size leaves out.
MAX_SMALL_BLOCK_BYTES = 256 << 20


def obstacles(order: Order, shape: ServerShape, policy: Policy) -> list[str]:
    """Return every reason why ``order`` cannot be carried out on the server as it is; none means that it can."""
    found = list(shape.obstacles)
    if not shape.running:
        found.append("the server is not running")
    if policy.require_generation_id and not shape.has_generation_id:
        found.append(
            "the server has no generation id, which the policy requires: without it the clone's random number generator "
            "would repeat the source's; boot the server with one"
        )
    found += _vtpm_obstacles(order, shape, policy)
    found += _size_obstacles(order, shape)
    return found


def _vtpm_obstacles(order: Order, shape: ServerShape, policy: Policy) -> list[str]:
    if shape.has_vtpm and order.vtpm_mode == "none":
        return ["the server has a vTPM, but the order says vtpm=none: order new, or derive"]
    if not shape.has_vtpm and order.vtpm_mode != "none":
        return [f"the server has no vTPM, but the order says vtpm={order.vtpm_mode}: order none"]
    if not shape.has_vtpm and not policy.allow_without_vtpm:
        return ["the server has no vTPM, and the policy does not allow clones without one"]
    if order.vtpm_mode == "derive" and not policy.allow_vtpm_derive:
        return ["the order says vtpm=derive, which the policy does not allow"]
    return []


def _size_obstacles(order: Order, shape: ServerShape) -> list[str]:
    found = []
    if order.memory_bytes != shape.memory_bytes:
        found.append(
            f"the order names {order.memory_bytes} bytes of memory, the server has {shape.memory_bytes}"
        )
    ordered = {(target, size) for target, size in order.disks}
    present = {(disk.target, disk.size_bytes) for disk in shape.disks}
    if ordered != present:
        found.append(
            f"the order names the disks {sorted(ordered)}, the server has {sorted(present)}"
        )
    return found
