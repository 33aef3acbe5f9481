"""The lab's measured boot is a log that the product's own parser reads."""

from __future__ import annotations

from labkit import boot

from nova_trusted_clone.core.attest import eventlog


def test_the_log_is_read_back_as_it_was_written() -> None:
    events = boot.events("host-a")
    assert eventlog.parse(eventlog.build(events)) == tuple(events)


def test_machines_differ_in_pcr_1_and_firmware_in_pcr_0_alone() -> None:
    ours, other = (eventlog.replay(boot.events(name)) for name in ("host-a", "host-b"))
    assert [i for i in range(8) if ours[i] != other[i]] == [1]
    tampered = eventlog.replay(boot.events("host-a", firmware="other"))
    assert [i for i in range(8) if ours[i] != tampered[i]] == [0]


def test_every_pcr_of_the_boot_was_extended() -> None:
    values = eventlog.replay(boot.events("host-a"))
    assert all(values[i] != bytes(32) for i in range(8))
