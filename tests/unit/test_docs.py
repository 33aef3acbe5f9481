"""The manual speaks of what is there: states, commands, codes, tests, files and options."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
import shlex

import pytest

from nova_trusted_clone.cmd import manage
from nova_trusted_clone.conf import opts
from nova_trusted_clone.core.protocol import states

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "doc" / "source"
PAGES = sorted(SOURCE.glob("*.rst"))
CODE = ROOT / "nova_trusted_clone"
LITERAL = re.compile(r"``([^`]+)``")
COMMAND = re.compile(r"^ +\$ (nova-trusted-clone-manage .*)$", re.MULTILINE)
OPTION = re.compile(r"[a-z]+(_[a-z]+)+")


def literals(page: pathlib.Path) -> set[str]:
    """What stands in double backquotes."""
    return set(LITERAL.findall(page.read_text()))


def each(pattern: str) -> list[tuple[str, str]]:
    """Every literal of every page that begins so, beside its page's name."""
    found = re.compile(pattern)
    return sorted(
        (page.stem, text) for page in PAGES for text in literals(page) if found.match(text)
    )


@functools.cache
def public_codes() -> tuple[re.Pattern[str], ...]:
    """Every code that the product can give; what it fills in at run time matches anything."""
    codes = set()
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                codes.add(re.escape(node.value))
            elif isinstance(node, ast.JoinedStr):
                codes.add("".join(map(as_pattern, node.values)))
    return tuple(re.compile(code) for code in codes if re.match(r"trusted\\-clone\\\..", code))


def as_pattern(part: ast.expr) -> str:
    return re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"


@functools.cache
def names_in(path: pathlib.Path) -> frozenset[str]:
    """``test_x`` and ``TestY::test_x`` of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found.update(prefix + item.name for item in members if isinstance(item, ast.FunctionDef))
    return frozenset(found)


def test_the_pictures_of_the_states_are_those_of_the_tables() -> None:
    """Write it anew with: python -c "from nova_trusted_clone.core.protocol import states;
    print(states.diagram(), end='')" > doc/source/_static/states.txt"""
    assert (SOURCE / "_static" / "states.txt").read_text() == states.diagram()


def test_every_message_is_in_the_table_of_messages() -> None:
    source = (CODE / "core" / "protocol" / "messages.py").read_text()
    labels = set(re.findall(r'LABEL: ClassVar\[str\] = PREFIX \+ "([^"]+)"', source))
    # It travels within a receipt, and the table says so in words.
    assert labels - {"derived-vtpm"} <= literals(SOURCE / "protocol.rst")


@pytest.mark.parametrize(
    "command", [text for page in PAGES for text in COMMAND.findall(page.read_text())]
)
def test_every_command_is_one(command: str) -> None:
    assert callable(manage.parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize(("page", "code"), each(r"trusted-clone\.[a-z]"))
def test_every_code_can_be_given(page: str, code: str) -> None:
    shown = code.replace("…", "x")
    assert any(known.fullmatch(shown) for known in public_codes()), f"{page}: {code}"


@pytest.mark.parametrize(("page", "name"), each(r"tests/.*::"))
def test_every_test_that_is_named_is_there(page: str, name: str) -> None:
    path, _, test = name.partition("::")
    assert test in names_in(ROOT / path), page


@pytest.mark.parametrize(
    ("page", "name"),
    each(r"(tests|tools|etc|nova_trusted_clone|[a-z]+/[a-z]+)[a-z_/]*(\.py|/[a-z]+)$"),
)
def test_every_file_that_is_named_is_there(page: str, name: str) -> None:
    places = (ROOT / name, CODE / name, CODE / "hypervisor" / name)
    assert any(place.exists() for place in places), page


def test_options_that_the_manual_explains_are_there() -> None:
    known = {option.dest for option in opts.ALL}
    text = (SOURCE / "operating.rst").read_text()
    table = text.partition("Those to think about:")[2].partition("Order a clone")[0]
    named = {word for word in re.findall(r"\* - ``([a-z_]+)``", table) if OPTION.fullmatch(word)}
    assert named
    assert named <= known


def test_every_page_is_in_the_index() -> None:
    """A page that nobody links to is not read."""
    listed = set(re.findall(r"^   ([a-z-]+)$", (SOURCE / "index.rst").read_text(), re.MULTILINE))
    assert {page.stem for page in PAGES} - {"index"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_speak_of_no_machine(page: pathlib.Path) -> None:
    """Paths of whoever wrote it would tell nobody else anything."""
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root)/", page.read_text())
