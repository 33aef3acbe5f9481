"""Types and actions of the options, each with its own complaint."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nova_trusted_clone.client.proof import Grounds
from nova_trusted_clone.client.values import LEAST_NONCE_BYTES, MOST_NONCE_BYTES
from nova_trusted_clone.core.errors import MalformedInput

_NIC_KEYS = ("net-id", "port-id", "v4-fixed-ip", "v6-fixed-ip")


def positive(text: str) -> int:
    """Return a whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1")
    return value


def nonce(text: str) -> bytes:
    """Return the nonce's bytes."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if not LEAST_NONCE_BYTES <= len(value) <= MOST_NONCE_BYTES:
        raise argparse.ArgumentTypeError(
            f"expected {2 * LEAST_NONCE_BYTES} to {2 * MOST_NONCE_BYTES} hexadecimal digits"
        )
    return value


class NicAction(argparse.Action):
    """``--nic``, ``--network`` and ``--port``, as ``openstack server create`` has them."""

    def __init__(self, *args: Any, key: str | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._key = key

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add one interface."""
        text = str(values)
        nic = {self._key: text} if self._key else self._read(text)
        namespace.nics = [*(namespace.nics or []), nic]

    def _read(self, text: str) -> dict[str, str]:
        pairs = [part.partition("=") for part in text.split(",")]
        nic = {key: value for key, _, value in pairs if value}
        if len(nic) != len(pairs) or not set(nic) <= set(_NIC_KEYS):
            raise argparse.ArgumentError(
                self, f"found {text!r}, expected KEY=VALUE,… with keys {', '.join(_NIC_KEYS)}"
            )
        if ("net-id" in nic) == ("port-id" in nic):
            raise argparse.ArgumentError(self, f"{text!r}: expected either net-id or port-id")
        if "v4-fixed-ip" in nic and "v6-fixed-ip" in nic:
            raise argparse.ArgumentError(self, f"{text!r}: expected one fixed address at most")
        return nic


def nics(parser: argparse.ArgumentParser) -> None:
    """Add the options for the clones' interfaces."""
    for option, key, what in (
        ("--network", "net-id", "network (name or ID)"),
        ("--port", "port-id", "port (name or ID); for one clone only"),
    ):
        parser.add_argument(
            option,
            metavar=f"<{option[2:]}>",
            dest="nics",
            action=NicAction,
            key=key,
            help=f"Give the clones an interface on this {what}; repeat for several "
            "(default: the source's networks)",
        )
    parser.add_argument(
        "--nic",
        metavar="<net-id=…|port-id=…,v4-fixed-ip=…,v6-fixed-ip=…>",
        dest="nics",
        action=NicAction,
        help="Give the clones an interface on a network or a port, with a fixed address where "
        "wanted; repeat for several",
    )


_PROOF = (
    ("ca", "OS_TRUSTED_CLONE_CA", "The operator's anchors.pem"),
    ("policy", "OS_TRUSTED_CLONE_POLICY", "The operator's policy file of that time"),
)


def proof_files(parser: argparse.ArgumentParser) -> None:
    """Add ``--ca`` and ``--policy``; :func:`grounds` reads them."""
    for option, variable, what in _PROOF:
        parser.add_argument(
            f"--{option}",
            metavar="<file>",
            type=pathlib.Path,
            help=f"{what}, got by a way that you trust (Env: {variable})",
        )


def grounds(parsed_args: argparse.Namespace, environment: Mapping[str, str]) -> Grounds | None:
    """Return what the two files hold; None if neither is given.

    :raises MalformedInput: if one is not good, or only one is given
    :raises OSError: if one cannot be read
    """
    named: dict[str, Any] = {
        option: getattr(parsed_args, option) or environment.get(variable)
        for option, variable, _ in _PROOF
    }
    if not any(named.values()):
        return None
    missing = [f"--{option}" for option, path in named.items() if not path]
    if missing:
        raise MalformedInput(f"{missing[0]} is missing: --ca and --policy go together")
    return Grounds.from_files(pathlib.Path(named["ca"]), pathlib.Path(named["policy"]))
