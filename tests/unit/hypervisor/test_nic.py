"""A clone's cards are swapped, or the reason why not names what stands in the way: on a domain without a libvirtd."""

from __future__ import annotations

import libvirt
import pytest

from nova_trusted_clone.hypervisor.base import RestoreFailed
from nova_trusted_clone.hypervisor.qemu import nic

CARD = "<interface type='bridge'><mac address='{mac}'/><alias name='{alias}'/></interface>"


class Domain:
    """What of a libvirt domain a swap of cards asks for."""

    def __init__(self) -> None:
        self.cards = {"net0": "52:54:00:00:00:01"}
        self.asked: list[str] = []
        self.condition = [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED]
        self.errors: dict[str, int] | None = {}
        self.lets_go = True

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        cards = "".join(CARD.format(alias=alias, mac=mac) for alias, mac in self.cards.items())
        return f"<domain><devices>{cards}</devices></domain>"

    def state(self) -> list[int]:
        return self.condition

    def diskErrors(self) -> dict[str, int] | None:  # noqa: N802
        return self.errors

    def detachDeviceAlias(self, alias: str, _flags: int) -> None:  # noqa: N802
        self.asked.append(alias)
        if self.lets_go:
            del self.cards[alias]

    def attachDeviceFlags(self, interface: str, _flags: int) -> None:  # noqa: N802
        self.cards[interface] = "52:54:00:00:00:02"

    def stop_for(self, errors: dict[str, int] | None) -> None:
        """As QEMU does when a disk cannot be written."""
        self.lets_go = False
        self.condition = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
        self.errors = errors


@pytest.fixture
def domain() -> Domain:
    """A guest that lets go of its cards."""
    return Domain()


def test_the_sources_card_goes_and_the_clones_comes(domain: Domain) -> None:
    nic.swap(domain, ["net0"], ["mine"])
    assert list(domain.cards) == ["mine"]


def test_a_guest_that_keeps_its_card_is_asked_until_the_limit(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nic, "UNPLUG_LIMIT_S", 0.1)
    domain.lets_go = False
    with pytest.raises(RestoreFailed, match="did not let go of network card net0"):
        nic.swap(domain, ["net0"], ["mine"])
    assert domain.asked == ["net0"]
    assert list(domain.cards) == ["net0"]


def test_a_guest_whose_disk_is_full_is_not_waited_for(domain: Domain) -> None:
    domain.stop_for({"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE})
    with pytest.raises(RestoreFailed, match="error of its disk: vda: No space left on device"):
        nic.swap(domain, ["net0"], ["mine"])


@pytest.mark.parametrize("errors", [None, {}], ids=["none", "empty"])
def test_a_disk_error_that_libvirt_cannot_name_is_still_told(
    domain: Domain, errors: dict[str, int] | None
) -> None:
    domain.stop_for(errors)
    with pytest.raises(RestoreFailed, match="stopped for an error of its disk: unnamed"):
        nic.swap(domain, ["net0"], ["mine"])


def test_another_disk_error_is_one_of_input_and_output(domain: Domain) -> None:
    domain.stop_for({"vdb": libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC})
    with pytest.raises(RestoreFailed, match="vdb: input/output error"):
        nic.swap(domain, ["net0"], ["mine"])
