"""``manage evidence``: a tenant checks, offline, what a clone is."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from nova_trusted_clone.cmd.manage_options import Group, path_option


def add(groups: Any) -> None:
    """Add the commands."""
    evidence = Group(groups, "evidence", "proof of what a clone is")
    verify = evidence.command("verify", _verify, "check evidence offline; print every check")
    verify.add_argument("file", type=pathlib.Path, help="the evidence")
    path_option(verify, "--ca", "the operator's anchors.pem")
    path_option(verify, "--policy", "the operator's policy file of that time")
    verify.add_argument(
        "--nonce",
        type=bytes.fromhex,
        required=True,
        help="the nonce that was given with the request, in hexadecimal",
    )
    verify.add_argument("--json", action="store_true", help="print checks and summary as JSON")


def _verify(options: argparse.Namespace) -> int:
    from nova_trusted_clone.core.attest.certchain import TrustAnchors
    from nova_trusted_clone.core.attest.policy import Policy
    from nova_trusted_clone.core.protocol.evidence import verify_evidence
    from nova_trusted_clone.core.terminal import clean

    verdict, summary = verify_evidence(
        options.file.read_bytes(),
        TrustAnchors.from_pem(options.ca.read_bytes()),
        Policy.parse(options.policy.read_bytes()),
        options.nonce,
    )
    if options.json:
        print(json.dumps({**verdict.to_json(), "clone": summary}, indent=1, sort_keys=True))
    else:
        for check in verdict.checks:
            print(f"ok      {clean(check.code)}" if check.ok else f"FAILED  {clean(str(check))}")
        for name, value in sorted((summary or {}).items()):
            print(clean(f"{name}: {value}"))
        print("the evidence holds" if verdict.ok else "THE EVIDENCE DOES NOT HOLD")
    return 0 if verdict.ok else 1
