"""The stories in ``gabbits``, told to nova-api."""

from __future__ import annotations

import pathlib
import unittest

from gabbi import driver

from tests.unit.api.fakes import PROJECT

STORIES = pathlib.Path(__file__).parent / "gabbits"


def test_the_stories_come_out_as_told(world, monkeypatch):
    monkeypatch.setenv("SERVER", world.server())
    monkeypatch.setenv("PROJECT", PROJECT)
    suite = driver.build_tests(
        str(STORIES),
        unittest.TestLoader(),
        intercept=lambda: world.app,
        test_loader_name="gabbits",
    )
    result = unittest.TestResult()
    suite.run(result)
    wrong = [text for _test, text in (*result.failures, *result.errors)]
    assert not wrong, "\n".join(wrong)
    assert result.testsRun == 10
    assert not result.skipped
