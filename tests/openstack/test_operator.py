"""What the operator sees: who runs as whom, his commands on running services, and that nothing tells a secret."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest
from labkit import guests, hardware_tpm
from labkit.cloud import nova, rights, settings
from labkit.cloud.cloud import Cloud
from labkit.cloud.nodes import CloudNode, Compute
from labkit.cloud.servers import Server
from labkit.sandbox import inhabitants
from openstack.connection import Connection
from oslo_privsep import capabilities

from tests.openstack.clones import held
from tests.openstack.tenant import Tenant

GUEST_MEMORY = (
    capabilities.CAP_SYS_PTRACE,
    capabilities.CAP_DAC_READ_SEARCH,
    capabilities.CAP_SYS_NICE,
)
MOUNTS = (capabilities.CAP_SYS_ADMIN,)


@pytest.fixture(autouse=True, scope="module")
def installed(cloud: Cloud) -> None:
    """These stories are of hosts as they are installed."""
    if not all(host.installed for host in cloud.computes):
        pytest.skip("the checkout cannot be read by other users, so the lab's hosts are all root's")


@pytest.fixture
def tenant(cloud: Cloud, tmp_path: pathlib.Path) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path)


@pytest.fixture
def clone(tenant: Tenant, web: Server) -> Iterator[Server]:
    """A complete clone of ``web``."""
    words = ("server", "clone", web.id, "--name", "servant", "--wait", "-f", "json")
    (row,) = tenant.openstack(*words).ok().json()
    made = Server(web.cloud, web.client, web.admin, row["Server ID"])
    yield made
    made.delete()


class Program:
    """One process of a host, as the kernel has it."""

    def __init__(self, pid: int) -> None:
        place = pathlib.Path("/proc", str(pid))
        status = dict(
            line.split(":\t", 1)
            for line in (place / "status").read_text().splitlines()
            if ":\t" in line
        )
        self.words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        self.user = int(status["Uid"].split()[1])
        self.held = int(status["CapPrm"], 16) | int(status["CapAmb"], 16)

    def names(self, text: str) -> bool:
        """Whether a word of its command line ends so."""
        return any(word.endswith(text) for word in self.words)


def programs(host: Compute, text: str) -> list[Program]:
    """The host's processes one of whose words ends so."""
    found = []
    for one in inhabitants(host.marker):
        try:
            program = Program(one.pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if program.names(text):
            found.append(program)
    return found


def rights_of(host: Compute, text: str) -> set[tuple[int, int]]:
    """User and capabilities of those processes."""
    return {(one.user, one.held) for one in programs(host, text)}


def mask(numbers: tuple[int, ...]) -> int:
    return sum(1 << number for number in numbers)


def user_id(host: Compute, name: str) -> int:
    return int(host.run(["id", "-u", name]))


def test_a_clone_needs_no_root_but_two_daemons_with_the_least_rights(
    web: Server, clone: Server
) -> None:
    """nova-compute, stores and exporters are nova and may nothing special; QEMU and its TPM are yet others."""
    for host in (web.host, clone.host):
        assert rights_of(host, "bin/nova-compute") == {(rights.NOVA_ID, 0)}
        daemons = {
            "guest_memory_pctxt": {(0, mask(GUEST_MEMORY))},
            "mounts_pctxt": {(0, mask(MOUNTS))},
        }
        assert {name: rights_of(host, name) for name in daemons} == daemons
        assert rights_of(host, "bin/qemu-system-x86_64") == {(user_id(host, rights.QEMU), 0)}
    assert rights_of(clone.host, "nova_trusted_clone.cmd.store") == {(rights.NOVA_ID, 0)}
    guests_tpms = [one for one in programs(clone.host, "bin/swtpm") if one.user != 0]
    assert (user_id(clone.host, rights.TPM), 0) in {(one.user, one.held) for one in guests_tpms}


# -- the operator's commands ------------------------------------------------------------------------------------------


class Operator:
    """An operator at a terminal of a node."""

    def __init__(self, node: CloudNode, place: pathlib.Path) -> None:
        self._node = node
        self.place = place

    def run(self, program: str, *words: object) -> str:
        """What a command prints; it must succeed."""
        return self._node.run([settings.BIN / program, *map(str, words)])

    def manage(self, *words: object) -> str:
        """``nova-trusted-clone-manage``."""
        return self.run("nova-trusted-clone-manage", *words)


@pytest.fixture
def controller(cloud: Cloud, tmp_path: pathlib.Path) -> Operator:
    """On the control node."""
    return Operator(cloud.control, tmp_path)


@pytest.fixture
def nova_conf(cloud: Cloud) -> tuple[object, ...]:
    return nova.config_file(cloud.control)


def test_a_host_is_enrolled_by_hand_at_another_authority(
    cloud: Cloud, tmp_path: pathlib.Path
) -> None:
    """The five steps of the guide between two machines, with the host's own TPM; then its values are learned and it goes."""
    host = cloud.computes[0]
    here, authority = Operator(host, tmp_path), Operator(cloud.control, tmp_path)
    makers = tmp_path / "maker-ca.pem"
    makers.write_bytes(hardware_tpm.vendor_certificates(cloud.paths.vendor_ca))
    place, policy, identity = (tmp_path / name for name in ("authority", "policy.json", "identity"))
    tpm, log = ("--tpm", host.tpm), ("--event-log", host.event_log)
    request, challenge, response, grant = (
        tmp_path / f"{name}.json" for name in ("request", "challenge", "response", "grant")
    )
    create = ("authority", "create", "--directory", place, "--name", "other")
    assert "made an authority" in authority.manage(*create, "--host-ek-root", makers)
    assert "explains PCR 0-7" in here.manage("tpm", "status", *tpm, *log)
    own = ("--identity", identity)
    here.manage("enrol", "request", "--host-id", host.name, *tpm, *own, "--output", request)
    at = ("--authority", place)
    authority.manage("enrol", "challenge", *at, "--request", request, "--output", challenge)
    here.manage("enrol", "respond", *tpm, *own, "--challenge", challenge, "--output", response)
    authority.manage("enrol", "issue", *at, "--response", response, "--output", grant)
    told = here.manage("enrol", "install", *own, "--grant", grant)
    assert told.startswith(f"{host.name}: enrolled")
    learn = ("--host", host.name, "--host-class", "lab", "--policy", policy)
    here.manage("policy", "learn", *learn, *tpm, *log)
    assert "good, 1 hosts" in authority.manage("policy", "check", policy)
    assert f"host {host.name} class lab" in authority.manage("policy", "show", policy)
    assert authority.manage("host", "list", *at).startswith(f"{host.name} AK ")
    assert "removed" in authority.manage("host", "remove", *at, "--host", host.name)
    assert authority.manage("host", "list", *at) == ""


def test_the_running_cloud_is_checked(
    cloud: Cloud, controller: Operator, nova_conf: tuple[object, ...]
) -> None:
    """Schema, keys, conductor and hosts answer, each by its command."""
    before = controller.manage(*nova_conf, "db", "version")
    assert controller.manage(*nova_conf, "db", "sync") == before
    assert "removed" in controller.manage(*nova_conf, "db", "purge", "--before", 365)
    hosts = [word for host in cloud.computes for word in ("--host", host.name)]
    told = controller.manage(*nova_conf, "self-test", *hosts)
    assert {line.split()[0] for line in told.splitlines()} == {"ok"}, told
    for host in cloud.computes:
        assert host.name in told
    checked = controller.run("nova-trusted-clone-status", *nova_conf, "upgrade", "check")
    assert checked.count("Result: Success") == 3, checked


def test_an_operator_lists_and_ends_a_tenants_clone(
    controller: Operator, nova_conf: tuple[object, ...], tenant: Tenant, web: Server
) -> None:
    words = ("server", "clone", web.id, "--name", "unwanted", "--memory", "eager", "--wait")
    with held(web) as hold:
        running = tenant.start(*words, "-f", "json")
        hold.wait()
        listed = controller.manage(*nova_conf, "clone", "list", "--server", web.id, "--json")
        (record,) = [one for one in json.loads(listed) if one["name"] == "unwanted"]
        controller.manage(*nova_conf, "clone", "abort", record["id"], "--reason", "a drill")
    (row,) = running.done().json()
    assert row["Phase"] in ("aborted", "failed")
    assert "a drill" in row["Reason"]
    told = controller.manage(*nova_conf, "clone", "list", "--server", web.id)
    assert f"{record['id']}  {row['Phase']}" in told
    Server(web.cloud, web.client, web.admin, record["server_id"]).delete()
    assert web.answers_ping()


# -- what is told -----------------------------------------------------------------------------------------------------


def test_a_request_is_found_in_all_logs_by_its_id(
    cloud: Cloud, tmp_path: pathlib.Path, demo: Connection, web: Server
) -> None:
    """API, conductor, source and destination; there the lines name what the engine calls the freeze and the clone."""
    body = {"trustedClone": {"name": "traced"}}
    reply = demo.compute.post(f"/servers/{web.id}/action", json=body)
    made = reply.json()["trusted_clones"]
    (server,) = made["servers"]
    clone = Server(cloud, demo, web.admin, server["id"])
    try:
        clone.wait_for_status("ACTIVE")
        request = reply.headers["x-openstack-request-id"]
        lines = {
            path.stem: [
                line for line in path.read_text(errors="replace").splitlines() if request in line
            ]
            for path in cloud.paths.log.glob("*.log")
        }
        assert any("trustedClone" in line or "/action" in line for line in lines["nova-api"])
        assert any("claimed -> ordered" in line for line in lines["trusted-clone-conductor"])
        begun = lines[f"nova-compute-{web.host.name}"]
        assert any("begun for 1 clones" in line for line in begun), begun
        ordered = lines[f"nova-compute-{clone.host.name}"]
        assert any(f"is ordered for server {clone.id}" in line for line in ordered), ordered
    finally:
        clone.delete()


def secrets_of(cloud: Cloud, tokens: tuple[str, ...]) -> dict[str, bytes]:
    """Everything secret that this cloud has and that a test can know, by what it is."""
    found = {"the services' password": settings.PASSWORD.encode()}
    found |= {f"token {number}": token.encode() for number, token in enumerate(tokens)}
    keys = (
        *(cloud.paths.hosts / "operator").glob("*.key"),
        *(host.identity / "vtpm-ca.key" for host in cloud.computes),
    )
    for path in keys:
        found[str(path)] = path.read_bytes().splitlines()[1]
    for host in cloud.computes:
        with guests.connected(host) as connection:
            for secret in connection.listAllSecrets():
                found[f"vTPM secret {secret.UUIDString()}"] = secret.value()
    return found


def told(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    """Every log of the cloud, and the command line of each of its processes."""
    for path in cloud.paths.log.glob("**/*.log"):
        yield str(path), path.read_bytes()
    for host in cloud.computes:
        for path in (*(host.base / "log").glob("**/*.log"), *host.state_path.glob("**/log")):
            yield str(path), path.read_bytes()
    for node in cloud.nodes:
        for one in inhabitants(node.marker):
            try:
                line = pathlib.Path("/proc", str(one.pid), "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield f"process {one.pid}", line


def test_no_log_and_no_command_line_tells_a_secret(
    cloud: Cloud, demo: Connection, admin: Connection, clone: Server
) -> None:
    """After a clone came to be, whose vTPM, token and hosts have secrets."""
    tokens = tuple(str(one.session.get_token()) for one in (demo, admin))
    known = secrets_of(cloud, tokens)
    assert sum(name.startswith("vTPM secret") for name in known) >= 2
    looked = list(told(cloud))
    assert sum(name.startswith("process") for name, _ in looked) > 20
    leaks = [
        f"{place}: {name}"
        for place, text in looked
        for name, secret in known.items()
        if secret in text
    ]
    assert leaks == []
