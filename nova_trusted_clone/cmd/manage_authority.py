"""``manage authority|host|order``: what the operator does at the authority."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import secrets
import uuid
from typing import Any

from nova_trusted_clone.cmd.manage_options import Group, path_option, write_output


def add(groups: Any) -> None:
    """Add the commands."""
    authority = Group(groups, "authority", "the operator's roots")
    create = authority.command("create", _create, "make the roots and the signer of orders")
    path_option(create, "--directory", "a new or empty directory, which keeps every key")
    create.add_argument("--name", default="trusted-clone", help="the operator, for certificates")
    create.add_argument(
        "--host-ek-root",
        type=pathlib.Path,
        action="append",
        required=True,
        help="PEM of TPM makers' CAs whose TPMs may enrol; may be given several times",
    )
    host = Group(groups, "host", "the register of enrolled hosts")
    path_option(host.command("list", _list, "show every host"), "--authority", "its directory")
    remove = host.command("remove", _remove, "take a host out: no new orders name it")
    path_option(remove, "--authority", "its directory")
    remove.add_argument("--host", required=True, help="the host's id")
    _add_order(Group(groups, "order", "signed orders, for tests without a control plane"))


def _add_order(group: Group) -> None:
    create = group.command("create", _order, "sign an order for one clone")
    path_option(create, "--authority", "its directory")
    path_option(create, "--policy", "the policy file that both hosts use")
    path_option(create, "--output", "the order; - for standard output")
    for name in ("--source-host", "--destination-host", "--project", "--user"):
        create.add_argument(name, required=True)
    create.add_argument("--source-server", type=uuid.UUID, required=True)
    create.add_argument("--destination-server", type=uuid.UUID, required=True)
    create.add_argument("--clone-id", type=uuid.UUID, default=None, help="default: a new one")
    create.add_argument("--freeze-group", type=uuid.UUID, default=None, help="default: a new one")
    create.add_argument("--memory-bytes", type=int, required=True)
    create.add_argument("--disk", type=_disk, action="append", default=[], help="TARGET=BYTES")
    create.add_argument("--vtpm-mode", choices=("new", "derive", "none"), default="new")
    create.add_argument("--memory-mode", choices=("lazy", "eager"), default="lazy")
    create.add_argument(
        "--tenant-nonce", type=bytes.fromhex, default=None, help="8 to 64 bytes in hexadecimal"
    )
    create.add_argument("--lifetime-s", type=int, default=600)


def _disk(text: str) -> tuple[str, int]:
    target, _, size = text.partition("=")
    return target, int(size)


def _create(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone.authority import Authority

    roots = b"\n".join(path.read_bytes() for path in options.host_ek_root)
    made = Authority.create(options.directory, options.name, roots)
    print(f"made an authority in {made.directory}; hosts and tenants need its anchors.pem")
    return 0


def _list(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone.authority import Authority

    for host in Authority(options.authority).registry.hosts().values():
        when = datetime.datetime.fromtimestamp(host.enrolled_at, datetime.UTC)
        print(f"{host.host_id} AK {host.ak_name.hex()} EK {host.ek_sha256.hex()} {when:%FT%TZ}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone.authority import Authority

    Authority(options.authority).registry.remove(options.host)
    print(f"removed {options.host}; take it out of the policy too: its certificates stay valid")
    return 0


def _order(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone.authority import Authority, CloneTerms
    from nova_trusted_clone.core.attest.policy import Policy

    terms = CloneTerms(
        clone_id=(options.clone_id or uuid.uuid4()).bytes,
        freeze_group=(options.freeze_group or uuid.uuid4()).bytes,
        project_id=options.project,
        user_id=options.user,
        source_server=options.source_server.bytes,
        destination_server=options.destination_server.bytes,
        source_host=options.source_host,
        destination_host=options.destination_host,
        disks=tuple(options.disk),
        memory_bytes=options.memory_bytes,
        policy_sha256=Policy.parse(options.policy.read_bytes()).sha256,
        vtpm_mode=options.vtpm_mode,
        memory_mode=options.memory_mode,
        tenant_nonce=options.tenant_nonce or secrets.token_bytes(32),
    )
    signed = Authority(options.authority).sign_order(terms, options.lifetime_s)
    write_output(options.output, signed.encode())
    return 0
