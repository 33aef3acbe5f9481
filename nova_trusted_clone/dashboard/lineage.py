"""The picture of where clones come from: ancestors, source, the instant it was frozen, and all clones of that instant.

Places are worked out here, the template draws. It is a picture in the page, so it needs no script, and its boxes are links.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from django.urls import reverse
from django.utils.translation import gettext as _

from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.dashboard import progress
from nova_trusted_clone.dashboard.tables import page_of

# In pixels of the picture. A box has room for as many characters of each line as stand here.
BOX_WIDTH, BOX_HEIGHT = 210, 58
GAP_X, GAP_Y, MARGIN = 60, 16, 8
MOST_TITLE, MOST_TEXT = 24, 32
# More would make a picture that nobody can read.
MOST_ANCESTORS, MOST_SIBLINGS = 2, 12


@dataclasses.dataclass(frozen=True)
class Box:
    """One thing in the picture.

    :ivar kind: ``source``, ``freeze``, ``clone``, ``this`` (the clone of the page) or ``more``
    """

    kind: str
    x: int
    y: int
    title: str
    text: str
    url: str = ""
    whole: str = ""
    width: int = BOX_WIDTH
    height: int = BOX_HEIGHT

    @property
    def text_x(self) -> int:
        """Where its lines begin."""
        return self.x + 12

    @property
    def title_y(self) -> int:
        """Of its first line."""
        return self.y + 24

    @property
    def text_y(self) -> int:
        """Of its second."""
        return self.y + 43


@dataclasses.dataclass(frozen=True)
class Picture:
    """All of it. ``lines`` are paths of SVG."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    lines: tuple[str, ...]
    told: str


def picture(clone: Clone, family: Sequence[Clone], names: Mapping[str, str]) -> Picture:
    """Lay it out.

    :param family: the clones of the same instant, this one among them
    :param names: of servers by their ids, as far as they are known
    """
    columns = [*_ancestors(clone, names), [_freeze(clone)], _clones(clone, family)]
    height = max(len(column) for column in columns) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    placed = [_column(number, column, height) for number, column in enumerate(columns)]
    return Picture(
        width=len(columns) * (BOX_WIDTH + GAP_X) - GAP_X + 2 * MARGIN,
        height=height,
        boxes=tuple(box for column in placed for box in column),
        lines=tuple(
            _line(left[-1], right)
            for left, right_column in itertools.pairwise(placed)
            for right in right_column
        ),
        told=_told(clone, family, names),
    )


def _column(number: int, boxes: Sequence[Box], height: int) -> list[Box]:
    own = len(boxes) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    top = (height - own) // 2
    x = MARGIN + number * (BOX_WIDTH + GAP_X)
    return [
        dataclasses.replace(box, x=x, y=top + row * (BOX_HEIGHT + GAP_Y))
        for row, box in enumerate(boxes)
    ]


def _line(left: Box, right: Box) -> str:
    x1, y1 = left.x + left.width, left.y + left.height // 2
    x2, y2 = right.x, right.y + right.height // 2
    middle = (x1 + x2) // 2
    return f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"


def _ancestors(clone: Clone, names: Mapping[str, str]) -> list[list[Box]]:
    """Oldest first, the source last; a column for each."""
    line = [clone.source_id, *(one for one in clone.lineage if one != clone.source_id)]
    shown = [
        _box(
            "source",
            names.get(server, _short(server)),
            _("source") if not number else _("the source's source"),
            reverse("horizon:project:instances:detail", args=(server,)),
            server,
        )
        for number, server in enumerate(line[:MOST_ANCESTORS])
    ]
    columns = [[box] for box in reversed(shown)]
    if len(line) > MOST_ANCESTORS:
        rest = len(line) - MOST_ANCESTORS
        columns.insert(0, [_box("more", "…", _("%d more before") % rest)])
    return columns


def _freeze(clone: Clone) -> Box:
    if not clone.freeze_id:
        return _box("freeze", _("Freeze"), _("not frozen yet"))
    pause = "" if clone.pause_us is None else _("stood still %.1f ms") % (clone.pause_us / 1000)
    return _box("freeze", _("Freeze %s") % clone.freeze_id[:8], pause, whole=clone.freeze_id)


def _clones(clone: Clone, family: Sequence[Clone]) -> list[Box]:
    others = [one for one in family if one.id != clone.id]
    shown = sorted([clone, *others[: MOST_SIBLINGS - 1]], key=lambda one: one.name)
    boxes = [
        _box(
            "this" if one.id == clone.id else "clone",
            one.name or _short(one.server_id),
            progress.phase(one),
            page_of(one),
            one.name,
        )
        for one in shown
    ]
    left = len(others) + 1 - len(shown)
    return [*boxes, *([_box("more", "…", _("%d more of this freeze") % left)] if left else [])]


def _box(kind: str, title: str, text: str, url: str = "", whole: str = "") -> Box:
    return Box(kind, 0, 0, _cut(title, MOST_TITLE), _cut(text, MOST_TEXT), url, whole or title)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _short(identifier: str) -> str:
    return identifier[:8]


def _told(clone: Clone, family: Sequence[Clone], names: Mapping[str, str]) -> str:
    """The same for who does not see it."""
    text: str = _("%(source)s was frozen once; clones of that instant: %(clones)s.")
    source = names.get(clone.source_id, clone.source_id)
    return text % {"source": source, "clones": ", ".join(one.name for one in family)}
