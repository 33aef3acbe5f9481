"""The command line: exit codes, one line an error, and what it needs to be installed."""

import json
import pathlib
import subprocess
import sys

import pytest

from nova_trusted_clone.clone import private_files, reference
from nova_trusted_clone.clone.authority import Authority
from nova_trusted_clone.cmd import manage
from nova_trusted_clone.core.attest import policy
from nova_trusted_clone.core.errors import MalformedInput, Refused
from nova_trusted_clone.tpm.bootlog import Machine, events, measure_boot
from nova_trusted_clone.tpm.fake import SoftwareTpm, shared_keys
from tests.unit.manage.hosts import maker

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "vectors"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "maker.pem").write_bytes(maker().pem)
    values = {pcr: bytes([pcr]) * 32 for pcr in range(8)}
    (tmp_path / "policy.json").write_bytes(policy.learn(None, "host-a", "lab", values))
    (tmp_path / "evidence.json").write_text("{}")
    return tmp_path


def run(*arguments):
    return manage.main([str(argument) for argument in arguments])


def create(place):
    at = ("--directory", place / "authority", "--host-ek-root", place / "maker.pem")
    return run("authority", "create", *at)


def test_an_authority_is_made_once(place, capsys):
    assert create(place) == 0
    assert create(place) == 2
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda raw: raw | {"version": 2}, "policy.version"),
        (lambda raw: raw | {"surprise": 1}, "policy.surprise"),
        (lambda raw: raw | {"hosts": {"host-a": "none"}}, "policy.hosts.host-a"),
    ],
)
def test_a_bad_policy_is_named_by_its_field(place, capsys, change, named):
    file = place / "policy.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    assert run("policy", "check", file) == 2
    err = capsys.readouterr().err
    assert named in err
    assert err.count("\n") == 1


def test_a_policy_is_shown(place, capsys):
    assert run("policy", "show", place / "policy.json") == 0
    out = capsys.readouterr().out
    assert "host host-a class lab" in out
    assert f"class lab PCR 7 {'07' * 32}" in out


def test_a_missing_file_is_bad_input(place, capsys):
    assert run("policy", "check", place / "none.json") == 2
    assert "none.json" in capsys.readouterr().err


def test_evidence_that_is_none_does_not_hold_and_says_why(place, capsys):
    create(place)
    files = ("--ca", place / "authority" / "anchors.pem", "--policy", place / "policy.json")
    assert run("evidence", "verify", place / "evidence.json", *files, "--nonce", "00" * 16) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "THE EVIDENCE DOES NOT HOLD" in out


@pytest.mark.parametrize(("nonce", "code"), [(None, 0), ("00" * 16, 1)])
def test_recorded_evidence_holds_for_its_own_nonce_alone(tmp_path, capsys, nonce, code):
    recorded = json.loads((VECTORS / "exchange-1-new.json").read_text())
    (tmp_path / "evidence").write_text(json.dumps(recorded["evidence"]))
    for name in ("anchors", "policy"):
        (tmp_path / name).write_text(recorded[name])
    files = (tmp_path / "evidence", "--ca", tmp_path / "anchors", "--policy", tmp_path / "policy")
    assert run("evidence", "verify", *files, "--nonce", nonce or recorded["tenant_nonce"]) == code
    out = capsys.readouterr().out
    failed = [line.split()[1] for line in out.splitlines() if line.startswith("FAILED")]
    assert failed == ([] if code == 0 else ["trusted-clone.evidence.nonce:"])


def test_evidence_as_json(place, capsys):
    create(place)
    capsys.readouterr()
    files = ("--ca", place / "authority" / "anchors.pem", "--policy", place / "policy.json")
    verify = ("evidence", "verify", place / "evidence.json", *files, "--nonce", "00" * 16)
    assert run(*verify, "--json") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_an_order_for_a_host_that_is_not_enrolled_is_refused(place, capsys):
    create(place)
    servers = ("--source-server", "11111111-1111-4111-8111-111111111111")
    servers += ("--destination-server", "22222222-2222-4222-8222-222222222222")
    rest = ("--source-host", "a", "--destination-host", "b", "--project", "p", "--user", "u")
    files = ("--authority", place / "authority", "--policy", place / "policy.json")
    files += ("--output", place / "order", "--memory-bytes", 1)
    assert run("order", "create", *files, *servers, *rest) == 1
    assert "host a: not enrolled" in capsys.readouterr().err
    assert not (place / "order").exists()


def test_removing_a_host_that_is_not_there(place, capsys):
    create(place)
    assert run("host", "remove", "--authority", place / "authority", "--host", "x") == 1
    assert run("host", "list", "--authority", place / "authority") == 0


@pytest.mark.parametrize("arguments", [(), ("policy",), ("evidence", "verify", "x")])
def test_an_incomplete_command_line(arguments):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2


def test_it_needs_no_tpm_library_and_no_hypervisor_until_they_are_used(place):
    """A tenant's laptop has neither: they are forbidden here, and evidence is still judged."""
    create(place)
    code = (
        "import sys\n"
        "for name in ('tpm2_pytss', 'libvirt', 'pyfuse3', 'oslo_config'): sys.modules[name] = None\n"
        "from nova_trusted_clone.cmd import manage\n"
        "sys.exit(manage.main(sys.argv[1:]))\n"
    )
    files = ["--ca", place / "authority" / "anchors.pem", "--policy", place / "policy.json"]
    command = [sys.executable, "-c", code, "evidence", "verify", place / "evidence.json", *files]
    done = subprocess.run([*command, "--nonce", "00"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "THE EVIDENCE DOES NOT HOLD" in done.stdout


class TestReferenceValues:
    def test_a_log_that_explains_the_pcrs(self):
        tpm = SoftwareTpm(shared_keys("golden"))
        log = measure_boot(tpm, events(Machine()))
        assert reference.measure(tpm, log) == tpm.read_pcrs(range(8))

    def test_a_log_that_does_not(self):
        tpm = SoftwareTpm(shared_keys("golden"))
        log = measure_boot(tpm, events(Machine()))
        tpm.extend(4, bytes(32))
        with pytest.raises(Refused) as refused:
            reference.measure(tpm, log)
        codes = [check.code for check in refused.value.verdict.failures]
        assert codes == ["trusted-clone.event-log.pcr-4"]

    def test_what_is_no_log(self):
        with pytest.raises(MalformedInput):
            reference.measure(SoftwareTpm(shared_keys("golden")), b"no log")


class TestPrivateFiles:
    def test_they_are_private_and_whole(self, tmp_path):
        private_files.write(tmp_path / "f", b"one")
        private_files.write(tmp_path / "f", b"two")
        assert (tmp_path / "f").read_bytes() == b"two"
        assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["f"]

    def test_a_new_file_never_replaces(self, tmp_path):
        private_files.write(tmp_path / "f", b"one", new=True)
        with pytest.raises(FileExistsError):
            private_files.write(tmp_path / "f", b"two", new=True)
        assert (tmp_path / "f").read_bytes() == b"one"
        assert [path.name for path in tmp_path.iterdir()] == ["f"]

    def test_a_directory_that_is_open_to_others_is_refused(self, tmp_path):
        (tmp_path / "d").mkdir(mode=0o755)
        with pytest.raises(PermissionError, match="mode 0700"):
            private_files.make_directory(tmp_path / "d")


def test_the_authoritys_representation_shows_no_key(place):
    create(place)
    authority = Authority(place / "authority")
    assert "PRIVATE" not in repr(authority._pair("control"))
