"""What a terminal would obey is not shown to it."""

import pytest

from nova_trusted_clone.core.terminal import clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain größer", "plain größer"),
        ("\x1b[2Jgone", "\ufffd[2Jgone"),
        ("two\nlines\tapart", "two lines apart"),
        ("a\u202eb", "a\ufffdb"),
        ("half \ud800", "half \ufffd"),
    ],
)
def test_text_is_shown_and_commands_are_not(text: str, shown: str) -> None:
    assert clean(text) == shown
