"""``manage enrol``: a host's enrolment, step by step between two machines, or at once on one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nova_trusted_clone.cmd.manage_options import (
    DEFAULT_IDENTITY,
    Group,
    path_option,
    tpm_option,
    write_output,
)

if TYPE_CHECKING:
    from nova_trusted_clone.tpm.base import EnrolmentTpm

_IDENTITY = "where the host's certificates and its vTPM CA's key are kept"


def add(groups: Any) -> None:
    """Add the commands."""
    enrol = Group(groups, "enrol", "certify a host: request, challenge, respond, issue, install")
    request = enrol.command("request", _request, "on the host: ask for certificates")
    _host_options(request)
    path_option(request, "--output", "the request, for the authority")
    challenge = enrol.command("challenge", _challenge, "at the authority: challenge the host's TPM")
    path_option(challenge, "--authority", "its directory")
    path_option(challenge, "--request", "the host's request")
    path_option(challenge, "--output", "the challenge, for the host")
    respond = enrol.command("respond", _respond, "on the host: open the challenge with the TPM")
    tpm_option(respond)
    path_option(respond, "--identity", _IDENTITY, DEFAULT_IDENTITY)
    path_option(respond, "--challenge", "the authority's challenge")
    path_option(respond, "--output", "the response, for the authority")
    issue = enrol.command("issue", _issue, "at the authority: judge the response, certify the host")
    path_option(issue, "--authority", "its directory")
    path_option(issue, "--response", "the host's response")
    path_option(issue, "--output", "the grant, for the host")
    install = enrol.command("install", _install, "on the host: install the certificates")
    path_option(install, "--identity", _IDENTITY, DEFAULT_IDENTITY)
    path_option(install, "--grant", "the authority's grant")
    host = enrol.command("host", _host, "all steps at once, where both are one machine")
    _host_options(host)
    path_option(host, "--authority", "its directory")


def _host_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host-id", required=True, help="a-z, 0-9, dots and dashes")
    tpm_option(parser)
    path_option(parser, "--identity", _IDENTITY, DEFAULT_IDENTITY)


def _tpm(options: argparse.Namespace) -> EnrolmentTpm:
    from nova_trusted_clone.tpm.esys import EsysTpm

    return EsysTpm(options.tpm)


def _request(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import enrolment

    made = enrolment.request(_tpm(options), options.host_id, options.identity)
    write_output(options.output, made.encode())
    return 0


def _challenge(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import admission
    from nova_trusted_clone.clone.authority import Authority
    from nova_trusted_clone.clone.enrolment_files import Request

    asked = Request.decode(options.request.read_bytes())
    write_output(options.output, admission.challenge(Authority(options.authority), asked).encode())
    return 0


def _respond(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import enrolment
    from nova_trusted_clone.clone.enrolment_files import Challenge

    challenged = Challenge.decode(options.challenge.read_bytes())
    answered = enrolment.respond(_tpm(options), options.identity, challenged)
    write_output(options.output, answered.encode())
    return 0


def _issue(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import admission
    from nova_trusted_clone.clone.authority import Authority
    from nova_trusted_clone.clone.enrolment_files import Response

    answered = Response.decode(options.response.read_bytes())
    write_output(options.output, admission.grant(Authority(options.authority), answered).encode())
    return 0


def _install(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import enrolment
    from nova_trusted_clone.clone.enrolment_files import Grant

    enrolment.install(options.identity, Grant.decode(options.grant.read_bytes()))
    return _enrolled(options)


def _host(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import admission, enrolment
    from nova_trusted_clone.clone.authority import Authority

    authority, tpm = Authority(options.authority), _tpm(options)
    asked = enrolment.request(tpm, options.host_id, options.identity)
    challenged = admission.challenge(authority, asked)
    answered = enrolment.respond(tpm, options.identity, challenged)
    enrolment.install(options.identity, admission.grant(authority, answered))
    return _enrolled(options)


def _enrolled(options: argparse.Namespace) -> int:
    from nova_trusted_clone.clone import identity

    found = identity.load(options.identity)
    print(f"{found.host_id}: enrolled; its identity is in {found.directory}")
    return 0
