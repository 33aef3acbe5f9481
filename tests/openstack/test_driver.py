"""The compute driver on running services: what dies, is deleted, or is done with source and clone in mid clone."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Callable, Iterator

import pytest
from labkit import process
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server

from tests.openstack import configured
from tests.openstack.clones import ENDED, PROVISIONAL, SERVING, Clones, ended_in, held
from tests.openstack.conftest import MakeServer
from tests.openstack.tenant import LIMIT_S, Tenant

NAME = "twin"


@pytest.fixture
def clones(cloud: Cloud, tmp_path: pathlib.Path, web: Server) -> Iterator[Clones]:
    """Clones of ``web``, deleted after the story."""
    made = Clones(Tenant(cloud, tmp_path), web)
    yield made
    made.remove()


def cut_off(cloud: Cloud, host: str) -> None:
    """Kill a host's nova-compute with no word to it, and start it anew; its helper processes live on."""
    service = cloud.service(f"nova-compute-{host}")
    assert service.process is not None
    os.kill(service.process.pid, signal.SIGKILL)
    assert process.wait_until(lambda: service.process is None, 10)
    with configured.known_again(cloud, [host]):
        service.start()


@pytest.mark.parametrize(("side", "until"), [("source", SERVING), ("destination", PROVISIONAL)])
def test_nova_compute_is_killed_in_mid_clone(
    cloud: Cloud, clones: Clones, side: str, until: str
) -> None:
    """Whatever it was doing is taken over by the next one."""
    with held(clones.source, until) as hold:
        running = clones.begin(NAME)
        hold.wait()
        killed = clones.source if side == "source" else clones.server(NAME)
        cut_off(cloud, killed.host.name)
    assert ended_in(running) == ["complete"]
    clone = clones.server(NAME)
    clone.wait_for_status("ACTIVE")
    assert clone.says_address()
    assert clones.source.answers_ping()


def test_nova_compute_is_killed_while_libvirt_restores_the_clone(
    cloud: Cloud, clones: Clones, nothing_left
) -> None:  # type: ignore[no-untyped-def]
    """Nobody knows then how far that came: the clone ends with this reason, and nothing of it is left."""
    with nothing_left():
        with held(clones.source) as hold:
            running = clones.begin(NAME)
            hold.wait()
            destination = clones.server(NAME).host
            cut_off(cloud, destination.name)
            assert ended_in(running) == ["failed"]
        assert "the service ended while the clone was" in clones.record(NAME)["reason"]
        clones.server(NAME).wait_for_status("ERROR")
        clones.remove()


def test_the_clone_is_deleted_in_mid_clone(clones: Clones, nothing_left) -> None:  # type: ignore[no-untyped-def]
    with nothing_left():
        with held(clones.source) as hold:
            running = clones.begin(NAME)
            hold.wait()
            clones.server(NAME).delete()
        assert ended_in(running) != ["complete"]
    assert clones.source.answers_ping()


def test_the_source_is_deleted_in_mid_clone(
    cloud: Cloud,
    make_server: MakeServer,
    tmp_path: pathlib.Path,
    nothing_left,  # type: ignore[no-untyped-def]
) -> None:
    """Nova waits until the clone has what it needs. Afterwards nothing is left of either."""
    with nothing_left():
        clones = Clones(Tenant(cloud, tmp_path), make_server())
        with held(clones.source) as hold:
            running = clones.begin(NAME)
            hold.wait()
            clone = clones.server(NAME)
            clones.source.admin.compute.delete_server(clones.source.id)
            wait_for_task(clones.source)
        clones.source.delete()
        running.done()  # what it says of a source that is gone is the client's own story
        clone.wait_for_status("ACTIVE")
        assert clone.says_address()
        clone.delete()


def wait_for_task(server: Server) -> None:
    """Until Nova has begun to do what it was asked for."""
    assert process.wait_until(lambda: bool(server.shown().task_state), 60, 0.2)


def wait_until_idle(server: Server) -> None:
    """Until it does nothing with the server any more."""
    assert process.wait_until(lambda: not server.shown().task_state, LIMIT_S, 0.5)


# -- what Nova is asked for in mid clone; each returns how it is seen that it was done --


def snapshot(server: Server) -> Callable[[], bool]:
    images = server.client.image
    made = server.client.compute.create_server_image(server.id, f"of-{server.id}")

    def taken() -> bool:
        found = images.get_image(made.id).status == "active"
        images.delete_image(made.id)
        return found

    return taken


def reboot(server: Server) -> Callable[[], bool]:
    server.client.compute.reboot_server(server.id, "HARD")
    return lambda: bool(server.wait_ready(LIMIT_S))


def live_migration(server: Server) -> Callable[[], bool]:
    former = server.host
    wish = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
    # Older versions answer when the hosts have agreed to it.
    path = f"/servers/{server.id}/action"
    server.admin.compute.post(path, json=wish, microversion="2.34").raise_for_status()
    return lambda: server.host != former


def resize(server: Server) -> Callable[[], bool]:
    """Another host builds it; then it is taken back, so that the next story finds it as it was."""
    former, compute = server.host, server.client.compute
    compute.resize_server(server.id, compute.find_flavor("medium", ignore_missing=False))

    def moved() -> bool:
        server.wait_for_status("VERIFY_RESIZE")
        there = server.host
        compute.revert_server_resize(server.id)
        server.wait_for_status()
        server.wait_ready(LIMIT_S)
        return there != former

    return moved


def require_done(server: Server, done: Callable[[], bool]) -> None:
    wait_until_idle(server)
    assert done()
    server.wait_for_status()
    assert server.says_address() and server.answers_ping()


@pytest.fixture
def movable(cloud: Cloud, tmp_path: pathlib.Path, make_server: MakeServer) -> Iterator[Clones]:
    """Clones of a server that no other story needs. Its vTPM is certified by its first host, and vouches on no other."""
    made = Clones(Tenant(cloud, tmp_path), make_server())
    yield made
    made.remove()


@pytest.mark.parametrize("operation", [snapshot, reboot, live_migration, resize])
def test_what_is_done_with_a_source_waits_for_its_clone(
    movable: Clones, operation: Callable[[Server], Callable[[], bool]]
) -> None:
    clones = movable
    with held(clones.source) as hold:
        running = clones.begin(NAME)
        hold.wait()
        done = operation(clones.source)
        wait_for_task(clones.source)
        assert clones.record(NAME)["phase"] not in ENDED
    assert ended_in(running) == ["complete"]
    require_done(clones.source, done)


def test_a_clone_moves_after_it_was_rebooted(clones: Clones) -> None:
    """Until then its memory is its store's, and Nova is told so before either host has done anything."""
    clone = clones.made(NAME)
    done = live_migration(clone)
    wait_until_idle(clone)
    assert not done()
    (refused,) = [one for one in actions(clone) if one.action == "live-migration"]
    assert refused.message == "Error"
    assert clone.status == "ACTIVE"
    require_done(clone, reboot(clone))
    done = live_migration(clone)
    assert process.wait_until(done, LIMIT_S, 1.0)
    require_done(clone, done)


@pytest.mark.parametrize("operation", [snapshot, reboot])
def test_what_is_done_with_a_clone_waits_until_it_is_complete(
    clones: Clones, operation: Callable[[Server], Callable[[], bool]]
) -> None:
    with held(clones.source, PROVISIONAL) as hold:
        running = clones.begin(NAME)
        hold.wait()
        clone = clones.server(NAME)
        clone.wait_for_status()
        done = operation(clone)
        wait_for_task(clone)
        assert clones.record(NAME)["phase"] not in ENDED
    assert ended_in(running) == ["complete"]
    require_done(clone, done)


class TestImpatientHosts:
    """They wait a second for clones, then do what the operator has them do."""

    @pytest.fixture(scope="class", autouse=True)
    def impatient(self, cloud: Cloud) -> Iterator[None]:
        with configured.computes(cloud, protect_limit_s=1, network_limit_s=300):
            yield

    def test_a_source_is_stopped_and_the_clone_ends_with_that_reason(self, clones: Clones) -> None:
        source = clones.source
        with held(source) as hold:
            running = clones.begin(NAME)
            hold.wait()
            source.client.compute.stop_server(source.id)
            assert ended_in(running) == ["failed"]
        assert "a stop of the source server" in clones.record(NAME)["reason"]
        clones.server(NAME).wait_for_status("ERROR")
        source.wait_for_status("SHUTOFF")
        source.client.compute.start_server(source.id)
        source.wait_for_status()
        source.wait_ready(LIMIT_S)
        assert source.answers_ping()

    def test_a_clone_is_not_stopped_before_it_is_complete(self, clones: Clones) -> None:
        """To end it would be to destroy the server; the tenant reads why in its list of events."""
        with held(clones.source, PROVISIONAL) as hold:
            running = clones.begin(NAME)
            hold.wait()
            clone = clones.server(NAME)
            clone.wait_for_status()
            clone.client.compute.stop_server(clone.id)
            wait_for_task(clone)
            wait_until_idle(clone)
            (stop,) = [one for one in actions(clone) if one.action == "stop"]
            assert stop.message == "Error"
            assert clone.status == "ACTIVE"
        assert ended_in(running) == ["complete"]

        def stopped() -> bool:
            """Its disks become its own in the first seconds after it is complete; until then it is refused as before."""
            clone.client.compute.stop_server(clone.id)
            wait_for_task(clone)
            wait_until_idle(clone)
            return clone.status == "SHUTOFF"

        assert process.wait_until(stopped, LIMIT_S, 1.0)


def actions(server: Server) -> list:
    """What was asked of a server."""
    return list(server.admin.compute.server_actions(server.id))
