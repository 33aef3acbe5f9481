"""The services that nova-api speaks to, small and working: neutron, placement, two conductors, a compute."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import oslo_messaging as messaging
from neutronclient.common import exceptions as neutron_errors
from nova.scheduler.client import report

from nova_trusted_clone.rpc import checks, shapes
from nova_trusted_clone.rpc.endpoint import answers
from nova_trusted_clone.rpc.errors import CloneError, Conflict, Invalid, NotFound

TIME = "2026-11-24T21:00:00Z"
PROJECT, STRANGER = "7f" * 16, "0e" * 16


class Neutron:
    """Networks, ports and security groups. A client sees those of its own project and shared networks."""

    def __init__(self) -> None:
        self.networks: dict[str, dict[str, Any]] = {}
        self.ports: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.port_quota = -1
        self.away = False

    def network(self, project: str = PROJECT, **more: Any) -> str:
        """Make a network with a subnet."""
        made = {"id": str(uuid.uuid4()), "name": "net", "tenant_id": project, "shared": False}
        made |= {"subnets": [str(uuid.uuid4())], "port_security_enabled": True} | more
        self.networks[made["id"]] = made
        return str(made["id"])

    def group(self, name: str, project: str = PROJECT) -> str:
        """Make a security group."""
        made = {"id": str(uuid.uuid4()), "name": name, "tenant_id": project}
        self.groups[made["id"]] = made
        return str(made["id"])

    def port(self, network: str, project: str = PROJECT, **more: Any) -> str:
        """Make a port."""
        made = {
            "id": str(uuid.uuid4()),
            "network_id": network,
            "tenant_id": project,
            "device_id": "",
            "device_owner": "",
            "security_groups": [],
            "port_security_enabled": True,
            "binding:vnic_type": "normal",
            "binding:profile": {},
            "fixed_ips": [{"ip_address": f"10.0.0.{len(self.ports) + 2}"}],
            "status": "ACTIVE",
        }
        self.ports[made["id"]] = made | more
        return str(made["id"])

    def client(self, context: Any, admin: bool = False) -> NeutronClient:
        """As nova.network.neutron.get_client."""
        return NeutronClient(self, context.project_id, admin or context.is_admin)


@dataclasses.dataclass
class NeutronClient:
    """What a project's token sees."""

    neutron: Neutron
    project: str
    admin: bool

    def _mine(self, rows: Mapping[str, dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
        if self.neutron.away:
            raise neutron_errors.ConnectionFailed(reason="connection refused")
        wanted = {k: v for k, v in wanted.items() if k not in ("fields", "retrieve_all")}
        return [
            row
            for row in rows.values()
            if (self.admin or row["tenant_id"] == self.project or row.get("shared"))
            and all(_fits(row.get(key), value) for key, value in wanted.items())
        ]

    def list_networks(self, **wanted: Any) -> Any:
        """Networks by fields."""
        return {"networks": self._mine(self.neutron.networks, **wanted)}

    def show_network(self, network: str, **_: Any) -> Any:
        """One network."""
        return {"network": self._one(self.neutron.networks, network, "Network")}

    def list_ports(self, **wanted: Any) -> Any:
        """Ports by fields; an address is sought as neutron does."""
        address = wanted.pop("fixed_ips", None)
        found = self._mine(self.neutron.ports, **wanted)
        if address:
            sought = address.removeprefix("ip_address=")
            found = [p for p in found if sought in [f["ip_address"] for f in p["fixed_ips"]]]
        return {"ports": found}

    def show_port(self, port: str, **_: Any) -> Any:
        """One port."""
        return {"port": self._one(self.neutron.ports, port, "Port")}

    def list_security_groups(self, **wanted: Any) -> Any:
        """Groups by fields."""
        return {"security_groups": self._mine(self.neutron.groups, **wanted)}

    def find_resource(self, kind: str, name: str, *_: Any, **__: Any) -> Any:
        """A security group by id or name."""
        found = [g for g in self._mine(self.neutron.groups) if name in (g["id"], g["name"])]
        if len(found) > 1:
            raise neutron_errors.NeutronClientNoUniqueMatch(resource=kind, name=name)
        if not found:
            raise neutron_errors.NotFound(message=f"Unable to find {kind} {name}")
        return found[0]

    def show_quota(self, project: str) -> Any:
        """A project's quota of ports."""
        return {"quota": {"port": self.neutron.port_quota}}

    def list_extensions(self, **_: Any) -> Any:
        """None of the optional ones."""
        return {"extensions": []}

    def _one(self, rows: dict[str, dict[str, Any]], name: str, kind: str) -> dict[str, Any]:
        found = self._mine(rows, id=name)
        if not found and kind == "Port":
            raise neutron_errors.PortNotFoundClient(message=f"Port {name} could not be found.")
        if not found:
            raise neutron_errors.NetworkNotFoundClient(message=f"{kind} {name}")
        return found[0]


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list) else value == wanted


class Placement(report.SchedulerReportClient):  # type: ignore[misc]
    """Traits of providers, and whether there is room."""

    def __init__(self) -> None:
        self.traits: dict[str, set[str]] = {}
        self.room = True
        self.away = False
        self.asked: list[Any] = []
        self.freed: list[str] = []

    def get_provider_traits(self, context: Any, rp_uuid: str) -> Any:
        """As nova's."""
        return report.TraitInfo(traits=self.traits.get(rp_uuid, set()), generation=1)

    def get_allocation_candidates(self, context: Any, resources: Any) -> Any:
        """As nova's: None when placement does not answer."""
        self.asked.append(resources)
        if self.away:
            return None
        return ([{"allocations": {}}] if self.room else [], {}, "1.36")

    def delete_allocation_for_instance(self, context: Any, consumer: str, **_: Any) -> bool:
        """As nova's; whose allocation was deleted is remembered."""
        self.freed.append(consumer)
        return True


class NovaConductor:
    """Takes what nova-api hands to the scheduler."""

    target = messaging.Target(namespace="compute_task", version="1.99")

    def __init__(self) -> None:
        self.built: list[dict[str, Any]] = []
        self.came = threading.Event()

    def schedule_and_build_instances(self, context: Any, **arguments: Any) -> None:
        """Keep it."""
        self.built.append(arguments)
        self.came.set()


class Compute:
    """The host of the source."""

    target = messaging.Target(version="1.0")

    def __init__(self) -> None:
        self.shape: dict[str, Any] = {
            "host_id": "h1",
            "policy_sha256": "ab" * 32,
            "memory_bytes": 512 << 20,
            "disks": [["vda", 1 << 30]],
            "has_vtpm": True,
            "has_generation_id": True,
            "running": True,
            "obstacles": [],
        }
        self.error: CloneError | None = None
        self.asked: list[str] = []

    @answers(server=checks.server_uuid)
    def inspect(self, context: Any, server: str) -> dict[str, Any]:
        """What the hypervisor says."""
        self.asked.append(server)
        if self.error:
            raise self.error
        return self.shape


class CloneConductor:
    """Keeps groups and records in memory, as the real one does in its database."""

    target = messaging.Target(version="1.0")
    ENDED = ("complete", "failed", "aborted")

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {}
        self.cancelled: dict[str, str] = {}
        self.records: list[dict[str, Any]] = []
        self.evidences: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, list[CloneError]] = {}
        self.aborted: dict[str, str] = {}

    def record(self, source: str, server: str, **more: Any) -> dict[str, Any]:
        """Write a record; the newest stands first."""
        made: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "attempt_id": "ad" * 16,
            "group": "ab" * 16,
            "freeze_id": None,
            "name": "clone",
            "server_id": server,
            "source_id": source,
            "project_id": PROJECT,
            "user_id": "u1",
            "source_host": "host-a",
            "host": None,
            "phase": "scheduling",
            "reason": None,
            "code": None,
            "vtpm": "new",
            "memory": "lazy",
            "nonce": "00" * 16,
            "lineage": [source],
            "progress": {},
            "pause_us": None,
            "attempts": [],
            "created_at": TIME,
            "updated_at": TIME,
            "completed_at": None,
            "request_id": "req-1",
        }
        self.records.insert(0, made | more)
        return self.records[0]

    @answers(request=shapes.request)
    def begin(self, context: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Open a group."""
        self._told("begin")
        for row in self.records:
            if row["source_id"] == request["source_server"] and row["phase"] not in self.ENDED:
                raise Conflict(
                    f"The server is being cloned already: clone {row['id']} is {row['phase']}. Wait until that is complete, "
                    "or abort it",
                    "trusted-clone.source.busy",
                )
        self.groups[request["group"]] = request
        return {"nonce": request.get("nonce") or "5a" * 16}

    @answers(group=checks.hex_id, servers=checks.many(shapes.named_server, 100, 1))
    def register(self, context: Any, group: str, servers: list[dict[str, str]]) -> dict[str, Any]:
        """Name a group's servers."""
        self._told("register")
        request = self.groups[group]
        same = ("source_host", "project_id", "user_id", "vtpm", "memory", "request_id")
        copied = {key: request[key] for key in same} | {"group": group}
        nonce = request.get("nonce") or "5a" * 16
        rows = [
            self.record(
                request["source_server"], row["server"], name=row["name"], nonce=nonce, **copied
            )
            for row in servers
        ]
        return {"clones": rows}

    @answers(group=checks.hex_id, reason=checks.reason)
    def cancel(self, context: Any, group: str, reason: str) -> dict[str, Any]:
        """Take a group back."""
        self._told("cancel")
        self.cancelled[group] = reason
        return {}

    @answers(filters=shapes.filters)
    def list(self, context: Any, filters: dict[str, Any]) -> list[dict[str, Any]]:
        """Records by server and phase, by pages."""
        self._told("list")
        wanted = {key: value for key, value in filters.items() if value is not None}
        found = [
            row
            for row in self.records
            if wanted.get("server") in (None, row["server_id"], row["source_id"])
            and wanted.get("source_server") in (None, row["source_id"])
            and wanted.get("project_id") in (None, row["project_id"])
            and row["phase"] == wanted.get("phase", row["phase"])
        ]
        if "marker" in wanted:
            ids = [row["id"] for row in found]
            if wanted["marker"] not in ids:
                raise Invalid("filters.marker: there is no such clone")
            found = found[ids.index(wanted["marker"]) + 1 :]
        return found[: wanted.get("limit", 1000)]

    @answers(clone_id=checks.server_uuid)
    def get(self, context: Any, clone_id: str) -> dict[str, Any]:
        """One record."""
        self._told("get")
        for row in self.records:
            if row["id"] == clone_id:
                return row
        raise NotFound(f"there is no clone {clone_id}")

    @answers(clone_id=checks.server_uuid)
    def evidence(self, context: Any, clone_id: str) -> dict[str, Any]:
        """The evidence of a complete clone."""
        self._told("evidence")
        if clone_id not in self.evidences:
            raise NotFound(
                f"clone {clone_id} is not complete: there is evidence of complete clones only",
                "trusted-clone.evidence.none",
            )
        return self.evidences[clone_id]

    @answers(clone_id=checks.server_uuid, reason=checks.reason)
    def abort(self, context: Any, clone_id: str, reason: str) -> dict[str, Any]:
        """End a clone that is not complete."""
        self._told("abort")
        row = next(row for row in self.records if row["id"] == clone_id)
        if row["phase"] == "complete":
            raise Conflict(
                f"clone {clone_id} is complete: delete the server to end it",
                "trusted-clone.record.ended",
            )
        row |= {"phase": "aborted", "reason": reason}
        self.aborted[clone_id] = reason
        return {}

    def _told(self, method: str) -> None:
        """Fail as often as the test has asked for."""
        if self.errors.get(method):
            raise self.errors[method].pop(0)
