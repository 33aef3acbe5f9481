"""Nova's API as it runs: its router by its own paste file, its policy, its compute API, on databases of its own (sqlite).

Left out is keystone's middleware, whose headers the tests send themselves. Everything that nova-api speaks to by a network is
a small working service (``fakes``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import Any

import nova.conf
import oslo_messaging as messaging
import sqlalchemy
import webob
from nova import context as nova_context
from nova import objects, policy, rpc
from nova.compute import api as compute_api
from nova.compute import vm_states
from nova.db.api import api as api_db
from nova.db.api import models as api_models
from nova.db.main import api as main_db
from nova.db.main import models as main_models
from nova.network import model as network_model
from nova.network import neutron as nova_neutron
from nova.objects import service as nova_service
from nova.scheduler.client import report
from oslo_db.sqlalchemy import enginefacade
from paste import deploy

from nova_trusted_clone.rpc import COMPUTE_TOPIC, CONDUCTOR_TOPIC
from tests.unit.api import fakes
from tests.unit.api.fakes import PROJECT
from tests.unit.rpc.broker import broker, serving

objects.register_all()
CONF = nova.conf.CONF
HOST, NODE, IMAGE = "host-a", "node-a", "155d900f-4e14-4e4c-a73d-069cbf4541e6"
OURS, NOVAS = (
    "nova_trusted_clone.api.router:APIRouterV21.factory",
    "nova.api.openstack.compute:APIRouterV21.factory",
)
CELL = "11111111-2222-3333-4444-555555555555"


@dataclasses.dataclass(frozen=True)
class Reply:
    """A status and a body."""

    status: int
    body: Any
    headers: Any

    @property
    def said(self) -> str:
        """The message of an error."""
        return str(next(iter(self.body.values()))["message"])


@dataclasses.dataclass
class World:
    """A cloud with one host."""

    app: Any
    policy_directory: pathlib.Path
    node: str
    neutron: fakes.Neutron
    placement: fakes.Placement
    nova_conductor: fakes.NovaConductor
    compute: fakes.Compute
    conductor: fakes.CloneConductor
    network: str = ""
    secured_by: str = ""
    accepted: int = 0

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        project: str = PROJECT,
        user: str = "u1",
        roles: str = "member,reader",
        version: str | None = None,
    ) -> Reply:
        """One request, as keystone's middleware would pass it on."""
        request = webob.Request.blank(f"/v2.1{path}", method=method)
        request.headers.update({"X-User-Id": user, "X-Project-Id": project, "X-Roles": roles})
        if version:
            request.headers["OpenStack-API-Version"] = f"compute {version}"
        if body is not None:
            request.content_type = "application/json"
            request.body = json.dumps(body).encode()
        reply = request.get_response(self.app)
        is_json = reply.content_type == "application/json"
        found = json.loads(reply.body) if reply.body and is_json else None
        self.accepted += method == "POST" and "group" in (found or {}).get("trusted_clones", {})
        return Reply(reply.status_int, found, reply.headers)

    def settle(self) -> None:
        """Wait for what was handed to the scheduler, which nova does not wait for: no other test shall get it."""
        deadline = time.monotonic() + 5
        while len(self.nova_conductor.built) < self.accepted and time.monotonic() < deadline:
            time.sleep(0.01)

    def clone(self, server: str, _as: dict[str, str] | None = None, **wish: Any) -> Reply:
        """Ask for clones."""
        return self.call("POST", f"/servers/{server}/action", {"trustedClone": wish}, **(_as or {}))

    def server(self, project: str = PROJECT, **more: Any) -> str:
        """A server that runs, as nova's records have it."""
        with cell() as targeted:
            instance = self._instance(targeted, project, more)
        context = nova_context.get_admin_context()
        found = objects.CellMapping.get_by_uuid(context, CELL)
        objects.InstanceMapping(
            context, instance_uuid=instance.uuid, cell_mapping=found, project_id=project
        ).create()
        return str(instance.uuid)

    def _instance(self, context: Any, project: str, more: dict[str, Any]) -> Any:
        fields: dict[str, Any] = {
            "display_name": "web-1",
            "flavor": flavor(),
            "image_ref": IMAGE,
            "host": HOST,
            "node": NODE,
            "compute_id": 1,
            "vm_state": vm_states.ACTIVE,
            "task_state": None,
            "launched_at": datetime.datetime.now(datetime.UTC),
            "memory_mb": 512,
            "vcpus": 1,
            "metadata": {"role": "web"},
            "system_metadata": {
                "image_disk_format": "qcow2",
                "image_container_format": "bare",
                "image_min_ram": "0",
                "image_min_disk": "1",
                "image_hw_machine_type": "q35",
                "image_base_image_ref": IMAGE,
                "vtpm_secret_uuid": str(uuid.uuid4()),
                "owner_user_name": "somebody",
            },
        } | more
        networks = fields.pop("networks", [self.network])
        disks = fields.pop("disks", [root_disk()])
        server = str(uuid.uuid4())
        fields["info_cache"] = objects.InstanceInfoCache(
            instance_uuid=server, network_info=self._interfaces(server, project, networks)
        )
        instance = objects.Instance(
            context, uuid=server, project_id=project, user_id="u1", **fields
        )
        instance.create()
        for disk in disks:
            objects.BlockDeviceMapping(context, instance_uuid=server, **disk).create()
        return instance

    def _interfaces(self, server: str, project: str, networks: list[str]) -> Any:
        found = []
        for network in networks:
            port = self.neutron.port(
                network, project, device_id=server, security_groups=[self.secured_by]
            )
            vif = network_model.VIF(id=port, network=network_model.Network(id=network))
            found.append(vif)
        return network_model.NetworkInfo(found)

    def events(self, server: str) -> list[str]:
        """The names of what was asked of a server, as its list of events has them."""
        reply = self.call("GET", f"/servers/{server}/os-instance-actions")
        return [row["action"] for row in reply.body["instanceActions"]]

    def left(self) -> dict[str, int]:
        """How much there is of what a request for servers leaves."""
        tables = ("build_requests", "request_specs", "instance_mappings")
        with api_db.context_manager.writer.get_engine().connect() as connection:
            return {
                table: connection.execute(sqlalchemy.text(f"select count(*) from {table}")).scalar()
                for table in tables
            }

    @contextlib.contextmanager
    def policy(self, rules: dict[str, str]) -> Iterator[None]:
        """Override policy as an operator does, in a file that the running nova-api finds."""
        file = self.policy_directory / "50-clones.yaml"
        file.write_text(json.dumps(rules))
        try:
            yield
        finally:
            file.unlink()


@contextlib.contextmanager
def cell() -> Iterator[Any]:
    """A context for the records of servers."""
    context = nova_context.get_admin_context()
    found = objects.CellMapping.get_by_uuid(context, CELL)
    with nova_context.target_cell(context, found) as targeted:
        yield targeted


def delete(server: str) -> None:
    """Delete a server as nova-compute does in the end."""
    with cell() as context:
        objects.Instance.get_by_uuid(context, server).destroy()


def flavor(**more: Any) -> Any:
    """A flavor as a server has it within."""
    fields = {
        "id": 7,
        "flavorid": "7",
        "name": "small",
        "memory_mb": 512,
        "vcpus": 1,
        "root_gb": 1,
        "ephemeral_gb": 0,
        "swap": 0,
        "rxtx_factor": 1.0,
        "disabled": False,
        "is_public": True,
        "extra_specs": {"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb"},
    }
    return objects.Flavor(**fields | more)


def root_disk() -> dict[str, Any]:
    """A local disk from an image."""
    return {
        "source_type": "image",
        "destination_type": "local",
        "device_type": "disk",
        "disk_bus": "virtio",
        "boot_index": 0,
        "device_name": "/dev/vda",
        "image_id": IMAGE,
        "delete_on_termination": True,
    }


def blank_disk(size_gb: int, name: str, guest_format: str | None = None) -> dict[str, Any]:
    """An ephemeral disk, or swap."""
    return {
        "source_type": "blank",
        "destination_type": "local",
        "device_type": "disk",
        "disk_bus": "virtio",
        "boot_index": -1,
        "device_name": name,
        "guest_format": guest_format,
        "volume_size": size_gb,
        "delete_on_termination": True,
    }


def volume(identity: str, name: str = "/dev/vdb", boot_index: int | None = None) -> dict[str, Any]:
    """A volume of cinder's."""
    return {
        "source_type": "volume",
        "destination_type": "volume",
        "device_name": name,
        "boot_index": boot_index,
        "volume_id": identity,
    }


def novas_paste_file() -> pathlib.Path:
    """The file that comes with nova."""
    for file in importlib.metadata.files("nova") or []:
        if file.name == "api-paste.ini":
            return pathlib.Path(file.locate())
    raise FileNotFoundError("nova was installed without its api-paste.ini")


def paste_file(directory: pathlib.Path, *, ours: bool = True) -> pathlib.Path:
    """Nova's own paste file with an operator's one change, and without keystone's middleware."""
    text = novas_paste_file().read_text()
    if NOVAS not in text:
        raise AssertionError(f"nova's api-paste.ini does not name {NOVAS}")
    changed = text.replace(NOVAS, OURS) if ours else text
    made = directory / ("api-paste.ini" if ours else "plain-paste.ini")
    made.write_text(changed.replace(" authtoken ", " "))
    return made


@functools.cache
def empty_database(directory: pathlib.Path, kind: str) -> pathlib.Path:
    """A database with nova's tables; made once, then copied."""
    made = directory / f"empty-{kind}.sqlite"
    base = api_models.BASE if kind == "api" else main_models.BASE
    engine = sqlalchemy.create_engine(f"sqlite:///{made}")
    base.metadata.create_all(engine)
    engine.dispose()
    return made


@contextlib.contextmanager
def databases(directory: pathlib.Path, cache: pathlib.Path) -> Iterator[None]:
    """Nova's API database and two cells, in files."""
    urls = {}
    for name, kind in (("api", "api"), ("cell0", "main"), ("cell1", "main")):
        copied = shutil.copy(empty_database(cache, kind), directory / f"{name}.sqlite")
        urls[name] = f"sqlite:///{copied}"
    with contextlib.ExitStack() as undo:
        for manager, name in ((api_db.context_manager, "api"), (main_db.context_manager, "cell1")):
            fresh = enginefacade.transaction_context()
            fresh.configure(connection=urls[name], sqlite_synchronous=False)
            undo.callback(manager.patch_factory(fresh))
        nova_context.reset_globals()
        compute_api.CELLS.clear()
        context = nova_context.get_admin_context()
        for identity, name in ((objects.CellMapping.CELL0_UUID, "cell0"), (CELL, "cell1")):
            objects.CellMapping(
                context,
                uuid=identity,
                name=name,
                transport_url="none:///",
                database_connection=urls[name],
            ).create()
        undo.callback(nova_context.reset_globals)
        yield


@contextlib.contextmanager
def notifiers(transport: Any) -> Iterator[None]:
    """Nova's notifiers, to nowhere."""
    before = rpc.LEGACY_NOTIFIER, rpc.NOTIFIER
    rpc.LEGACY_NOTIFIER = rpc.NOTIFIER = messaging.Notifier(transport, driver="noop")
    try:
        yield
    finally:
        rpc.LEGACY_NOTIFIER, rpc.NOTIFIER = before


@contextlib.contextmanager
def configuration(directory: pathlib.Path) -> Iterator[None]:
    """Nova's options as far as they matter; policy files of the test's own."""
    policy_directory = directory / "policy.d"
    policy_directory.mkdir()
    wanted = (
        ("policy_dirs", [str(policy_directory)], "oslo_policy"),
        ("policy_file", str(directory / "policy.yaml"), "oslo_policy"),
        ("response_validation", "error", "api"),
        ("lock_path", str(directory), "oslo_concurrency"),
        ("sqlite_synchronous", False, "database"),
    )
    policy.init()  # registers oslo.policy's options
    for name, value, group in wanted:
        CONF.set_override(name, value, group=group)
    policy.reset()
    try:
        yield
    finally:
        for name, _value, group in wanted:
            CONF.clear_override(name, group=group)
        policy.reset()


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute, for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@dataclasses.dataclass
class Services:
    """What goes on from test to test: nova-api, which takes its time to start, and what it speaks to."""

    app: Any
    policy_directory: pathlib.Path
    neutron: fakes.Neutron = dataclasses.field(default_factory=fakes.Neutron)
    placement: fakes.Placement = dataclasses.field(default_factory=fakes.Placement)
    nova_conductor: fakes.NovaConductor = dataclasses.field(default_factory=fakes.NovaConductor)
    compute: fakes.Compute = dataclasses.field(default_factory=fakes.Compute)
    conductor: fakes.CloneConductor = dataclasses.field(default_factory=fakes.CloneConductor)

    def parts(self) -> dict[str, Any]:
        """The services by name."""
        names = ("neutron", "placement", "nova_conductor", "compute", "conductor")
        return {name: getattr(self, name) for name in names}


@contextlib.contextmanager
def started(directory: pathlib.Path, *, ours: bool = True) -> Iterator[Services]:
    """nova-api and its neighbours; ``ours`` false is nova as it comes."""
    services = Services(None, directory / "policy.d")
    with contextlib.ExitStack() as parts:
        enter = parts.enter_context
        transport = enter(broker())
        enter(notifiers(transport))
        enter(configuration(directory))
        enter(replaced(nova_neutron, "get_client", services.neutron.client))
        enter(replaced(report, "PLACEMENTCLIENT", services.placement))
        enter(serving(transport, "conductor", "nova", services.nova_conductor))
        enter(serving(transport, COMPUTE_TOPIC, HOST, services.compute))
        enter(serving(transport, CONDUCTOR_TOPIC, "clones", services.conductor))
        made = paste_file(directory, ours=ours)
        services.app = deploy.loadapp(f"config:{made}", name="osapi_compute")
        yield services


@contextlib.contextmanager
def running(services: Services, directory: pathlib.Path, empty: pathlib.Path) -> Iterator[World]:
    """A cloud with one host that can clone, and nothing in it."""
    for service in services.parts().values():
        service.__init__()
    with databases(directory, empty):
        node = _host()
        services.placement.traits[node] = {"CUSTOM_TRUSTED_CLONE"}
        world = World(services.app, services.policy_directory, node, **services.parts())
        world.network = world.neutron.network()
        world.secured_by = world.neutron.group("web")
        yield world
        world.settle()


def _host() -> str:
    """Nova's records of the host; returns its resource provider's id."""
    context = nova_context.get_admin_context()
    nova_service.Service.clear_min_version_cache()
    found = objects.CellMapping.get_by_uuid(context, CELL)
    now = datetime.datetime.now(datetime.UTC)
    with cell() as targeted:
        objects.Service(
            targeted,
            host=HOST,
            binary="nova-compute",
            topic="compute",
            last_seen_up=now,
            uuid=str(uuid.uuid4()),
        ).create()
        node = objects.ComputeNode(
            targeted,
            host=HOST,
            hypervisor_hostname=NODE,
            uuid=str(uuid.uuid4()),
            vcpus=8,
            memory_mb=8192,
            local_gb=100,
            vcpus_used=0,
            memory_mb_used=0,
            local_gb_used=0,
            hypervisor_type="QEMU",
            hypervisor_version=8000000,
            cpu_info="",
        )
        node.create()
    objects.HostMapping(context, host=HOST, cell_mapping=found).create()
    return str(node.uuid)
