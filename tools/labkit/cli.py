"""The lab's commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import libvirt

from labkit import checks, guests, libvirtd
from labkit.errors import LabError
from labkit.lab import Lab
from labkit.paths import LabPaths

if TYPE_CHECKING:
    from rich.console import Console

# Without a terminal: wide enough that no UUID of the table is broken in two.
PLAIN_WIDTH = 150


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 when tests failed, or 2 when the lab could not do it."""
    asked, rest = _parser().parse_known_args(arguments)
    if rest and asked.command not in ("test", "bench"):
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
        prog="tools/lab", description="A cloud, or two bare hosts and a guest, on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(
        commands.add_parser(
            "demo",
            help="clone a running server by the openstack client in a real cloud, and show it",
        )
    )
    # Its own arguments are read by its own code: that needs OpenStack's packages, which the bare hosts do without.
    cloud = commands.add_parser(
        "cloud",
        help="a real OpenStack: up, down, status, restart, shell, dashboard",
        add_help=False,
    )
    cloud.add_argument("words", nargs=argparse.REMAINDER)
    xen = commands.add_parser(
        "xen",
        help="two Xen hosts in emulated machines: up, cloud, down, status, shell",
        add_help=False,
    )
    xen.add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("up", help="start two bare hosts and a guest that checks itself")
    commands.add_parser("down", help="end and remove all of it, the cloud too")
    commands.add_parser("status", help="what of the bare hosts is up")
    shell = commands.add_parser("shell", help="a shell inside a bare host")
    shell.add_argument("host", metavar="HOST", help="host-a or host-b")
    commands.add_parser("bench", help="measure; further arguments go to the bench")
    test = commands.add_parser("test", help="run the tests; further arguments go to pytest")
    test.add_argument("part", nargs="?", choices=sorted(checks.PARTS), help="only this part")
    return parser


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument(
        "--engine",
        action="store_true",
        help="without a cloud: two bare hosts, a guest, and orders that the lab signs itself",
    )
    demo.add_argument(
        "--xen",
        action="store_true",
        help="without a cloud: a guest of one emulated Xen host, cloned to the other",
    )
    demo.add_argument(
        "--count",
        type=_positive,
        metavar="N",
        help="clones from one freeze (default: 2, with --engine 1)",
    )
    demo.add_argument(
        "--mode", choices=("lazy", "eager"), default="lazy", help="when a clone begins to run"
    )
    demo.add_argument(
        "--vtpm",
        choices=("new", "derive", "none"),
        default="new",
        help="the clone's vTPM (none: with --engine)",
    )
    demo.add_argument(
        "--memory",
        type=_positive,
        default=256,
        metavar="MiB",
        help="of the guest, with --engine (default: 256)",
    )
    demo.add_argument(
        "--horizon", action="store_true", help="leave the dashboard up as well; not with --engine"
    )
    demo.add_argument(
        "--keep",
        action="store_true",
        help="leave everything up afterwards, with --engine; the cloud always stays",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 expected")
    return number


def _run(asked: argparse.Namespace, rest: list[str], lab: Lab) -> int:
    match asked.command:
        case "up":
            _up(lab)
        case "demo":
            if asked.xen:
                return _xen_demo(asked)
            return _engine_demo(lab, asked) if asked.engine else _cloud_demo(asked)
        case "cloud":
            from labkit.cloud import commands

            return commands.main(asked.words, say)
        case "xen":
            from labkit.xen import commands as xen_commands

            return xen_commands.main(asked.words, say)
        case "bench":
            return checks.bench(rest)
        case "down":
            _down(lab)
        case "status":
            _status(lab)
        case "shell":
            enter = lab.node(asked.host).sandbox.enter()
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


def _engine_demo(lab: Lab, asked: argparse.Namespace) -> int:
    # Only here: the other commands work whatever state the product's own code is in.
    from labkit import demo

    options = demo.DemoOptions(asked.count or 1, asked.memory, asked.mode, asked.vtpm, asked.keep)
    return 0 if demo.run(lab, options, say, _terminal()) else 1


def _xen_demo(asked: argparse.Namespace) -> int:
    from labkit.xen import demo
    from labkit.xen.guests import Wish
    from labkit.xen.hosts import XenHosts

    hosts = XenHosts.at(LabPaths.from_environment())
    wish = Wish(vtpm=asked.vtpm != "none")
    good = demo.run(
        hosts,
        wish,
        say,
        _terminal(),
        count=asked.count or 1,
        memory_mode=asked.mode,
        keep=asked.keep,
    )
    return 0 if good else 1


def _cloud_demo(asked: argparse.Namespace) -> int:
    from labkit.cloud import demo

    options = demo.Options(asked.count or 2, asked.mode, asked.vtpm, asked.horizon)
    return 0 if demo.run(options, say, _terminal()) else 1


def _terminal() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _down(lab: Lab) -> None:
    lab.down(say)
    if (lab.paths.root / "cloud").exists():
        from labkit.cloud.cloud import Cloud

        Cloud.from_environment().down(say)
    say("everything is down")


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
