"""The runner: results on disk, plots small, a failed measurement said and the others made."""

import dataclasses
import pathlib

import pytest

from bench import cli, drawing
from bench.figure import AT_MOST, Figure
from bench.report import BenchError, Report, Settings
from bench.sampling import Samples

MACHINE = {
    "cpu": "a processor",
    "cores": 2,
    "leaf_implementation": "hashlib",
    "date": "2026-01-02T03:04:05+00:00",
    "load_1min_before": 0.1,
}


@dataclasses.dataclass
class Fake:
    """A measurement that needs no time."""

    NAME: str = "fake"
    error: str = ""
    seen: Settings | None = None

    def measure(self, settings: Settings) -> Report:
        self.seen = settings
        (settings.scratch / "left").touch()
        if self.error:
            raise BenchError(self.error)
        ratio = Samples((1.0, 1.2))
        return Report(
            self.NAME,
            "A title",
            settings.quick,
            MACHINE,
            {"points": [1, 2, 3]},
            (Figure.of("a ratio", AT_MOST, 1.0, ratio),),
            ("a note",),
        )

    def draw(self, report: Report, path: pathlib.Path) -> None:
        with drawing.sheet(report, path) as (axes,):
            axes.plot(report.data["points"])


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(cli, "MEASUREMENTS", {made.NAME: made})
    return made


def test_a_run_leaves_a_result_a_small_plot_and_no_scratch(fake, tmp_path, capsys):
    assert cli.main(["--output", str(tmp_path), "--quick"]) == 0

    report = Report.read(tmp_path / "fake.json")
    assert report.quick
    assert report.figures == (Figure("a ratio", AT_MOST, 1.0, 1.1, 1.0, 1.2, 2),)
    assert 0 < (tmp_path / "fake.png").stat().st_size <= drawing.MAX_BYTES
    assert not fake.seen.scratch.exists() and not fake.seen.disk_scratch.exists()
    told = capsys.readouterr().out
    assert "a ratio | at most 1 | 1.1  MISSED | 1 to 1.2 in 2" in told
    assert "fake: a quick run; for a look only" in told


def test_a_measurement_that_cannot_be_made_is_a_failure_with_its_reason(fake, tmp_path, capsys):
    fake.error = "qemu-nbd is missing"

    assert cli.main(["--output", str(tmp_path)]) == 1

    assert "qemu-nbd is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert not fake.seen.scratch.exists()


def test_a_plot_is_drawn_again_from_its_result(fake, tmp_path):
    cli.main(["--output", str(tmp_path)])
    (tmp_path / "fake.png").unlink()

    assert cli.main(["--output", str(tmp_path), "--redraw"]) == 0

    assert (tmp_path / "fake.png").exists()


def test_numbers_of_a_busy_machine_do_not_count():
    busy = Report("x", "X", False, {**MACHINE, "load_1min_before": 3.5}, {})

    assert cli.warnings([busy]) == ["x: the machine was busy before (load 3.5): measure again"]


def test_a_file_that_is_no_result_is_named(tmp_path):
    path = tmp_path / "fake.json"
    path.write_text("{}")

    with pytest.raises(BenchError, match=r"fake\.json is no result of the bench"):
        Report.read(path)
