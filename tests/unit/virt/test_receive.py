"""A clone that is being received goes on while nobody can be asked, and ends when its server is deleted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import oslo_messaging
import pytest
from nova import exception

from nova_trusted_clone.virt import receive
from nova_trusted_clone.virt.receive import Receiver
from nova_trusted_clone.virt.servers import Mark

SERVER, SOURCE = "b5b0a1f4-52a5-4a3a-9d0e-5f8c2f3c0001", "b5b0a1f4-52a5-4a3a-9d0e-5f8c2f3c0002"


class Destination:
    """Tells of phases, one after the other."""

    def __init__(self, *phases: str) -> None:
        self.phases = list(phases)

    def wait(self, _clone_id: str, _phases: Any, _limit_s: float) -> dict[str, str]:
        return {"phase": self.phases.pop(0), "reason": ""}


def receiver(destination: Destination) -> Receiver:
    parts = SimpleNamespace(driver=None, engine=SimpleNamespace(destination=destination))
    build = SimpleNamespace(context=None, instance=SimpleNamespace(uuid=SERVER))
    return Receiver(parts, Mark("ab" * 16, SOURCE), build)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "silence",
    [
        oslo_messaging.MessagingTimeout("the broker was restarted"),
        oslo_messaging.MessageDeliveryFailure("there is no broker"),
        oslo_messaging.RemoteError("DBConnectionError", "the database was restarted"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_it_goes_on_while_nova_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, silence: Exception
) -> None:
    answers: list[Exception | None] = [silence, None]

    def require_wanted(_context: Any, server: str) -> None:
        assert server == SERVER
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(receive.servers, "require_wanted", require_wanted)
    receiver(Destination("restoring", "restoring", "provisional"))._follow(None)
    assert answers == []


def test_it_ends_when_its_server_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    def require_wanted(_context: Any, server: str) -> None:
        raise exception.InstanceNotFound(instance_id=server)

    monkeypatch.setattr(receive.servers, "require_wanted", require_wanted)
    with pytest.raises(exception.InstanceNotFound):
        receiver(Destination("restoring", "provisional"))._follow(None)


class TestWhatAServerStartsFrom:
    """A guest on Xen is started with its image's kernel, which the clone needs when it starts anew."""

    @pytest.fixture
    def fetched(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        """What Glance was asked for: where to, and which image."""
        asked: list[tuple[str, str]] = []
        monkeypatch.setattr(
            receive.libvirt_utils,
            "fetch_raw_image",
            lambda _context, path, image, _certificates: asked.append((path, image)),
        )
        return asked

    @staticmethod
    def _receiver() -> Receiver:
        made = receiver(Destination())
        made._instance.kernel_id, made._instance.ramdisk_id = "a-kernel", "a-ramdisk"
        made._instance.trusted_certs = None
        return made

    def test_it_comes_from_glance_to_where_nova_said(self, fetched: list[tuple[str, str]]) -> None:
        self._receiver()._fetch_boot_files({"kernel": "/i/kernel", "initrd": "/i/ramdisk"})
        assert fetched == [("/i/kernel", "a-kernel"), ("/i/ramdisk", "a-ramdisk")]

    def test_a_server_that_boots_from_its_disk_needs_none(
        self, fetched: list[tuple[str, str]]
    ) -> None:
        self._receiver()._fetch_boot_files({})
        assert fetched == []
