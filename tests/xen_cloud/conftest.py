"""A cloud on two Xen hosts, for a whole run of these tests.

``LAB_XEN_CLOUD`` names the directory of one that is up already and stays up (``tools/lab xen cloud`` makes one in
``.lab/xen-cloud``).
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

from labkit.paths import CHECKOUT, LabPaths
from labkit.xen.cloud import XenCloud


@pytest.fixture(scope="session")
def cloud() -> Iterator[XenCloud]:
    """The cloud; one of the run's own is ended with it."""
    cache = LabPaths.from_environment().cache
    if os.environ.get("LAB_XEN_CLOUD"):
        yield XenCloud.at(LabPaths(pathlib.Path(os.environ["LAB_XEN_CLOUD"]).resolve(), cache))
        return
    made = XenCloud.at(LabPaths(CHECKOUT / ".lab" / f"xen-cloud-test-{os.getpid()}", cache))
    made.up(print)
    try:
        yield made
    finally:
        made.down()
