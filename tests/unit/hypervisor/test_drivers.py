"""Which adapter a libvirt URI names."""

from __future__ import annotations

import pytest

from nova_trusted_clone.hypervisor import drivers


@pytest.mark.parametrize(
    ("uri", "xen"),
    [
        ("xen:///system", True),
        ("xen+ssh://host/system", True),
        ("qemu:///system", False),
        ("qemu:///system?socket=/run/xen/sock", False),
    ],
)
def test_the_uri_says_which_hypervisor(uri, xen):
    assert drivers.is_xen(uri) is xen
