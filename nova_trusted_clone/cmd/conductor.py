"""nova-trusted-clone-conductor: orders clones, keeps their records, verifies their evidence.

Reads nova.conf as nova's own services do (``--config-file``). SIGTERM ends it after the calls that are being
answered; SIGHUP reads again what can be changed. Any number of these may run, on any number of machines.

Leans on nova.config, nova.rpc and oslo_service, in the manner of nova.cmd.conductor.
"""

# Before anything that would choose its threads by itself, as in nova's own services.
from nova import monkey_patch

monkey_patch.patch(backend="threading")

import functools  # noqa: E402
import secrets  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import nova.conf  # noqa: E402
from nova import config, objects, thread_pool_factory, version  # noqa: E402
from nova import context as nova_context  # noqa: E402
from oslo_log import log as logging  # noqa: E402
from oslo_reports import guru_meditation_report as gmr  # noqa: E402
from oslo_reports import opts as gmr_opts  # noqa: E402
from oslo_service import service  # noqa: E402

from nova_trusted_clone.conductor.contexts import tenant  # noqa: E402
from nova_trusted_clone.conductor.leases import Lease  # noqa: E402
from nova_trusted_clone.conductor.servers import NoServers, NovaServers, Servers  # noqa: E402
from nova_trusted_clone.conductor.service import ConductorService, Worker  # noqa: E402
from nova_trusted_clone.conf import conductor as options  # noqa: E402
from nova_trusted_clone.db import migration  # noqa: E402
from nova_trusted_clone.db.engine import Database  # noqa: E402
from nova_trusted_clone.notifications.clone import notify  # noqa: E402
from nova_trusted_clone.objects.clone import Clone  # noqa: E402
from nova_trusted_clone.rpc.compute import ComputeAPI  # noqa: E402

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


def open_database(conf: Any) -> Database:
    """Return the database that the options name.

    :raises ValueError: when they name none
    """
    group = conf.trusted_clone_database
    if not group.connection:
        raise ValueError("[trusted_clone_database]/connection is not set")
    return Database(dict(group.items()), conf.trusted_clone_conductor.retry_limit_s)


def make_worker(conf: Any, incarnation: str) -> Worker:
    """Return a worker of this process."""
    # Locks of nova's databases must not come from before the fork (as in nova.service.Service.start).
    nova_context.CELL_CACHE = {}
    servers: Servers = NovaServers() if conf.api_database.connection else NoServers()
    if isinstance(servers, NoServers):
        LOG.warning(
            "[api_database]/connection is not set: servers that nova gave up are found by time alone"
        )

    def listener(before: Clone, after: Clone) -> None:
        context = tenant(after.user_id, after.project_id, after.request_id)
        notify(context, conf.host, before, after)

    lease = Lease(conf.host, incarnation, conf.trusted_clone_conductor.lease_s)
    group = conf.trusted_clone_conductor
    return Worker(open_database(conf), group, ComputeAPI(), servers, listener, lease)


def main() -> int:
    """Run until it is told to end."""
    options.register(CONF)
    config.parse_args(sys.argv)
    logging.setup(CONF, "nova")
    objects.register_all()
    gmr_opts.set_defaults(CONF)
    gmr.TextGuruMeditation.setup_autorun(version, conf=CONF)
    found = migration.version(open_database(CONF).engine)
    if found != migration.newest():
        print(
            f"the database has schema {found or 'none'}, this release needs {migration.newest()}: "
            "run nova-trusted-clone-manage db sync",
            file=sys.stderr,
        )
        return 1
    made = functools.partial(make_worker, CONF, secrets.token_hex(4))
    thread_pool_factory.reset_all_executors()
    launcher = service.launch(
        CONF,
        ConductorService(CONF.host, made),
        workers=CONF.trusted_clone_conductor.workers,
        restart_method="mutate",
    )
    return launcher.wait() or 0


if __name__ == "__main__":
    sys.exit(main())
