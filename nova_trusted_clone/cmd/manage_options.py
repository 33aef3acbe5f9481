"""What the groups of ``manage`` share: adding commands, and reading and writing files."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any

DEFAULT_TPM = "device:/dev/tpmrm0"
DEFAULT_LOG = pathlib.Path("/sys/kernel/security/tpm0/binary_bios_measurements")
DEFAULT_IDENTITY = pathlib.Path("/etc/nova-trusted-clone/identity")

Handler = Callable[[argparse.Namespace], int]


class Group:
    """A group of commands, such as ``policy``."""

    def __init__(self, groups: Any, name: str, text: str) -> None:
        """:param groups: what ``add_subparsers`` returned"""
        group = groups.add_parser(name, help=text, description=text)
        self._commands = group.add_subparsers(required=True, metavar="COMMAND")

    def command(self, name: str, run: Handler, text: str) -> argparse.ArgumentParser:
        """Add a command; its options are the caller's to add."""
        parser: argparse.ArgumentParser = self._commands.add_parser(
            name, help=text, description=text
        )
        parser.set_defaults(run=run)
        return parser


def path_option(
    parser: argparse.ArgumentParser, name: str, text: str, default: pathlib.Path | None = None
) -> None:
    """Add an option that names a file or directory; required unless it has a default."""
    shown = text if default is None else f"{text} (default: {default})"
    parser.add_argument(
        name, type=pathlib.Path, required=default is None, default=default, help=shown
    )


def tpm_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the host's TPM."""
    text = f"device:PATH, or swtpm:PATH of a software TPM's data socket (default: {DEFAULT_TPM})"
    parser.add_argument("--tpm", default=DEFAULT_TPM, help=text)


def write_output(path: pathlib.Path, data: bytes) -> None:
    """Write a result that others may read; ``-`` is standard output."""
    from nova_trusted_clone.clone import private_files

    if str(path) == "-":
        sys.stdout.buffer.write(data)
    else:
        private_files.write(path, data, public=True)
