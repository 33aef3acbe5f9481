"""Django is set up before any test module is read."""

import os

import django
import pytest
from django.test.utils import setup_test_environment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.dashboard.settings")
django.setup()
setup_test_environment()


def pytest_configure(config: pytest.Config) -> None:
    """Horizon's own base class for tests speaks of its other suites."""
    for name in ("selenium", "integration", "plugin_test"):
        config.addinivalue_line("markers", f"{name}: of Horizon's own tests")
