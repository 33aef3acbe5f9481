"""From options to a host: the same for an agent and for nova-compute.

Every error here is the operator's to mend, so it names the option and the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from oslo_config import cfg

from nova_trusted_clone.clone import identity
from nova_trusted_clone.clone.ground import Ground
from nova_trusted_clone.clone.host import Host, Limits, Place
from nova_trusted_clone.conf import opts
from nova_trusted_clone.core.attest import eventlog
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.errors import CoreError, MalformedInput
from nova_trusted_clone.core.protocol.session import LocalHost
from nova_trusted_clone.hypervisor import drivers
from nova_trusted_clone.hypervisor.qemu.secrets import LibvirtPassphrases
from nova_trusted_clone.ports import Passphrase, Peer
from nova_trusted_clone.tpm.connection import Transport
from nova_trusted_clone.tpm.esys import EsysTpm
from nova_trusted_clone.transport import rpc
from nova_trusted_clone.vtpm.base import VtpmError
from nova_trusted_clone.vtpm.issuer import EkIssuer
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory

MAX_FILE_BYTES = 4 << 20
T = TypeVar("T")


class ConfigError(Exception):
    """An option, or the file that it names, is missing or malformed."""


def read_file(option: str, path: str, parse: Callable[[bytes], T]) -> T:
    """Read and parse the file that an option names.

    :raises ConfigError: naming option and file
    """
    try:
        with pathlib.Path(path).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigError(f"{option}: {path}: larger than {MAX_FILE_BYTES} bytes")
        return parse(raw)
    except (OSError, CoreError) as error:
        raise ConfigError(f"{option}: {path}: {error}") from error


@contextlib.contextmanager
def alone_in(state_path: pathlib.Path) -> Iterator[None]:
    """Hold a state path for a block of code: a second service there would take the first one's clones back.

    :raises ConfigError: when another process holds it
    """
    try:
        state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state_path / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"state_path: {state_path}: {error}") from error
    # The kernel lets go of it when the process ends, however it ends; helpers do not inherit it.
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"state_path: {state_path}: another service works there; each needs a path of its own"
            ) from error
        yield


def _local(options: Any, enrolled: identity.HostIdentity) -> LocalHost:
    if options.host_id and options.host_id != enrolled.host_id:
        raise ConfigError(
            f"host_id: {options.host_id!r}, but this host was enrolled as {enrolled.host_id!r} "
            f"(identity_path {options.identity_path})"
        )
    return read_file(
        "event_log",
        options.event_log,
        lambda raw: _local_host(enrolled, raw),
    )


def _local_host(enrolled: identity.HostIdentity, raw_log: bytes) -> LocalHost:
    eventlog.parse(raw_log)  # told here, not by the first host that is shown it
    return LocalHost(enrolled.host_id, enrolled.ak_public, enrolled.ak_chain, raw_log)


def require_sound(options: Any) -> None:
    """Read every option once: oslo.config judges a value only when it is read.

    :raises ConfigError: naming the option
    """
    for option in opts.ALL:
        try:
            getattr(options, option.dest)
        except (cfg.Error, ValueError) as error:
            raise ConfigError(f"{option.name}: {error}") from error
    try:
        Transport.parse(options.tpm)
    except ValueError as error:
        raise ConfigError(f"tpm: {error}") from error


def _ground(options: Any) -> Ground:
    """Read both files; what is malformed is told with its option's name."""

    def checked(parse: Callable[[bytes], object]) -> Callable[[bytes], bytes]:
        def keep(raw: bytes) -> bytes:
            parse(raw)
            return raw

        return keep

    return Ground(
        read_file("anchors_file", options.anchors_file, checked(_anchors)),
        read_file("policy_file", options.policy_file, checked(Policy.parse)),
    )


def _anchors(raw: bytes) -> TrustAnchors:
    """The operator's roots, one at least for each role that a clone needs.

    :raises MalformedInput: when a role has none: every clone would be refused
    """
    anchors = TrustAnchors.from_pem(raw)
    for role in (Role.ATTESTATION, Role.VTPM, Role.CONTROL):
        if not anchors.of(role):
            raise MalformedInput(f"no root of role {role.value}; take the authority's anchors.pem")
    return anchors


def limits(options: Any) -> Limits:
    """The options' limits."""
    return Limits(
        message_timeout_s=options.message_timeout_s,
        network_limit_s=options.network_limit_s,
        completion_limit_s=options.completion_limit_s,
        early_disk_limit_s=options.early_disk_limit_s,
        max_clones=options.max_clones,
    )


def agent_peers(timeout_s: float) -> Callable[[str], Peer]:
    """Other hosts' agents, by ``address:port``."""

    def peer(address: str) -> Peer:
        name, _, port = address.rpartition(":")
        return rpc.Client((name, int(port)), timeout_s)

    return peer


def _use_privileges(how: str) -> None:
    """Start the daemons that do what this process may not; before anything else, so that what is missing is told now.

    :raises ConfigError: they cannot be started
    """
    if how == "direct" or (how == "auto" and os.geteuid() == 0):
        return
    # Not at the top: an agent that is root needs none of what it imports.
    from nova_trusted_clone.privsep import daemons

    try:
        daemons.start()
    except daemons.PrivilegeError as error:
        raise ConfigError(f"privileged_access: {how}: {error}") from error
    daemons.use()


def _passphrases(
    uri: str, ask: Callable[[str, str], bytes | None] | None
) -> Callable[[str, str], Passphrase]:
    """What ``ask`` knows, and what libvirt knows."""
    of_libvirt = LibvirtPassphrases(uri)

    def passphrase(server_uuid: str, secret_uuid: str) -> Passphrase:
        value = ask(server_uuid, secret_uuid) if ask is not None else None
        return of_libvirt(server_uuid, secret_uuid) if value is None else Passphrase(value)

    return passphrase


def host(
    options: Any,
    peers: Callable[[str], Peer] | None = None,
    passphrase: Callable[[str, str], bytes | None] | None = None,
) -> Host:
    """Make the host of group ``[trusted_clone]``; its directories are there afterwards.

    :param peers: how other hosts are reached; by their agents' own ports unless said otherwise
    :param passphrase: asked, by the server's UUID and the secret's, what encrypts a vTPM's state; where it says None
        libvirt is asked. May raise ``PassphraseUnavailable``
    :raises ConfigError: when something in the options does not hold
    """
    _use_privileges(options.privileged_access)
    try:
        enrolled = identity.load(pathlib.Path(options.identity_path))
        issuer = EkIssuer.from_files(
            enrolled.vtpm_ca_key,
            enrolled.vtpm_ca_certificate,
            kept_by_host=drivers.is_xen(options.libvirt_uri),
        )
    except (identity.IdentityError, VtpmError) as error:
        raise ConfigError(f"identity_path: {error}") from error
    place = Place(
        state_path=pathlib.Path(options.state_path),
        libvirt_uri=options.libvirt_uri,
        listen_address=options.listen_address,
        bulk_port_min=options.bulk_port_min,
        bulk_port_max=options.bulk_port_max,
    )
    # Malformed files are told at the start, not with the first clone; and before anything is started.
    local = _local(options, enrolled)
    _ground(options)
    place.make()
    return Host(
        local=local,
        place=place,
        limits=limits(options),
        open_tpm=lambda: EsysTpm(options.tpm),
        ground=lambda: _ground(options),
        vtpms=SwtpmFactory(issuer, place.state_path / "vtpm", options.vtpm_pool_size),
        source=drivers.source(options.libvirt_uri, place.state_path),
        destination=drivers.destination(
            options.libvirt_uri, place.state_path, pathlib.Path(options.memory_backing_dir)
        ),
        peers=peers or agent_peers(options.message_timeout_s),
        passphrases=_passphrases(options.libvirt_uri, passphrase),
    )
