"""A complete clone is an ordinary server: whatever Nova does with one, it does with this, and the source notices nothing.

One clone for all of it, in this order: each story leaves it ACTIVE.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from labkit import guests, process
from labkit.cloud import resources
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from openstack.connection import Connection

from tests.openstack import configured, inventory
from tests.openstack.clones import Clones
from tests.openstack.conftest import MakeServer
from tests.openstack.tenant import LIMIT_S, Tenant

NAME = "ordinary"


@pytest.fixture(scope="module")
def clones(cloud: Cloud, web: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clones]:
    """Clones of ``web``. All that was ever added is gone after these stories."""
    before = inventory.settled(cloud)
    made = Clones(Tenant(cloud, tmp_path_factory.mktemp("demo")), web)
    yield made
    made.remove()
    inventory.require_same(cloud, before)
    assert web.answers_ping()


@pytest.fixture(scope="module")
def clone(clones: Clones) -> Server:
    """A complete clone."""
    return clones.made(NAME)


def require_works(clone: Server, *, anew: bool = False) -> None:
    """It runs its program, has its own address and answers there.

    :param anew: whether it has booted: its console begins anew then; a clone that goes on has printed that on its source's
    """
    clone.wait_for_status()
    if anew:
        clone.wait_ready(LIMIT_S)
    assert clone.says_address(LIMIT_S)
    assert clone.answers_ping()


def test_it_has_an_address_of_its_own(clone: Server, web: Server) -> None:
    require_works(clone)
    assert not set(clone.addresses) & set(web.addresses)


def test_it_is_paused(clone: Server, demo: Connection) -> None:
    demo.compute.pause_server(clone.id)
    clone.wait_for_status("PAUSED")
    demo.compute.unpause_server(clone.id)
    require_works(clone)


def test_it_is_stopped_and_started(clone: Server, demo: Connection) -> None:
    """It boots from its own disk, as itself."""
    demo.compute.stop_server(clone.id)
    clone.wait_for_status("SHUTOFF")
    demo.compute.start_server(clone.id)
    require_works(clone, anew=True)


def test_it_is_rebooted(clone: Server, demo: Connection) -> None:
    demo.compute.reboot_server(clone.id, "HARD")
    require_works(clone, anew=True)


def test_its_snapshot_boots(clone: Server, demo: Connection, make_server) -> None:  # type: ignore[no-untyped-def]
    image = demo.compute.create_server_image(clone.id, "of-a-clone", wait=True, timeout=LIMIT_S)
    try:
        require_works(make_server(image=image.id, flavor="plain"), anew=True)
    finally:
        demo.image.delete_image(image.id)
    require_works(clone)


def test_it_is_migrated_while_it_runs(clone: Server, admin: Connection) -> None:
    former = clone.host
    admin.compute.live_migrate_server(clone.id, host=None, block_migration="auto")
    assert process.wait_until(
        lambda: (
            (clone.status, clone.shown().compute_host) != ("ACTIVE", former.name)
            and clone.status in ("ACTIVE", "ERROR")
        ),
        LIMIT_S,
        1.0,
    )
    assert clone.host != former
    require_works(clone)


def test_it_is_resized(clone: Server, demo: Connection) -> None:
    """Another host builds it anew from its disk: taken back by its owner the first time, confirmed the second time."""
    former = clone.host
    for finish in (demo.compute.revert_server_resize, demo.compute.confirm_server_resize):
        demo.compute.resize_server(
            clone.id, demo.compute.find_flavor("medium", ignore_missing=False)
        )
        clone.wait_for_status("VERIFY_RESIZE")
        assert clone.host != former
        finish(clone.id)
        require_works(clone, anew=True)
    assert clone.host != former
    assert clone.shown().flavor.name == "medium"
    # Whoever's server it is, Nova 34 leaves its secret with the host that it left (``LibvirtDriver._cleanup_resize``).
    with guests.connected(former) as connection:
        for secret in connection.listAllSecrets():
            if secret.usageID() == clone.id:
                secret.undefine()


def test_its_evidence_can_still_be_had(
    clones: Clones, clone: Server, tmp_path: pathlib.Path
) -> None:
    """It tells of the clone as it came to be, whatever the server is now."""
    file = tmp_path / "evidence.json"
    save = ("server", "clone", "evidence", "save", clone.id, "--file", file)
    clones.tenant.openstack(*save).ok()
    words = ("server", "clone", "evidence", "verify", file, *clones.tenant.operator_files)
    nonce = clones.record(NAME)["nonce"]
    told = clones.tenant.openstack(*words, "--nonce", nonce, "--server", clone.id, "-f", "json")
    assert told.ok().json()["holds"] is True


class TestWithoutVtpm:
    """What Nova does with no server that has a vTPM."""

    @pytest.fixture(scope="class")
    def plain(
        self, cloud: Cloud, _server_maker: MakeServer, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Server]:
        """A complete clone without a vTPM."""
        source = _server_maker("plain", flavor="plain")
        clones = Clones(Tenant(cloud, tmp_path_factory.mktemp("demo")), source)
        with configured.policy(cloud, allow_without_vtpm=True):
            yield clones.made("plain-clone")
        clones.remove()
        source.delete()

    def test_it_is_rescued(self, plain: Server, demo: Connection) -> None:
        demo.compute.rescue_server(plain.id, image_ref=image_of(demo))
        plain.wait_for_status("RESCUE")
        demo.compute.unrescue_server(plain.id)
        require_works(plain, anew=True)

    def test_it_is_shelved(self, plain: Server, demo: Connection) -> None:
        """Offloaded, it has no host; unshelved, it boots from the image that it was kept as, and is not received again."""
        demo.compute.shelve_server(plain.id)
        plain.wait_for_status("SHELVED_OFFLOADED")
        demo.compute.unshelve_server(plain.id)
        require_works(plain, anew=True)

    def test_it_is_built_anew(self, plain: Server, demo: Connection) -> None:
        """The mark of a clone stays on it, and it is not received a second time."""
        demo.compute.rebuild_server(plain.id, image_of(demo))
        require_works(plain, anew=True)


def image_of(demo: Connection) -> str:
    return str(demo.image.find_image(resources.IMAGE, ignore_missing=False).id)
