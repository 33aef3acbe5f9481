"""A state path has one service."""

import pathlib

import pytest

from nova_trusted_clone.assembly import wiring


def test_a_second_service_is_refused_a_state_path_and_told_which(tmp_path: pathlib.Path) -> None:
    with (
        wiring.alone_in(tmp_path),
        pytest.raises(wiring.ConfigError, match=f"state_path: {tmp_path}: another service"),
        wiring.alone_in(tmp_path),
    ):
        pass


def test_a_state_path_can_be_taken_when_the_former_service_has_ended(
    tmp_path: pathlib.Path,
) -> None:
    with wiring.alone_in(tmp_path):
        pass
    with wiring.alone_in(tmp_path):
        pass
