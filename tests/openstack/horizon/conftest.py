"""A dashboard in the cloud of these tests, and a browser. ``SCREENSHOTS=doc/source/_static`` takes the manual's pictures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest
from labkit.cloud import horizon
from labkit.cloud.cloud import Cloud
from labkit.paths import CHECKOUT

from tests.openstack.horizon import browser
from tests.openstack.horizon.browser import Person


@pytest.fixture(scope="session")
def dashboard(cloud: Cloud) -> str:
    """Its address; it runs."""
    horizon.start(cloud.control)
    return horizon.url()


@pytest.fixture(scope="module")
def person(dashboard: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody who has not logged in."""
    downloads = tmp_path_factory.mktemp("browser") / "downloads"
    downloads.mkdir()
    wanted = os.environ.get("SCREENSHOTS")
    shots = CHECKOUT / pathlib.Path(wanted) if wanted else None
    driver = browser.start(downloads)
    try:
        yield Person(driver, downloads, shots)
    finally:
        driver.quit()
