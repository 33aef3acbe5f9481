"""What the operators' page shows is what the code does."""

import pathlib
import re

from nova_trusted_clone.conductor import phases

ROOT = pathlib.Path(__file__).parents[3]
PAGE = ROOT / "doc" / "source" / "conductor.rst"


def test_the_page_shows_the_phase_table():
    assert (PAGE.parent / "_static" / "phases.txt").read_text() == phases.diagram()


def test_every_code_of_the_page_is_one_that_is_told():
    code = "".join(path.read_text() for path in (ROOT / "nova_trusted_clone").rglob("*.py"))
    found = re.findall(r"^``(trusted-clone\.[a-z.-]+)``", PAGE.read_text(), re.MULTILINE)
    assert len(found) >= 12
    assert [name for name in found if f'"{name}"' not in code] == []


def test_every_option_that_the_page_names_exists():
    from nova_trusted_clone.conf import conductor

    names = {option.name for option in conductor.ALL}
    told = set(
        re.findall(r"``([a-z]+_(?:limit|check)_s|lease_s|workers|signer_path)``", PAGE.read_text())
    )
    assert told and told <= names
