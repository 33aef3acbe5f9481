"""The tenants' guide: every command in it is one, and its Python runs."""

from __future__ import annotations

import argparse
import importlib.metadata
import pathlib
import re
import shlex
import textwrap
import uuid

import openstack
import pytest
from keystoneauth1 import adapter

from nova_trusted_clone.client import novaclient_ext, waiting
from tests.unit.client.cloud import Cloud
from tests.unit.client.conftest import Recorded

GUIDE = (pathlib.Path(__file__).resolve().parents[3] / "doc/source/client.rst").read_text()
OPENSTACK = re.findall(r"^ +\$ openstack (server clone .*)$", GUIDE, re.MULTILINE)
NOVA = re.findall(r"^ +\$ nova (clone.*)$", GUIDE, re.MULTILINE)
BLOCKS = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", GUIDE)
POINTS = {
    point.name.replace("_", " "): point
    for point in importlib.metadata.entry_points(group="openstack.compute.v2")
    if point.name.startswith("server_clone")
}


def parser_of(name: str) -> argparse.ArgumentParser:
    return POINTS[name].load()(None, None).get_parser(name)


@pytest.mark.parametrize("line", OPENSTACK)
def test_every_command_is_one(line: str):
    name = max((name for name in POINTS if f"{line} ".startswith(f"{name} ")), key=len)
    words = shlex.split(line.removeprefix(name))
    if words != ["--help"]:
        assert parser_of(name).parse_args(words)


def test_every_command_is_in_the_guide():
    assert all(any(line.startswith(name) for line in OPENSTACK) for name in POINTS)


@pytest.mark.parametrize("line", NOVA)
def test_every_command_of_nova_is_one(line: str):
    name, *words = shlex.split(line)
    parser = argparse.ArgumentParser()
    for arguments, options in getattr(novaclient_ext, f"do_{name.replace('-', '_')}").arguments:
        parser.add_argument(*arguments, **options)
    assert parser.parse_args(words)


def test_every_option_of_the_table_is_one():
    table = GUIDE.partition(".. list-table::")[2].partition("**Keep the nonce.**")[0]
    options = set(re.findall(r"``(--[a-z-]+)``", table))
    known = parser_of("server clone")._option_string_actions
    assert options
    assert options <= set(known)


def test_its_python_clones_waits_and_verifies(
    cloud: Cloud,
    compute: adapter.Adapter,
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
):
    source = cloud.server("web", recorded.source)
    cloud.new_server_ids = [str(uuid.UUID(int=n)) for n in (1, 2)]
    cloud.evidence = dict.fromkeys(cloud.new_server_ids, recorded.evidence)
    recorded.ca.rename(tmp_path / "anchors.pem")
    recorded.policy.rename(tmp_path / "policy.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    monkeypatch.setattr(
        openstack, "connect", lambda cloud: openstack.connection.Connection(session=compute.session)
    )
    exec(textwrap.dedent(BLOCKS[0]), {})
    shown = capsys.readouterr().out.splitlines()
    assert cloud.requests("POST", f"/servers/{source}/action")
    # The recorded clone is neither of these, and carries a nonce of its own.
    assert [line.split(":")[0] for line in shown] == [
        f"web-clone-{n} trusted-clone.evidence.nonce" for n in (1, 2)
    ]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_python_compiles(block: str):
    compile(textwrap.dedent(block), "client.rst", "exec")
