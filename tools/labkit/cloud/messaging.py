"""RabbitMQ and memcached."""

from __future__ import annotations

import pathlib

from labkit.cloud import settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import Service, listens

RABBITMQ_CONF = """\
listeners.tcp.1 = {address}:{port}
loopback_users = none
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = info
log.file = false
"""


def configure(control: Control) -> None:
    """Write RabbitMQ's two files."""
    directory = _directory(control)
    for path in (directory, control.data / "rabbitmq"):
        path.mkdir(parents=True)
    (directory / "rabbitmq.conf").write_text(
        RABBITMQ_CONF.format(address=control.address, port=settings.RABBITMQ)
    )
    (directory / "plugins").write_text("[].\n")


def _directory(control: Control) -> pathlib.Path:
    return control.conf / "rabbitmq"


def rabbitmq(control: Control) -> Service:
    """The broker, a node of Erlang of its own."""
    directory, data = _directory(control), control.data / "rabbitmq"
    environment = {
        "HOME": str(data),
        "RABBITMQ_NODENAME": "lab@localhost",
        "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
        "RABBITMQ_LOG_BASE": str(data / "log"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_PID_FILE": str(control.records / "rabbitmq.pid"),
        # Two schedulers are enough for a lab. Busy waiting would take the processors from the guests.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
    }
    return Service(
        "rabbitmq",
        control,
        ("/usr/lib/rabbitmq/bin/rabbitmq-server",),
        listens(control, settings.RABBITMQ),
        environment,
    )


def memcached(control: Control) -> Service:
    """The cache for tokens."""
    command = ("memcached", "-u", "root", "-l", control.address, "-p", str(settings.MEMCACHED))
    return Service(
        "memcached", control, (*command, "-m", "64"), listens(control, settings.MEMCACHED)
    )
