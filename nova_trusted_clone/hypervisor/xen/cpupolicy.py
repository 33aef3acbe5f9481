"""Whether this host's processors offer what a saved domain was told that it has.

Xen 4.17 itself compares little more than the number of the highest leaf (``x86_cpu_policies_are_compatible``): a guest would
be restored and die of an instruction that is not there. So every feature that the guest may have seen is compared before it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from nova_trusted_clone.hypervisor.base import MalformedState, RestoreFailed
from nova_trusted_clone.hypervisor.xen.records import Libxc
from nova_trusted_clone.hypervisor.xen.state import DomainState

# xen_cpuid_leaf_t: leaf, subleaf, eax, ebx, ecx, edx.
_LEAF = struct.Struct("<6I")
_NO_SUBLEAF = 0xFFFFFFFF
_MAX_LEAVES = 4096
_REGISTERS = ("eax", "ebx", "ecx", "edx")
Leaf = tuple[int, int]
Policy = Mapping[Leaf, tuple[int, int, int, int]]

# An AMD processor says these of leaf 1's EDX in this word once more (AMD64 APM 3, Fn8000_0001_EDX). Xen takes them from there
# when the guest asks, and what it offers at most lacks them here.
_SAID_IN_LEAF_1 = 0x0183F3FF

# Words of feature bits: leaf, subleaf, register, and the bits that are not features (they follow the guest's own settings).
_FEATURES = (
    (0x1, _NO_SUBLEAF, "ecx", 1 << 27),  # OSXSAVE
    (0x1, _NO_SUBLEAF, "edx", 1 << 9),  # APIC: whether it is on
    (0x7, 0, "ebx", 0),
    (0x7, 0, "ecx", 1 << 4),  # OSPKE
    (0x7, 0, "edx", 0),
    (0x7, 1, "eax", 0),
    (0xD, 0, "eax", 0),  # which states XSAVE may keep
    (0xD, 0, "edx", 0),
    (0xD, 1, "eax", 0),
    (0x80000001, _NO_SUBLEAF, "ecx", 0),
    (0x80000001, _NO_SUBLEAF, "edx", _SAID_IN_LEAF_1),
    (0x80000007, _NO_SUBLEAF, "edx", 0),
    (0x80000008, _NO_SUBLEAF, "ebx", 0),
)


def of_domain(state: DomainState) -> Policy | None:
    """What the saved domain was told; None where its Xen did not say.

    :raises MalformedState: it is said strangely
    """
    found = [body for kind, body in state.head if kind == Libxc.X86_CPUID_POLICY]
    if len(found) > 1:
        raise MalformedState("domain state: more than one CPU policy")
    return parse(found[0]) if found else None


def parse(raw: bytes) -> Policy:
    """A policy as Xen writes it down: its leaves.

    :raises MalformedState: it is none
    """
    if len(raw) % _LEAF.size or len(raw) > _MAX_LEAVES * _LEAF.size:
        raise MalformedState(f"CPU policy: {len(raw)} bytes")
    return {(row[0], row[1]): (row[2], row[3], row[4], row[5]) for row in _LEAF.iter_unpack(raw)}


def missing(guest: Policy, host: Policy) -> list[str]:
    """Each feature word of the guest's with bits that the host does not offer."""
    found = []
    for leaf, subleaf, register, ignored in _FEATURES:
        place = _REGISTERS.index(register)
        wanted = guest.get((leaf, subleaf), (0, 0, 0, 0))[place] & ~ignored
        lacking = wanted & ~host.get((leaf, subleaf), (0, 0, 0, 0))[place]
        if lacking:
            part = "" if subleaf == _NO_SUBLEAF else f".{subleaf}"
            found.append(f"leaf {leaf:#x}{part} {register}: {lacking:#x}")
    return found


def require_fitting(state: DomainState, raw_host: bytes) -> None:
    """Refuse a domain whose features this host does not have.

    :param raw_host: the most that this host's Xen offers to a domain of its kind
    :raises RestoreFailed: naming the feature bits
    :raises MalformedState: a policy that is none
    """
    guest = of_domain(state)
    if guest is None:
        raise RestoreFailed("the source's Xen did not say which processor features the server has")
    if lacking := missing(guest, parse(raw_host)):
        raise RestoreFailed(
            f"this host's processors lack what the server was given: {'; '.join(lacking)}"
        )
