"""Domains that ended by themselves and that libvirt takes for running.

libxl tells libvirt of a domain's shutdown once in the domain's life, and the suspend of a freeze was that once: seen with
Xen 4.17 and libvirt 9.0, where a server that had been cloned and later ended itself stayed *running*, with its memory and its
disks. So the host's service looks at what Xen itself says, and does what the domain's definition wants: ``on_poweroff``,
``on_reboot``, ``on_crash``.

Nothing is kept of it: after a restart of the service it looks anew, at every domain of this host's libvirt.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import connection, definition
from nova_trusted_clone.hypervisor.xen import saver

LOG = logging.getLogger(__name__)
# Where libvirt does notice, it does so within a second: it is seen twice before anything is done.
LOOK_S = 10.0
# Of Xen's public/sched.h: the element of libvirt's definition that says what follows, and libvirt's default for it.
REASONS = {
    0: ("on_poweroff", "destroy"),
    1: ("on_reboot", "restart"),
    3: ("on_crash", "destroy"),
    4: ("on_crash", "destroy"),
}
STARTS_ANEW = ("restart", "rename-restart", "coredump-restart")
STAYS = "preserve"


class Watch:
    """Looks at the domains of the libvirt at ``uri``, which is this host's.

    :param xl: has ``ended()``; the C part unless said otherwise
    """

    def __init__(self, uri: str, xl: Any = None) -> None:
        self._uri = uri
        self._xl = xl
        self._seen: set[tuple[int, int]] = set()

    def start(self) -> None:
        """Look for the rest of the process."""
        threading.Thread(target=self._run, name="ended-domains", daemon=True).start()

    def _run(self) -> None:
        try:
            self._xl = self._xl or saver.library()
        except HypervisorError as error:
            LOG.error("servers that end by themselves after a clone are not noticed: %s", error)
            return
        while True:
            try:
                self.look()
            except (HypervisorError, libvirt.libvirtError, OSError) as error:
                LOG.warning("servers that ended by themselves: %s", error)
            time.sleep(LOOK_S)

    def look(self) -> None:
        """Look once; what had ended at the last look, too, is dealt with. What cannot be is told, and tried again.

        :raises HypervisorError: libvirt does not answer
        :raises OSError: Xen does not
        """
        now = {(int(domain), int(why)) for domain, why in self._xl.ended()}
        again, self._seen = now & self._seen, now
        if not again:
            return
        with connection.connected(self._uri) as libvirtd:
            for number, why in sorted(again):
                try:
                    _settle(libvirtd, number, why)
                except (HypervisorError, libvirt.libvirtError) as error:
                    LOG.warning("domain %d, which ended by itself: %s", number, error)


def _settle(libvirtd: Any, number: int, why: int) -> None:
    """Do what a domain's definition wants; one that is not libvirt's is left alone."""
    try:
        domain = libvirtd.lookupByID(number)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return
        raise
    if why not in REASONS:
        return
    element, otherwise = REASONS[why]
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    wanted = definition.parse(text).findtext(element) or otherwise
    if wanted == STAYS:
        return
    LOG.warning(
        "%s ended by itself, and libvirt takes it for running: %s is %s",
        domain.UUIDString(),
        element,
        wanted,
    )
    domain.destroy()
    if wanted in STARTS_ANEW:
        _start_anew(libvirtd, domain, text)


def _start_anew(libvirtd: Any, domain: Any, text: str) -> None:
    if domain.isPersistent():
        domain.create()
    else:
        libvirtd.createXML(text)
