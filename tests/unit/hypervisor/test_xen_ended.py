"""Domains that ended by themselves and that libvirt takes for running: what their definition wants is done."""

from __future__ import annotations

import contextlib
import threading

import libvirt
import pytest

from nova_trusted_clone.hypervisor import drivers
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import connection
from nova_trusted_clone.hypervisor.xen import ended, saver
from nova_trusted_clone.hypervisor.xen.ended import Watch

POWEROFF, REBOOT, CRASH, SOFT_RESET = 0, 1, 3, 5


class Domain:
    """What libvirt takes for running."""

    def __init__(self, wishes: str, persistent: bool) -> None:
        self.text = f"<domain type='xen'><name>web-1</name>{wishes}</domain>"
        self.persistent = persistent
        self.done: list[str] = []

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 - libvirt's name
        assert flags == libvirt.VIR_DOMAIN_XML_SECURE
        return self.text

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return "11111111-2222-3333-4444-555555555555"

    def isPersistent(self) -> bool:  # noqa: N802 - libvirt's name
        return self.persistent

    def destroy(self) -> None:
        self.done.append("destroy")

    def create(self) -> None:
        self.done.append("create")


class Host:
    """A libvirt with one domain, number 7."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, wishes: str = "", *, persistent: bool = True
    ) -> None:
        self.domain = Domain(wishes, persistent)
        monkeypatch.setattr(connection, "connected", lambda _uri: contextlib.nullcontext(self))

    def lookupByID(self, number: int) -> Domain:  # noqa: N802 - libvirt's name
        if number == 7:
            return self.domain
        error = libvirt.libvirtError("no such domain")
        error.err = (libvirt.VIR_ERR_NO_DOMAIN, 0, "", 0, "", "", "", 0, 0)
        raise error

    def createXML(self, text: str) -> None:  # noqa: N802 - libvirt's name
        assert text == self.domain.text
        self.domain.done.append("createXML")


class Xen:
    """What Xen says."""

    def __init__(self, *answers: list[tuple[int, int]]) -> None:
        self.answers = list(answers)

    def ended(self) -> list[tuple[int, int]]:
        return self.answers.pop(0)


def looked(host: Host, *answers: list[tuple[int, int]]) -> list[str]:
    watch = Watch("xen:///system", Xen(*answers))
    for _ in answers:
        watch.look()
    return host.domain.done


@pytest.mark.parametrize(
    ("wishes", "why", "done"),
    [
        ("<on_poweroff>destroy</on_poweroff>", POWEROFF, ["destroy"]),
        ("<on_poweroff>restart</on_poweroff>", POWEROFF, ["destroy", "create"]),
        ("<on_reboot>restart</on_reboot>", REBOOT, ["destroy", "create"]),
        ("<on_reboot>destroy</on_reboot>", REBOOT, ["destroy"]),
        ("<on_crash>coredump-restart</on_crash>", CRASH, ["destroy", "create"]),
        ("<on_crash>preserve</on_crash>", CRASH, []),
        ("", POWEROFF, ["destroy"]),
        ("", REBOOT, ["destroy", "create"]),
        ("", CRASH, ["destroy"]),
        ("", SOFT_RESET, []),
    ],
)
def test_what_the_definition_wants_is_done(monkeypatch, wishes, why, done):
    assert looked(Host(monkeypatch, wishes), [(7, why)], [(7, why)]) == done


def test_a_domain_that_libvirt_forgets_when_it_ends_is_made_anew(monkeypatch):
    host = Host(monkeypatch, persistent=False)
    assert looked(host, [(7, REBOOT)], [(7, REBOOT)]) == ["destroy", "createXML"]


def test_libvirt_has_the_first_word(monkeypatch):
    assert looked(Host(monkeypatch), [(7, POWEROFF)], [], [(7, POWEROFF)]) == []


def test_what_is_not_libvirts_is_left_alone(monkeypatch):
    assert looked(Host(monkeypatch), [(9, CRASH)], [(9, CRASH)]) == []


def test_one_that_cannot_be_ended_does_not_keep_the_others(monkeypatch, caplog):
    stuck, host = Domain("", True), Host(monkeypatch)

    def refuse() -> None:
        raise libvirt.libvirtError("cannot acquire state change lock")

    stuck.destroy = refuse
    find = host.lookupByID
    host.lookupByID = lambda number: stuck if number == 3 else find(number)
    assert looked(host, *[[(3, POWEROFF), (7, POWEROFF)]] * 2) == ["destroy"]
    assert "domain 3" in caplog.text


def test_a_libvirt_that_does_not_answer_is_asked_again(monkeypatch):
    host, looks = Host(monkeypatch), threading.Event()

    class Often:
        count = 0

        def ended(self) -> list[tuple[int, int]]:
            self.count += 1
            if self.count == 1:
                raise OSError("privcmd")
            if self.count == 4:
                looks.set()
                threading.Event().wait()  # the thread is the process's; it must not look at a real libvirt
            return [(7, POWEROFF)]

    monkeypatch.setattr(ended, "LOOK_S", 0.01)
    Watch("xen:///system", Often()).start()
    assert looks.wait(10)
    assert host.domain.done[0] == "destroy"


def test_a_host_without_the_part_that_asks_xen_says_so_and_goes_on(monkeypatch, caplog):
    def missing() -> None:
        raise HypervisorError("install libxen-dev")

    monkeypatch.setattr(saver, "library", missing)
    drivers.watch("xen:///system")
    for _ in range(200):
        if "not noticed" in caplog.text:
            return
        threading.Event().wait(0.01)
    pytest.fail(caplog.text)


def test_qemus_libvirt_notices_all_of_it(monkeypatch):
    monkeypatch.setattr(Watch, "start", lambda _self: pytest.fail("nothing is to be watched"))
    drivers.watch("qemu:///system")
