"""Both hosts' nova-compute with other options, or another policy, for as long as a story needs them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence

from labkit import process
from labkit.cloud import compute
from labkit.cloud.cloud import Cloud
from labkit.cloud.nodes import Compute
from openstack.connection import Connection

SECTION = "[trusted_clone]\n"
HEARD_LIMIT_S = 120.0


@contextlib.contextmanager
def computes(cloud: Cloud, **options: object) -> Iterator[None]:
    """Start every nova-compute anew with these options of ``[trusted_clone]``, and as it was afterwards."""
    former = {host: compute.config_file(host).read_text() for host in cloud.computes}
    try:
        for host, text in former.items():
            compute.config_file(host).write_text(_with(text, options))
        restart(cloud, cloud.computes)
        yield
    finally:
        for host, text in former.items():
            compute.config_file(host).write_text(text)
        restart(cloud, cloud.computes)


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


def restart(
    cloud: Cloud, hosts: Sequence[Compute], meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Start the nova-compute of some hosts anew, and wait until Nova knows that they are there."""
    services = [compute.service(host) for host in hosts]
    for service in services:
        service.stop()
    with known_again(cloud, [host.name for host in hosts]):
        meanwhile()
        for service in services:
            service.start()


@contextlib.contextmanager
def known_again(cloud: Cloud, names: Sequence[str]) -> Iterator[None]:
    """Start hosts' nova-compute within the block; wait until Nova has heard of them.

    The scheduler takes no other host, and Nova's API deletes a server of another without asking it.
    """
    stopped = cloud.ask(_heard)
    yield

    def heard() -> bool:
        now = cloud.ask(_heard)
        return all(now.get(name, "") > stopped.get(name, "") for name in names)

    assert process.wait_until(heard, HEARD_LIMIT_S, 0.5), f"{names} did not come back"


def _heard(admin: Connection) -> dict[str, str]:
    """When each nova-compute that is up last told of itself."""
    services = admin.compute.services(binary="nova-compute")
    return {one.host: str(one.updated_at) for one in services if one.state == "up"}


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
