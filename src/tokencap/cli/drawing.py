"""Bars, plots and tables as text. Pure: values in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .text import Look, cells_of, clean, cut, paint, short

__all__ = ["Bar", "Cell", "bar", "level_of", "plot", "table"]


class Cell(NamedTuple):
    """A text in a table."""

    text: str
    style: str = ""
    """See `paint`."""


class Bar(NamedTuple):
    """A bar in a table."""

    share: float
    style: str = ""


_SHORTEST_BAR = 6
_SHORTEST_NAME = 6
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = " ▁▂▃▄▅▆▇█"


def level_of(share: float) -> str:
    """Return the style of a budget that is used to this share."""
    return "over" if share >= 0.9 else "near" if share >= 0.7 else "good"


def bar(share: float, width: int, look: Look) -> str:
    """Return a bar; not empty where something is used, not full where something is left."""
    share = min(max(share, 0.0), 1.0)
    if not look.unicode:
        full = math.floor(share * width + 1e-9) or (share > 0 and width > 0)
        return "#" * int(full) + "." * (width - int(full))
    eighths = math.floor(share * width * 8 + 1e-9) or (1 if share > 0 else 0)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return filled + "░" * (width - len(filled))


def plot(values: Sequence[float], labels: tuple[str, str], height: int, look: Look) -> list[str]:
    """Return columns of these values over a base line, with the highest value named on the left.

    `labels` are those of the first and the last column. Where there are more values than columns,
    neighbours are summed up.
    """
    top_room = 8
    room = max(8, look.width - top_room - 2)
    together = max(1, math.ceil(len(values) / room))
    sums = [sum(values[at : at + together]) for at in range(0, len(values), together)]
    wide = max(1, min(6, room // max(1, len(sums))))
    top = max(sums, default=0) or 1
    lines = []
    for row in range(height, 0, -1):
        drawn = []
        for value in sums:
            filled = value / top * height - (row - 1)
            step = 0 if value <= 0 else min(8, max(1 if row == 1 else 0, math.floor(filled * 8 + 0.5)))
            letter = (
                _HEIGHTS[max(0, step)] if look.unicode else ("#" if step >= 4 or (step and row == 1) else " ")
            )
            gap = 1 if wide > 2 else 0
            drawn.append(letter * (wide - gap) + " " * gap)
        name = short(top) if row == height else "0" if row == 1 and height > 1 else ""
        side = "│" if look.unicode else "|"
        lines.append(f"{name:>{top_room}} {side}{paint(''.join(drawn).rstrip(), 'plain', look)}")
    first, last = labels
    span = len(sums) * wide
    corner = "└" + "─" * span if look.unicode else "+" + "-" * span
    lines.append(" " * (top_room + 1) + corner)
    gap = span - len(first) - len(last)
    ends = f"{first}{' ' * gap}{last}" if gap >= 2 else first
    lines.append(" " * (top_room + 2) + ends)
    return lines


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[Cell | Bar | str]],
    look: Look,
    kinds: str,
    spare: Sequence[str] = (),
    longest_bar: int = 24,
) -> list[str]:
    """Return a table, its cells cleaned here. `kinds` has a letter a column: l (left), r (right) or b (bar).

    Bars take the room that is left. Where it is narrow, the columns of these `spare` names are left out one
    after the other, then the widest left-aligned column is cut.
    """
    filled = [[_cleaned(cell) for cell in row] for row in rows]
    dropped: set[int] = set()
    titles = [clean(name) for name in names]
    natural = [
        max([cells_of(title), *[_width(row[at]) for row in filled]]) for at, title in enumerate(titles)
    ]
    order = [at for name in spare for at, title in enumerate(names) if title == name]
    while True:
        kept = [at for at in range(len(names)) if at not in dropped]
        missing = sum([natural[at] for at in kept]) + 2 * (len(kept) - 1) - look.width
        if missing <= 0 or not order:
            break
        dropped.add(order.pop(0))
    widths = [_SHORTEST_BAR if kind == "b" else width for kind, width in zip(kinds, natural)]
    for at in kept:
        if kinds[at] == "b":
            widths[at] = min(longest_bar, max(_SHORTEST_BAR, _SHORTEST_BAR - missing))
    for _ in range(max(missing, 0)):
        widest = max([at for at in kept if kinds[at] == "l"], key=lambda at: widths[at])
        widths[widest] -= widths[widest] > _SHORTEST_NAME
    head: list[Cell | Bar] = [Cell(title, "dim") for title in titles]
    return [
        "  ".join([_shown(row[at], widths[at], kinds[at], look) for at in kept]).rstrip()
        for row in [head, *filled]
    ]


def _cleaned(cell: Cell | Bar | str) -> Cell | Bar:
    if isinstance(cell, str):
        return Cell(clean(cell))
    return cell._replace(text=clean(cell.text)) if isinstance(cell, Cell) else cell


def _width(cell: Cell | Bar) -> int:
    return _SHORTEST_BAR if isinstance(cell, Bar) else cells_of(cell.text)


def _shown(cell: Cell | Bar, width: int, kind: str, look: Look) -> str:
    text = bar(cell.share, width, look) if isinstance(cell, Bar) else cut(cell.text, width, look)
    pad = " " * (width - cells_of(text))
    text = paint(text, cell.style, look)
    return pad + text if kind == "r" else text + pad
