"""The table at the demo's end, with made-up values."""

from __future__ import annotations

import dataclasses

from labkit.cloud.report import CloneRow, ServerRow, rows

SOURCE = ServerRow(
    name="web-1",
    host="host-a",
    uuid="u-1",
    address="10.88.0.5",
    answers=True,
    mac="fa:16:3e:00:00:01",
    genid="g-1",
    ek_sha256="aa" * 32,
    self_check="10 pages, 2 blocks, 0 bad",
)
CLONE = CloneRow(
    server=dataclasses.replace(SOURCE, name="web-1-1", address="10.88.0.6", ek_sha256=""),
    pause_ms=31.25,
    active_s=4.5,
    complete_s=None,
    pages_verified=7,
    bytes_verified=3 << 20,
    evidence="holds",
)


def test_each_row_has_a_cell_for_each_server() -> None:
    table = {row[0]: row[1:] for row in rows(SOURCE, [CLONE, CLONE])}
    assert all(len(cells) == 3 for cells in table.values())
    assert table["address"] == ("10.88.0.5, answers",) + ("10.88.0.6, answers",) * 2
    assert table["EK certificate (SHA-256)"][:2] == ("aa" * 8, "none")
    assert table["source stood still"] == ("", "31.2 ms", "31.2 ms")
    assert table["ACTIVE after"][1] == "4.50 s"
    assert table["complete after"][1] == "never"
    assert table["bytes verified"][1] == "3.0 MiB"


def test_a_clone_that_does_not_answer_cries_out() -> None:
    silent = dataclasses.replace(CLONE, server=dataclasses.replace(CLONE.server, answers=False))
    table = {row[0]: row[1:] for row in rows(SOURCE, [silent])}
    assert table["address"] == ("10.88.0.5, answers", "10.88.0.6, DOES NOT ANSWER")
