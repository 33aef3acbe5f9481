"""``tools/lab xen``: two Xen hosts in emulated machines."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from labkit.paths import LabPaths
from labkit.xen.hosts import XenHosts

CLOUD_DIRECTORY = "xen-cloud"


def main(words: Sequence[str], say: Callable[[str], None]) -> int:
    """Run one command; the exit status."""
    asked = _parser().parse_args(words)
    hosts = XenHosts.at(LabPaths.from_environment())
    match asked.command:
        case "up":
            hosts.up(say)
            say("tools/lab xen shell xen-a")
        case "cloud":
            # What it needs is installed for this command alone.
            from labkit.xen.cloud import XenCloud

            XenCloud.from_environment().up(say)
            say("tools/lab xen down")
        case "down":
            _cloud_down(say)
            hosts.down()
            say("the Xen hosts are down")
        case "status":
            for machine in hosts.machines:
                say(f"{machine.name}: {'up' if machine.is_up else 'down'}, {machine.address}")
        case "shell":
            command = hosts.machine(asked.host).shell(asked.words)
            os.execvp(command[0], command)
    return 0


def _cloud_down(say: Callable[[str], None]) -> None:
    """End a cloud on Xen, where one was ever started."""
    places = LabPaths.from_environment()
    if (places.root / CLOUD_DIRECTORY).exists():
        from labkit.xen.cloud import XenCloud

        XenCloud.from_environment().down()
        say("the cloud on Xen is down")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/lab xen", description="Two Xen hosts with libvirt, emulated on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="make their disk, once, and start both")
    commands.add_parser("cloud", help="start both as the compute hosts of an OpenStack")
    commands.add_parser("down", help="end them, and the OpenStack")
    commands.add_parser("status", help="whether they run")
    shell = commands.add_parser("shell", help="a shell in a host, or one command there")
    shell.add_argument("host", metavar="HOST", help="xen-a or xen-b")
    shell.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser
