"""Horizon with this project's panel, in a virtual environment of its own (``tools/lab`` makes it), under uWSGI.

Set up as a deployer does it: a local_settings.py, the panel's enabled file, static files collected and compressed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import secrets

from labkit import process
from labkit.cloud import settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import Service, answers, base_environment, wsgi
from labkit.errors import LabError
from labkit.paths import CHECKOUT
from labkit.process import Word

HOME = CHECKOUT / ".venv-horizon"
NAME = "horizon"
STATIC_LIMIT_S = 600.0
# Where ``local.local_settings`` is found before the one that Horizon may have beside it.
PACKAGE = "local"


def url() -> str:
    """Its address, inside of the cloud's network."""
    return f"http://{settings.CONTROL}:{settings.HORIZON}/"


def start(control: Control) -> Service:
    """Start it unless it runs; the service.

    :raises LabError: when its environment is not there, or it does not start
    """
    found = service(control)
    if found.process is None:
        if not (HOME / "bin" / "python").exists():
            raise LabError(f"{HOME} is missing; tools/lab test horizon makes it")
        if not _settings_file(control).exists():
            configure(control)
            collect(control)
        found.start()
    return found


def configure(control: Control) -> None:
    """Write its settings."""
    file = _settings_file(control)
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").touch()
    operator = control.paths.hosts / "operator"
    values = {
        "ALLOWED_HOSTS": ["*"],
        "CACHES": {
            "default": {
                # Sessions outlive a restart, and Horizon's environment needs no client of memcached.
                "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
                "LOCATION": str(control.data / "horizon-cache"),
            }
        },
        "COMPRESS_OFFLINE": True,
        "DEBUG": False,
        # Django's default tells nobody of an error.
        "LOGGING": {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "root": {"handlers": ["console"], "level": "INFO"},
        },
        "OPENSTACK_KEYSTONE_URL": settings.AUTH_URL,
        "SECRET_KEY": secrets.token_urlsafe(32),
        "STATIC_ROOT": str(_static(control)),
        "TIME_ZONE": "UTC",
        "TRUSTED_CLONE_ANCHORS_FILE": str(operator / "anchors.pem"),
        "TRUSTED_CLONE_POLICY_FILES": [str(operator / "policy.json")],
        "WEBROOT": "/",
    }
    lines = [f"{name} = {value!r}" for name, value in sorted(values.items())]
    file.write_text("\n".join((_ENABLE, *lines, "")))


# What a deployer does by a copy of the enabled file: the environment is shared by all labs of a checkout.
_ENABLE = """import nova_trusted_clone.dashboard.enabled
import openstack_dashboard.local.enabled

openstack_dashboard.local.enabled.__path__.extend(nova_trusted_clone.dashboard.enabled.__path__)
"""


def collect(control: Control) -> None:
    """Collect and compress the static files, as an installed Horizon has them."""
    environment = {**base_environment(control), **_environment(control), "VIRTUAL_ENV": str(HOME)}
    for words in (("collectstatic", "--noinput", "--verbosity=0"), ("compress", "--force", "-v0")):
        command: list[Word] = [HOME / "bin" / "python", "-m", "django", *words]
        process.run(command, env=environment, limit_s=STATIC_LIMIT_S)


def service(control: Control) -> Service:
    """The dashboard."""
    module = ("--module", "openstack_dashboard.wsgi")
    made = wsgi(control, NAME, settings.HORIZON, module, _environment(control), home=HOME)
    static = ("--static-map", f"/static={_static(control)}")
    ready = answers(control, settings.HORIZON, "/auth/login/")
    return dataclasses.replace(made, command=(*made.command, *static), ready=ready)


def _environment(control: Control) -> dict[str, str]:
    places = (_settings_file(control).parents[1], CHECKOUT)
    return {
        "DJANGO_SETTINGS_MODULE": "openstack_dashboard.settings",
        "PYTHONPATH": os.pathsep.join(map(str, places)),
    }


def _settings_file(control: Control) -> pathlib.Path:
    return control.conf / NAME / PACKAGE / "local_settings.py"


def _static(control: Control) -> pathlib.Path:
    return control.data / "horizon-static"
