"""Which servers are received as clones, and whose token a passphrase is asked with."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from nova import exception

from nova_trusted_clone.virt import secrets, service
from nova_trusted_clone.virt.servers import DONE, GROUP, SOURCE, Mark, mark_of
from nova_trusted_clone.virt.service import Contexts

SERVER = "b5b0a1f4-52a5-4a3a-9d0e-5f8c2f3c0001"
MARKED = {GROUP: "a" * 32, SOURCE: SERVER}


@dataclasses.dataclass
class Instance:
    """What Nova has of a server."""

    system_metadata: dict[str, str]
    vm_state: str = "building"
    uuid: str = SERVER


def test_a_server_that_the_api_marked_is_received() -> None:
    assert mark_of(Instance({**MARKED, "image_hw_disk_bus": "virtio"})) == Mark("a" * 32, SERVER)


@pytest.mark.parametrize(
    "instance",
    [
        Instance({}),
        Instance({**MARKED, DONE: "c" * 32}),  # a rebuild: the mark stays for ever
        Instance(MARKED, vm_state="active"),
        Instance(MARKED, vm_state="shelved_offloaded"),
        Instance(MARKED, vm_state="error"),
    ],
)
def test_any_other_is_spawned_as_ever(instance: Instance) -> None:
    assert mark_of(instance) is None


@pytest.mark.parametrize(
    "metadata",
    [
        {GROUP: "a" * 32},
        {GROUP: "A" * 32, SOURCE: SERVER},
        {GROUP: "../" * 10, SOURCE: SERVER},
        {GROUP: "a" * 32, SOURCE: "web-1"},
    ],
)
def test_a_mark_that_cannot_be_read_ends_the_build(metadata: dict[str, str]) -> None:
    with pytest.raises(exception.BuildAbortException, match="malformed"):
        mark_of(Instance(metadata))


def test_a_passphrase_is_asked_with_the_token_of_the_newest_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def of_source(*what: Any) -> bytes:
        asked.append(what)
        return b"words"

    monkeypatch.setattr(secrets, "of_source", of_source)
    contexts = Contexts()
    contexts.keep(SERVER, "monday's")
    contexts.keep(SERVER, "tuesday's")
    assert contexts.passphrase(SERVER, "secret") == b"words"
    assert asked == [("tuesday's", SERVER, "secret")]


def test_a_clone_s_own_passphrase_is_libvirt_s_to_tell() -> None:
    assert Contexts().passphrase(SERVER, "secret") is None


def test_tokens_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_CONTEXTS", 2)
    monkeypatch.setattr(secrets, "of_source", lambda context, server, secret: context)
    contexts = Contexts()
    for number in range(3):
        contexts.keep(f"server-{number}", number)
    assert [contexts.passphrase(f"server-{n}", "s") for n in range(3)] == [None, 1, 2]
