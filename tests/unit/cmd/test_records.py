"""The operator's commands on the records, and the upgrade check."""

import json
import pathlib

import pytest

from nova_trusted_clone.cmd import manage
from nova_trusted_clone.core.attest.policy import learn
from nova_trusted_clone.db import migration
from nova_trusted_clone.db.engine import Database
from nova_trusted_clone.db.store import Store
from nova_trusted_clone.objects.clone import Phase
from tests.unit.core.world import pem
from tests.unit.db import contract


@pytest.fixture
def conf(tmp_path: pathlib.Path) -> pathlib.Path:
    """A nova.conf with a database that is empty."""
    path = tmp_path / "nova.conf"
    path.write_text(
        "[trusted_clone_database]\n"
        f"connection = sqlite:///{tmp_path / 'records.sqlite'}\n"
        "[trusted_clone_conductor]\n"
        "retry_limit_s = 0\n"
        f"signer_path = {tmp_path}\n"
        f"anchors_file = {tmp_path / 'anchors.pem'}\n"
        f"policy_file = {tmp_path / 'policy.json'}\n"
    )
    return path


def run(conf, *words):
    return manage.main(["--config-file", str(conf), *words])


def test_the_schema_is_made_and_told(conf, capsys):
    assert run(conf, "db", "version") == 0
    assert "db sync" in capsys.readouterr().out
    assert run(conf, "db", "sync") == 0
    assert run(conf, "db", "version") == 0
    assert capsys.readouterr().out.split() == [migration.newest()] * 2


def test_records_are_listed_and_purged(conf, tmp_path, capsys):
    run(conf, "db", "sync")
    store = Store.of(Database({"connection": f"sqlite:///{tmp_path / 'records.sqlite'}"}, 0))
    group = store.groups.begin(contract.group())
    long_ago = contract.NOW.replace(year=2020)
    ended = contract.clone(group, phase=Phase.FAILED, reason="why not", updated_at=long_ago)
    going = contract.clone(group)
    store.groups.register(group.id, [ended, going], 2, contract.joined)
    capsys.readouterr()
    assert run(conf, "clone", "list", "--phase", "failed") == 0
    assert capsys.readouterr().out.split()[0] == ended.id
    assert run(conf, "clone", "list", "--json") == 0
    assert {view["id"] for view in json.loads(capsys.readouterr().out)} == {ended.id, going.id}
    assert run(conf, "db", "purge", "--before", "30") == 0
    assert "1 clones" in capsys.readouterr().out
    assert [clone.id for clone in store.clones.matching({})] == [going.id]


@pytest.mark.parametrize(
    "words", [("db", "purge", "--before", "-1"), ("db", "sync", "ffffffffffff"), ("clone", "list")]
)
def test_what_cannot_be_done_is_one_line(conf, capsys, words):
    assert run(conf, *words) == manage.BAD_INPUT
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_connection_that_is_not_set_is_told(tmp_path, capsys):
    empty = tmp_path / "empty.conf"
    empty.write_text("")
    assert run(empty, "db", "sync") == manage.BAD_INPUT
    assert "trusted_clone_database" in capsys.readouterr().err


def test_an_abort_needs_somebody_who_answers(conf, capsys, monkeypatch):
    from nova import rpc

    monkeypatch.setattr(rpc, "TRANSPORT", None)
    monkeypatch.setattr("nova_trusted_clone.rpc.conductor.CALL_S", 0.1)
    with open(conf, "a") as file:
        file.write("[DEFAULT]\ntransport_url = fake:/\n")
    assert run(conf, "clone", "abort", "0b7b1d1e-3c51-4f0e-9a55-0d0f6f3c2a11") == manage.REFUSED
    assert "trusted-clone.rpc" in capsys.readouterr().err


class TestSelfTest:
    """Files that fit together, and files that do not."""

    @pytest.fixture
    def operator(self, conf, tmp_path):
        from nova_trusted_clone.clone.authority import Authority
        from nova_trusted_clone.clone.registry import EnrolledHost
        from tests.unit.core.world import Authorities, Machine

        authorities = Authorities()
        roots = pem(*authorities.anchors.host_ek)
        authority = Authority.create(tmp_path / "authority", "test", roots)
        policy = None
        for number, name in enumerate(("host-1", "host-2")):
            machine = Machine(name, authorities)
            host = EnrolledHost(name, bytes([number]) * 32, machine.tpm.ak_name, 0)
            with authority.registry.claiming(host):
                policy = learn(policy, name, "class", machine.values)
        for name in ("control.key", "control.pem", "hosts.json", "anchors.pem"):
            (tmp_path / name).write_bytes((authority.directory / name).read_bytes())
        (tmp_path / "policy.json").write_bytes(policy)
        run(conf, "db", "sync")
        return tmp_path

    def test_all_is_well(self, conf, operator, capsys):
        capsys.readouterr()
        assert run(conf, "self-test", "--offline") == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ok"] * 3

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("control.key", b"no key", "cannot be signed"),
            ("anchors.pem", b"", "refuse this signer"),
            ("policy.json", b"{}", "policy"),
            ("hosts.json", b"{}", "registry"),
            ("records.sqlite", b"", "run db sync"),
        ],
    )
    def test_what_is_broken_is_named(self, conf, operator, capsys, name, content, told):
        (operator / name).write_bytes(content)
        assert run(conf, "self-test", "--offline") == manage.REFUSED
        found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
        assert any(told in line for line in found), found

    def test_a_certificate_of_another_key_is_named(self, conf, operator, capsys):
        from nova_trusted_clone.clone.authority import key_pem
        from tests.unit.core.software_tpm import key_from

        (operator / "control.key").write_bytes(key_pem(key_from("another")))
        assert run(conf, "self-test", "--offline") == manage.REFUSED
        assert "not the certificate" in capsys.readouterr().out

    def test_a_host_that_the_policy_does_not_name_is_worth_a_look(self, conf, operator, capsys):
        raw = json.loads((operator / "policy.json").read_bytes())
        del raw["hosts"]["host-2"]
        (operator / "policy.json").write_text(json.dumps(raw))
        assert run(conf, "self-test", "--offline") == 0
        assert "LOOK" in capsys.readouterr().out


def test_the_upgrade_check_stops_an_upgrade_that_would_not_work(conf, capsys):
    from oslo_upgradecheck.upgradecheck import Code

    from nova_trusted_clone.cmd import status

    run(conf, "db", "version")  # reads the options
    assert status.Checks().check() is Code.FAILURE
    out = capsys.readouterr().out
    assert "db sync" in out and "orders cannot be signed" in out
