"""``tools/lab xen``: two Xen hosts in emulated machines."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from labkit.paths import LabPaths
from labkit.xen.hosts import XenHosts


def main(words: Sequence[str], say: Callable[[str], None]) -> int:
    """Run one command; the exit status."""
    asked = _parser().parse_args(words)
    hosts = XenHosts.at(LabPaths.from_environment())
    match asked.command:
        case "up":
            hosts.up(say)
            say("tools/lab xen shell xen-a")
        case "down":
            hosts.down()
            say("the Xen hosts are down")
        case "status":
            for machine in hosts.machines:
                say(f"{machine.name}: {'up' if machine.is_up else 'down'}, {machine.address}")
        case "shell":
            command = hosts.machine(asked.host).shell(asked.words)
            os.execvp(command[0], command)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/lab xen", description="Two Xen hosts with libvirt, emulated on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="make their disk, once, and start both")
    commands.add_parser("down", help="end them")
    commands.add_parser("status", help="whether they run")
    shell = commands.add_parser("shell", help="a shell in a host, or one command there")
    shell.add_argument("host", metavar="HOST", help="xen-a or xen-b")
    shell.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser
