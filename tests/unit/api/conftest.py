"""One nova-api for all tests, and a cloud for each."""

from __future__ import annotations

import pytest

from tests.unit.api import world as worlds


@pytest.fixture(scope="package")
def services(tmp_path_factory):
    with worlds.started(tmp_path_factory.mktemp("nova-api")) as started:
        yield started


@pytest.fixture(scope="package")
def empty_databases(tmp_path_factory):
    return tmp_path_factory.mktemp("nova-databases")


@pytest.fixture
def world(services, tmp_path, empty_databases):
    with worlds.running(services, tmp_path, empty_databases) as running:
        yield running
