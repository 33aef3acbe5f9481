"""``manage domain-vtpm``: the vTPMs that a Xen host keeps for its domains, which cannot carry one themselves."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import tempfile
import uuid
from typing import Any

from nova_trusted_clone.cmd.manage_options import (
    DEFAULT_IDENTITY,
    DEFAULT_LOG,
    Group,
    path_option,
)

DEFAULT_STATE = pathlib.Path("/var/lib/nova-trusted-clone")


def add(groups: Any) -> None:
    """Add the commands."""
    group = Group(groups, "domain-vtpm", "vTPMs that a Xen host keeps for its domains")
    make = group.command("make", _make, "make the vTPM of a domain; PCR 1-7 are the host's")
    forget = group.command("forget", _forget, "the domain is no more: remove its vTPM")
    for parser in (make, forget):
        parser.add_argument("--server", type=uuid.UUID, required=True, help="the domain's UUID")
        path_option(parser, "--state-path", "as in the service's configuration", DEFAULT_STATE)
    path_option(make, "--identity", "the host's, with its vTPM CA's key", DEFAULT_IDENTITY)
    path_option(make, "--event-log", "the measured-boot log", DEFAULT_LOG)


def _make(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import identity
    from nova_trusted_clone.core.attest import eventlog, quote
    from nova_trusted_clone.vtpm.issuer import EkIssuer
    from nova_trusted_clone.vtpm.swtpm import SwtpmFactory

    kept = _kept(options)
    name = str(options.server)
    if kept.has(name):
        raise ValueError(
            f"this host keeps a vTPM for {name} already; a second one would be another's"
        )
    enrolled = identity.load(options.identity)
    key, certificate = enrolled.vtpm_ca_key, enrolled.vtpm_ca_certificate
    issuer = EkIssuer.from_files(key, certificate, kept_by_host=True)
    log = eventlog.parse(options.event_log.read_bytes())
    inherited = tuple(eventlog.measured(log, quote.VTPM_PCRS))
    # Where root's services run; on tmpfs, as a vTPM's state is secret.
    with (
        tempfile.TemporaryDirectory(dir="/run") as scratch,
        contextlib.closing(SwtpmFactory(issuer, pathlib.Path(scratch) / "vtpm")) as factory,
    ):
        kept.keep(name, factory.new(name, inherited).hand_over())
    return 0


def _forget(options: argparse.Namespace) -> int:
    _kept(options).forget(str(options.server))
    return 0


def _kept(options: argparse.Namespace) -> Any:
    from nova_trusted_clone.hypervisor import drivers
    from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms

    return HostVtpms(options.state_path / drivers.VTPMS)
