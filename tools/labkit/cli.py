"""The lab's commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import libvirt

from labkit import checks, guests, libvirtd
from labkit.errors import LabError
from labkit.lab import Lab
from labkit.paths import LabPaths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 when tests failed, or 2 when the lab could not do it."""
    asked, rest = _parser().parse_known_args(arguments)
    if rest and asked.command != "test":
        _parser().error(f"unknown arguments: {' '.join(rest)}")
    libvirtd.quieten()
    lab = Lab.at(LabPaths.from_environment())
    try:
        return _run(asked, rest, lab)
    except (LabError, libvirt.libvirtError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/lab", description="Two hosts and a guest on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start two hosts and a guest that checks itself")
    commands.add_parser("down", help="end and remove all of it")
    commands.add_parser("status", help="what is up")
    shell = commands.add_parser("shell", help="a shell inside a host")
    shell.add_argument("host", metavar="HOST", help="host-a or host-b")
    test = commands.add_parser("test", help="run the tests; further arguments go to pytest")
    test.add_argument("part", nargs="?", choices=sorted(checks.PARTS), help="only this part")
    return parser


def _run(asked: argparse.Namespace, rest: list[str], lab: Lab) -> int:
    match asked.command:
        case "up":
            _up(lab)
        case "down":
            lab.down(say)
            say("everything is down")
        case "status":
            _status(lab)
        case "shell":
            enter = lab.host(asked.host).sandbox.enter()
            os.execvp(enter[0], [*enter, os.environ.get("SHELL", "/bin/bash")])
        case "test":
            return checks.run(asked.part, rest)
    return 0


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"lab: {text}", flush=True)


def _up(lab: Lab) -> None:
    lab.up(say)
    say("starting guest web-1 on host-a")
    guest = guests.start(lab.source, guests.Wish())
    guest.wait_ready()
    found = guest.console.check_itself()
    say(f"web-1 checks itself: {found.pages} pages, {found.blocks} disk blocks, {found.bad} bad")
    say(f"virsh -c '{lab.source.uri}' list")


def _status(lab: Lab) -> None:
    for host in lab.hosts:
        state = "up" if lab.is_up else "down"
        say(f"{host.name}: {state}, {host.address}, {host.uri}")
        if not lab.is_up:
            continue
        with guests.connected(host) as connection:
            for domain in connection.listAllDomains():
                kind = "running" if domain.isActive() else "off"
                say(f"  {domain.name()} {domain.UUIDString()} {kind}")
