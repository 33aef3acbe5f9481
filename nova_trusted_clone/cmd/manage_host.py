"""``manage policy|tpm``: reference values, and what a host's TPM says of itself."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from nova_trusted_clone.cmd.manage_options import (
    DEFAULT_LOG,
    Group,
    path_option,
    tpm_option,
    write_output,
)

if TYPE_CHECKING:
    from nova_trusted_clone.tpm.esys import EsysTpm


def add(groups: Any) -> None:
    """Add the commands."""
    policy = Group(groups, "policy", "PCR reference values by class of hosts")
    learn = policy.command("learn", _learn, "add this host's PCR 0-7 to its class")
    learn.add_argument("--host-class", required=True, help="hosts of one model and firmware")
    learn.add_argument("--host", required=True, help="the host's id")
    path_option(learn, "--policy", "the policy file; made with strict settings if it is missing")
    learn.add_argument("--output", type=pathlib.Path, help="write here instead")
    path_option(learn, "--event-log", "the measured-boot log", DEFAULT_LOG)
    tpm_option(learn)
    for name, run, text in (
        ("show", _show, "show a policy file"),
        ("check", _check, "check a policy file"),
    ):
        policy.command(name, run, text).add_argument("file", type=pathlib.Path)
    tpm = Group(groups, "tpm", "the host's TPM")
    status = tpm.command("status", _status, "show EK, AK, PCRs, and whether the log explains them")
    tpm_option(status)
    path_option(status, "--event-log", "the measured-boot log", DEFAULT_LOG)


def _tpm(options: argparse.Namespace) -> EsysTpm:
    from nova_trusted_clone.tpm.esys import EsysTpm

    return EsysTpm(options.tpm)


def _learn(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import reference
    from nova_trusted_clone.core.attest import policy

    values = reference.measure(_tpm(options), options.event_log.read_bytes())
    before = options.policy.read_bytes() if options.policy.exists() else None
    learned = policy.learn(before, options.host, options.host_class, values)
    write_output(options.output or options.policy, learned)
    return 0


def _show(options: argparse.Namespace) -> int:
    from nova_trusted_clone.core.attest.policy import Policy

    found = Policy.parse(options.file.read_bytes())
    print(f"sha256 {found.sha256.hex()}")
    for name in ("require_generation_id", "allow_without_vtpm", "allow_vtpm_derive"):
        print(f"{name} {str(getattr(found, name)).lower()}")
    print(f"max_order_seconds {found.max_order_seconds}")
    for host, host_class in sorted(found.hosts.items()):
        print(f"host {host} class {host_class}")
    for host_class, pcrs in sorted(found.host_classes.items()):
        for pcr, values in sorted(pcrs.items()):
            for value in sorted(values):
                print(f"class {host_class} PCR {pcr} {value.hex()}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from nova_trusted_clone.core.attest.policy import Policy

    found = Policy.parse(options.file.read_bytes())
    print(f"{options.file}: good, {len(found.hosts)} hosts, sha256 {found.sha256.hex()}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from cryptography import x509

    from nova_trusted_clone.clone import reference
    from nova_trusted_clone.core.attest import tpm_structs
    from nova_trusted_clone.core.attest.quote import HOST_PCRS
    from nova_trusted_clone.tpm.base import NoEkCertificateError

    tpm = _tpm(options)
    with tpm.batch():
        print(f"AK {tpm_structs.parse_attestation_key(tpm.ak_public()).name.hex()}")
        values = tpm.read_pcrs(HOST_PCRS)
        try:
            ek = x509.load_der_x509_certificate(tpm.ek_certificate())
            print(f"EK certificate issued by {ek.issuer.rfc4514_string()}")
        except NoEkCertificateError as error:
            print(f"EK certificate: {error}")
    for pcr, value in values.items():
        print(f"PCR {pcr} {value.hex()}")
    reference.compare(values, options.event_log.read_bytes()).require()
    print(f"event log {options.event_log}: explains PCR 0-7")
    return 0
