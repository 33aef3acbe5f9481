"""Both hosts' nova-compute with other options, or another policy, for as long as a story needs them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from labkit.cloud import compute
from labkit.cloud.cloud import Cloud

SECTION = "[trusted_clone]\n"


@contextlib.contextmanager
def computes(cloud: Cloud, **options: object) -> Iterator[None]:
    """Start every nova-compute anew with these options of ``[trusted_clone]``, and as it was afterwards."""
    former = {host: compute.config_file(host).read_text() for host in cloud.computes}
    try:
        for host, text in former.items():
            compute.config_file(host).write_text(_with(text, options))
        _restart(cloud)
        yield
    finally:
        for host, text in former.items():
            compute.config_file(host).write_text(text)
        _restart(cloud)


def _with(text: str, options: dict[str, object]) -> str:
    """Each option in the place of the one that is there."""
    head, section, rest = text.partition(SECTION)
    assert section, "nova-compute.conf has no section of this project"
    kept = [
        line
        for line in rest.splitlines(keepends=True)
        if line.partition("=")[0].strip() not in options
    ]
    new = [f"{name} = {value}\n" for name, value in options.items()]
    return "".join([head, section, *new, *kept])


def _restart(cloud: Cloud) -> None:
    services = [compute.service(host) for host in cloud.computes]
    for service in services:
        service.stop()
    for service in services:
        service.start()


@contextlib.contextmanager
def policy(cloud: Cloud, **settings: object) -> Iterator[None]:
    """The operator's policy with other settings; hosts and conductor read it anew for each clone."""
    file = cloud.paths.hosts / "operator" / "policy.json"
    former = file.read_text()
    file.write_text(json.dumps({**json.loads(former), **settings}, indent=2))
    try:
        yield
    finally:
        file.write_text(former)
