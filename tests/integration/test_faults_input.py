"""What an operator or a stranger can get wrong: each told by the file, field or argument, and nothing changed."""

from __future__ import annotations

import contextlib
import errno
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from labkit.agent import PEER_PORT
from labkit.guests import Guest
from oslo_config import cfg

from nova_trusted_clone.assembly import wiring
from nova_trusted_clone.clone import identity
from nova_trusted_clone.cmd import agent
from nova_trusted_clone.conf import opts
from nova_trusted_clone.transport import rpc
from tests.integration import clonelab
from tests.integration.clonelab import CloneLab
from tests.integration.frames import inside
from tests.integration.middleman import between

pytestmark = pytest.mark.integration
Spoil = Callable[[pathlib.Path], object]


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The product's."""
    clones.start_agents()


@pytest.fixture
def options(clones: CloneLab, tmp_path: pathlib.Path) -> dict[str, str]:
    """Good options of an agent of its own, on copies of the destination's files."""
    host, operator = clones.destination, clones.operator
    shutil.copytree(host.identity, tmp_path / "identity")
    for path in (operator.anchors, operator.policy, host.event_log):
        shutil.copy(path, tmp_path / path.name)
    return {
        "host_id": host.name,
        "identity_path": str(tmp_path / "identity"),
        "anchors_file": str(tmp_path / operator.anchors.name),
        "policy_file": str(tmp_path / operator.policy.name),
        "event_log": str(tmp_path / host.event_log.name),
        "tpm": host.tpm,
        "libvirt_uri": host.uri,
        "state_path": str(tmp_path / "state"),
    }


def start(options: dict[str, str], directory: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Run an agent that is expected not to start."""
    config = directory / "agent.conf"
    lines = ["[trusted_clone]", *(f"{name} = {value}" for name, value in options.items())]
    config.write_text("\n".join(lines) + "\n")
    program = pathlib.Path(sys.executable).with_name("nova-trusted-clone-agent")
    return subprocess.run(
        [program, "--config-file", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(options: dict[str, str], directory: pathlib.Path) -> str:
    """The same within this process, which is much faster: why it does not start."""
    config = directory / "agent.conf"
    lines = ["[trusted_clone]", *(f"{name} = {value}" for name, value in options.items())]
    config.write_text("\n".join(lines) + "\n")
    conf, ended = cfg.ConfigOpts(), threading.Event()
    opts.register(conf)
    conf(["--config-file", str(config)], project="nova-trusted-clone")
    ended.set()
    with pytest.raises(wiring.ConfigError) as refused:
        agent.serve(conf, ended, lambda: pytest.fail("it started"))
    return str(refused.value)


def cut(path: pathlib.Path) -> object:
    return path.write_bytes(path.read_bytes()[:-40])


def empty(path: pathlib.Path) -> object:
    return path.write_bytes(b"")


def huge(path: pathlib.Path) -> object:
    return path.write_bytes(bytes(5 << 20))


def away(path: pathlib.Path) -> object:
    path.unlink()
    return None


def text(words: str) -> Spoil:
    def spoil(path: pathlib.Path) -> object:
        return path.write_text(words)

    return spoil


@pytest.mark.parametrize(
    ("option", "spoil"),
    [
        ("policy_file", cut),
        ("policy_file", empty),
        ("policy_file", huge),
        ("policy_file", away),
        ("policy_file", text('{"version": 1, "hosts": {}, "surprise": 1}')),
        ("policy_file", text('{"version": 1e400}')),
        ("anchors_file", cut),
        ("anchors_file", empty),
        ("anchors_file", huge),
        ("anchors_file", away),
        ("anchors_file", text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ("event_log", cut),
        ("event_log", empty),
        ("event_log", huge),
        ("event_log", away),
    ],
)
def test_a_malformed_file_is_named_with_its_option(
    options: dict[str, str], tmp_path: pathlib.Path, option: str, spoil: Spoil
) -> None:
    spoil(pathlib.Path(options[option]))
    assert refusal(options, tmp_path).startswith(f"{option}: {options[option]}: ")


def test_the_program_says_so_and_ends(options: dict[str, str], tmp_path: pathlib.Path) -> None:
    pathlib.Path(options["policy_file"]).unlink()
    ended = start(options, tmp_path)
    assert ended.returncode == 2
    assert f"nova-trusted-clone-agent: policy_file: {options['policy_file']}: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_each_malformed_file_of_the_identity_is_named(
    options: dict[str, str], tmp_path: pathlib.Path
) -> None:
    names = (identity.AK_CHAIN, identity.AK_PUBLIC, identity.VTPM_CA, identity.VTPM_CA_KEY)
    for path in (tmp_path / "identity" / name for name in names):
        kept = path.read_bytes()
        for spoil in (cut, empty, away):
            spoil(path)
            told = refusal(options, tmp_path)
            assert told.startswith("identity_path: ")
            assert str(path) in told
            assert "PRIVATE" not in told
            path.write_bytes(kept)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("network_limit_s", "soon"),
        ("network_limit_s", "0"),
        ("peer_port", "70000"),
        ("tpm", "floppy:/dev/fd0"),
        ("host_id", "another-host"),
    ],
)
def test_a_malformed_option_is_named(
    options: dict[str, str], tmp_path: pathlib.Path, option: str, value: str
) -> None:
    assert option in refusal({**options, option: value}, tmp_path)


def test_a_second_agent_on_one_state_path_is_refused(
    clones: CloneLab, options: dict[str, str], tmp_path: pathlib.Path
) -> None:
    state = str(clones.destination.state_path)
    told = refusal({**options, "state_path": state}, tmp_path)
    assert f"state_path: {state}: another service works there" in told
    clones.operator.agent(clones.destination).admin.call("ping")


@pytest.mark.parametrize("which", ["policy", "anchors"])
def test_a_file_that_is_spoilt_while_agents_run_refuses_the_next_clone(
    clones: CloneLab, web: Guest, which: str
) -> None:
    path: pathlib.Path = getattr(clones.operator, which)
    good = path.read_bytes()
    with clones.nothing_left(web):
        raw = clonelab.signed_order(clones, web)
        path.write_bytes(good[:-40])
        try:
            for host, operation, arguments in (
                (clones.source, "clone", {"orders": [{"order": raw, "address": "x", "port": 1}]}),
                (
                    clones.destination,
                    "prepare",
                    {"order": raw, "name": "n", "uuid": web.uuid, "nics": []},
                ),
            ):
                with pytest.raises(rpc.RpcError) as refused:
                    clones.operator.agent(host).admin.call(operation, **arguments)
                assert f"{which}_file: {path}: " in str(refused.value)
        finally:
            path.write_bytes(good)
        cloning = clones.complete(web)
        clones.destroy(cloning.clones[0])


# -- strangers at the port for other hosts --


def say(clones: CloneLab, raw: bytes) -> bytes:
    """Send bytes to the destination's port and return what comes back until it closes."""
    address = (clones.destination.address, PEER_PORT)
    with inside(clones.source, lambda: socket.create_connection(address, 15)) as connection:
        parts = []
        # What was not read of ours when it closed shows here as a reset.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(raw)
            _say_no_more(connection)
            while part := connection.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)


def _say_no_more(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        # The agent had heard enough and hung up already.
        if error.errno != errno.ENOTCONN:
            raise


def framed(value: Any) -> bytes:
    raw = cbor2.dumps(value)
    return struct.pack(">I", len(raw)) + raw


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">I", 0),
        struct.pack(">I", (1 << 20) + (1 << 16) + 1) + bytes(64),
        b"\xff" * 4096,
        struct.pack(">I", 100) + b"short",
        struct.pack(">I", 3) + b"\xff\xff\xff",
        framed([1, 2]),
        framed({1: 2}),
        framed({"op": "message"}),
        framed({"op": "prepare", "args": {}}),
        framed({"op": "clone", "args": {}}),
        framed({"op": "message", "args": {"clone_id": "../../etc", "data": b""}}),
        framed({"op": "message", "args": {"clone_id": "0" * 32, "data": "text"}}),
        framed({"op": "message", "args": {"clone_id": "0" * 32, "data": bytes(1 << 20)}}),
        framed({"op": "status", "args": {"clone_id": ["0" * 32]}}),
    ],
    ids=lambda raw: f"{len(raw)}-{raw[4:12].hex()}",
)
def test_a_stranger_gets_an_error_or_nothing(clones: CloneLab, raw: bytes) -> None:
    answer = say(clones, raw)
    if answer:
        told = cbor2.loads(answer[4:])
        assert set(told) == {"error", "code"}
        assert told["code"] in (
            "trusted-clone.rpc.operation",
            "trusted-clone.rejected",
            "trusted-clone.request.malformed",
        )
    clones.operator.agent(clones.destination).admin.call("ping")


def test_an_oversized_message_for_a_clone_ends_only_that_clone(
    clones: CloneLab, web: Guest
) -> None:
    with clones.nothing_left(web), between(clones) as relay:
        relay.change_request = lambda _number, request: {**request, "data": bytes(1 << 20)}
        there, here = clones.ended(clones.order(web, via=relay.address), 40)
        assert "challenge" in here
        assert "challenge" in there
