"""The table says what was wanted, what was reached, and what was missed."""

import pytest

from bench.figure import AT_LEAST, AT_MOST, Figure, table
from bench.sampling import Samples


@pytest.mark.parametrize(
    ("sense", "reached", "met"),
    [
        (AT_MOST, 1.1, True),
        (AT_MOST, 1.11, False),
        (AT_LEAST, 1.1, True),
        (AT_LEAST, 1.09, False),
        (AT_MOST, None, False),
        (AT_LEAST, None, False),
    ],
)
def test_a_figure_is_met_up_to_its_limit_and_never_unmeasured(sense, reached, met):
    assert Figure("x", sense, 1.1, reached).met is met


def test_the_table_says_what_was_missed_and_what_was_not_measured():
    figures = [
        Figure.of("rate", AT_LEAST, 0.85, Samples((0.8, 0.7, 0.9))),
        Figure.of("memory", AT_MOST, 16, Samples((3.5,)), unit=" MiB", remark="30 and 33 MiB"),
        Figure("pause", AT_MOST, 1.5, None, remark="only in a full run"),
    ]

    assert table(figures).splitlines() == [
        "figure | wanted         | reached      | within one run",
        "-------+----------------+--------------+---------------",
        "rate   | at least 0.85  | 0.8  MISSED  | 0.7 to 0.9 in 3",
        "memory | at most 16 MiB | 3.5 MiB      | 3.5 to 3.5 in 1; 30 and 33 MiB",
        "pause  | at most 1.5    | not measured | only in a full run",
    ]


def test_a_figure_comes_back_from_its_file():
    figure = Figure.of("rate", AT_LEAST, 0.85, Samples((0.8, 0.7, 0.9)), remark="so")

    assert figure.to_json()["met"] is False
    assert Figure.from_json(figure.to_json()) == figure
