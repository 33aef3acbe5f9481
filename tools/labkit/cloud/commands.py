"""``tools/lab cloud``: the cloud by itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openstack.connection import Connection
from openstack.exceptions import SDKException

from labkit import forward
from labkit.cloud import clients, horizon, settings
from labkit.cloud.cloud import Cloud
from labkit.errors import LabError
from labkit.lab import Report

# On loopback, for a browser of this machine or at the other end of ssh -L.
PORT = 8080

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(words: Sequence[str], say: Report) -> int:
    """Do what was asked for on the command line; the exit status.

    :raises LabError: when it could not be done
    """
    parser = argparse.ArgumentParser(prog="tools/lab cloud", description="A real OpenStack.")
    _add_arguments(parser)
    try:
        return _run(parser.parse_args(words), say)
    except SDKException as error:
        raise LabError(f"the cloud answers: {error}") from error


def _run(asked: argparse.Namespace, say: Report) -> int:
    cloud = Cloud.from_environment(plain=getattr(asked, "plain", False))
    match asked.command:
        case "up":
            up(cloud, say)
        case "down":
            cloud.down(say)
            say("the cloud is down")
        case "status":
            _status(cloud, say)
        case "restart":
            for name in asked.services:
                cloud.service(name).restart()
                say(f"{name} runs anew")
        case "dashboard":
            _dashboard(cloud, asked.port, say)
        case "shell":
            _shell(cloud, asked)
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("up", help="start it; some minutes")
    start.add_argument(
        "--plain", action="store_true", help="Nova as it is released, with nothing of this project"
    )
    commands.add_parser("down", help="end and remove all of it")
    commands.add_parser("status", help="what runs, and which servers there are")
    restart = commands.add_parser("restart", help="end services and start them anew")
    restart.add_argument("services", nargs="+", metavar="SERVICE", help="a name that status shows")
    dashboard = commands.add_parser(
        "dashboard", help="Horizon, at a port of this machine's loopback, until Ctrl-C"
    )
    dashboard.add_argument("--port", type=int, default=PORT, help=f"the port (default: {PORT})")
    _add_shell(commands)


def _add_shell(commands: Commands) -> None:
    shell = commands.add_parser(
        "shell", help="a shell, or one command, inside a node, with the openstack client ready"
    )
    shell.add_argument("--on", default="control", metavar="NODE", help="control, host-a or host-b")
    shell.add_argument(
        "--as",
        dest="user",
        default=settings.ADMIN,
        choices=(settings.ADMIN, *settings.TENANTS),
        help="whom the openstack client speaks for (default: admin)",
    )
    shell.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")


def up(cloud: Cloud, say: Report) -> None:
    """Bring it up and say how to use it."""
    cloud.up(say)
    usage(say)


def usage(say: Report) -> None:
    """The lines that tell a person what to do with a cloud that is up."""
    say("tools/lab cloud shell                          the openstack client, as the administrator")
    say("tools/lab cloud shell --as demo openstack server list    one command, as a tenant")
    say("tools/lab cloud down                           the end of it")


def dashboard_usage(say: Report) -> None:
    """The lines that tell a person how to look at the dashboard."""
    say(f"the dashboard: {horizon.url()} inside the cloud's network")
    for user in (*settings.TENANTS, settings.ADMIN):
        say(f"  log in as {user}, password {settings.PASSWORD}, domain default")
    say(f"tools/lab cloud dashboard                      the same at http://127.0.0.1:{PORT}/")


def _dashboard(cloud: Cloud, port: int, say: Report) -> None:
    """Start it unless it runs, and let browsers of this machine in."""
    if not cloud.is_up:
        raise LabError("the cloud is not up; tools/lab cloud up starts it")
    say("starting the dashboard")
    horizon.start(cloud.control)
    target = (settings.CONTROL, settings.HORIZON)
    with forward.Forwarder(port, cloud.control.sandbox.holder.pid, target) as forwarder:
        say(f"http://{forward.LOOPBACK}:{forwarder.port}/ until Ctrl-C")
        try:
            forwarder.serve_forever()
        except KeyboardInterrupt:
            say("the dashboard stays up inside the cloud")


def _status(cloud: Cloud, say: Report) -> None:
    if not cloud.is_up:
        say(f"the cloud in {cloud.paths.root} is down")
        return
    for service in cloud.services:
        running = service.process
        say(f"{service.name}: {f'runs, pid {running.pid}' if running else 'does not run'}")
    for line in cloud.ask(_servers):
        say(line)


def _servers(admin: Connection) -> list[str]:
    found = admin.compute.servers(all_projects=True)
    return [f"server {one.name} {one.id} {one.status} on {one.compute_host}" for one in found]


def _shell(cloud: Cloud, asked: argparse.Namespace) -> None:
    """Become the shell or the command.

    :raises LabError: when the cloud is not up
    """
    if not cloud.is_up:
        raise LabError("the cloud is not up; tools/lab cloud up starts it")
    words = asked.words or [os.environ.get("SHELL", "/bin/bash")]
    enter = cloud.node(asked.on).sandbox.enter()
    kept = {name: os.environ[name] for name in ("TERM", "COLUMNS", "LINES") if name in os.environ}
    environment = {**clients.environment(cloud.control, asked.user), **kept}
    os.execvpe(enter[0], [*enter, *words], environment)
