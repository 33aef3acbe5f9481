"""A server that boots from its disk by firmware, as most images do, and its clone.

Nothing else may run on the hosts meanwhile: each word that the firmware reads is emulated twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labkit.xen import servers
from labkit.xen.cloud import BOOTING_IMAGE, XenCloud
from labkit.xen.servers import Server

from tests.xen_cloud.stories import cloned, console


@pytest.fixture(scope="module")
def booted(cloud: XenCloud) -> Iterator[Server]:
    """One of an image without a kernel: firmware, a boot loader, a serial console that Nova keeps."""
    server = servers.create(cloud, "booted", image=BOOTING_IMAGE)
    try:
        server.wait_for_status("ACTIVE")
        yield server
    finally:
        server.delete()


def test_one_that_boots_from_its_disk_is_cloned_too(cloud: XenCloud, booted: Server) -> None:
    booted.guest.wait_for("READY")
    assert "READY" in console(cloud, booted)
    cloned(cloud, booted, "booted-twin").delete()
