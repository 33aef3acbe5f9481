"""Processor features of a saved domain against those of the host that is to run it."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from nova_trusted_clone.hypervisor.base import MalformedState, RestoreFailed
from nova_trusted_clone.hypervisor.xen import cpupolicy
from nova_trusted_clone.hypervisor.xen.records import Libxc
from tests.unit.hypervisor.test_xen_stream import pvh

NONE = 0xFFFFFFFF
AVX2 = 1 << 5
OSXSAVE = 1 << 27
NX = 1 << 20


def policy(*leaves: tuple[int, int, int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<6I", *leaf) for leaf in leaves)


HOST = policy((1, NONE, 0x1234, 0, 0xFF, 0xFF), (7, 0, 0, 0xF, 0, 0))


def domain(raw: bytes):
    return dataclasses.replace(pvh(), head=((Libxc.X86_CPUID_POLICY, raw),))


def test_a_domain_with_no_more_than_the_host_has_fits():
    cpupolicy.require_fitting(domain(policy((1, NONE, 0x999, 7, 0x0F, 0x0F))), HOST)


def test_what_a_guest_turns_on_by_itself_is_no_feature():
    cpupolicy.require_fitting(domain(policy((1, NONE, 0, 0, OSXSAVE | 1, 0))), HOST)


def test_a_feature_that_is_not_here_is_named():
    with pytest.raises(RestoreFailed, match=r"leaf 0x7\.0 ebx: 0x20"):
        cpupolicy.require_fitting(domain(policy((7, 0, 0, AVX2 | 1, 0, 0))), HOST)


def test_a_leaf_that_is_not_here_offers_nothing():
    with pytest.raises(RestoreFailed, match=r"leaf 0x80000001 edx: 0x100000"):
        cpupolicy.require_fitting(domain(policy((0x80000001, NONE, 0, 0, 0, NX))), HOST)


def test_what_amd_says_twice_is_compared_once():
    """As Xen 4.17 told of a PVH guest on AMD, whose own greatest policy has these bits in leaf 1 alone."""
    cpupolicy.require_fitting(domain(policy((0x80000001, NONE, 0, 0, 0, 0x183F1FD))), HOST)


def test_a_source_that_does_not_say_is_not_believed():
    with pytest.raises(RestoreFailed, match="did not say"):
        cpupolicy.require_fitting(dataclasses.replace(pvh(), head=()), HOST)


@pytest.mark.parametrize("raw", [b"x" * 23, bytes(24 * 4097)])
def test_policies_that_are_none(raw):
    with pytest.raises(MalformedState):
        cpupolicy.require_fitting(domain(raw), HOST)


def test_two_policies():
    twice = ((Libxc.X86_CPUID_POLICY, HOST), (Libxc.X86_CPUID_POLICY, HOST))
    with pytest.raises(MalformedState, match="more than one"):
        cpupolicy.require_fitting(dataclasses.replace(pvh(), head=twice), HOST)
