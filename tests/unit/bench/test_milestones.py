"""Where the time of a clone goes, from two logs and a console."""

import time

from bench.milestones import ConsoleWatch, Timeline, phases

CLONE = "7bc6eb8a427a388200a279cc46fe3ace"
LOG = f"""\
2026-11-23 08:54:01.000 11 INFO nova_trusted_clone.cmd.agent [-] ready
2026-11-23 08:54:03.731 11 INFO nova_trusted_clone.clone.outgoing [-] clone {CLONE}: attesting
2026-11-23 08:54:04.000 11 INFO nova_trusted_clone.clone.outgoing [-] clone {"0" * 32}: proven
2026-11-23 08:54:06.329 11 INFO nova_trusted_clone.clone.outgoing [-] clone {CLONE}: proven
2026-11-23 08:54:07.000 11 INFO nova_trusted_clone.clone.outgoing [-] clone {CLONE}: failed: cut
2026-11-23 08:54:09.000 11 INFO nova_trusted_clone.clone.outgoing [-] clone {CLONE}: proven
cut in the middle of a li
"""


def test_phases_of_one_clone_and_each_phase_once():
    found = phases(LOG.splitlines(), CLONE)

    assert list(found) == ["attesting", "proven", "failed"]
    assert round(found["proven"] - found["attesting"], 3) == 2.598


def test_a_watch_sees_the_console_appear_and_its_first_byte(tmp_path):
    console = tmp_path / "console0.log"
    before = time.time()
    with ConsoleWatch(console, limit_s=10) as watch:
        console.touch()
        time.sleep(0.05)
        console.write_text("TICK")
        watch.wait()

    assert before <= watch.started_at < watch.output_at <= time.time()


def test_a_watch_that_sees_nothing_says_nothing(tmp_path):
    with ConsoleWatch(tmp_path / "console0.log", limit_s=0.02) as watch:
        watch.wait()

    assert (watch.started_at, watch.output_at) == (None, None)


def test_the_parts_add_up_to_the_first_output():
    timeline = Timeline(
        {
            "attesting": 0.5,
            "proven": 1.5,
            "fetching": 2.0,
            "serving": 2.1,
            "restoring": 2.25,
            "started": 3.0,
            "running": 3.4,
            "output": 3.5,
            "complete": 9.0,
        }
    )

    spans = {name: round(value, 6) for name, value in timeline.spans().items()}
    assert spans == {
        "order and exporter": 0.5,
        "attestation": 1.0,
        "freeze, offer, vTPM quote": 0.5,
        "first small regions": 0.25,
        "restore: until QEMU runs": 0.75,
        "QEMU loads, card silenced": 0.4,
        "the guest runs and prints": 0.1,
    }


def test_a_milestone_that_was_not_seen_goes_into_the_next_part():
    timeline = Timeline({"attesting": 0.5, "fetching": 2.0, "output": 3.5})

    assert timeline.spans() == {
        "order and exporter": 0.5,
        "freeze, offer, vTPM quote": 1.5,
        "the guest runs and prints": 1.5,
    }
