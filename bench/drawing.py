"""Plots: one look for all of them, small files."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

from bench import machine
from bench.report import Report

MAX_BYTES = 150 << 10
DOTS_PER_INCH = 110

matplotlib.use("Agg")


@contextlib.contextmanager
def sheet(report: Report, path: pathlib.Path, panels: int = 1) -> Iterator[list[Axes]]:
    """Axes side by side to draw on; written to ``path`` at the end."""
    page = Sheet(figsize=(6.4 * panels, 4.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = page.subplots(1, panels, squeeze=False)[0].tolist()
    page.suptitle(report.title + (" (quick run)" if report.quick else ""), fontsize=11)
    page.supxlabel(machine.summary(dict(report.machine)), fontsize=7, color="0.4")
    yield axes
    for one in axes:
        one.grid(visible=True, which="major", linewidth=0.4, alpha=0.6)
    page.savefig(path, pil_kwargs={"optimize": True})
