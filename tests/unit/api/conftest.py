"""A cloud for each test."""

from __future__ import annotations

import pytest

from tests.unit.api import world as worlds


@pytest.fixture(scope="session")
def empty_databases(tmp_path_factory):
    return tmp_path_factory.mktemp("nova-databases")


@pytest.fixture
def world(tmp_path, empty_databases):
    with worlds.running(tmp_path, empty_databases) as running:
        yield running
