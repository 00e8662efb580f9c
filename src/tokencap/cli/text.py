"""Numbers, times and names as text. Pure: values in, text out.

Whatever comes from a store is cleaned first: the name of a tenant must not move a cursor.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timezone
from typing import NamedTuple

__all__ = [
    "Look",
    "cells_of",
    "clean",
    "count",
    "cut",
    "duration",
    "paint",
    "per_cent",
    "short",
    "unpaint",
    "when",
]


class Look(NamedTuple):
    """What the terminal can show."""

    width: int = 80
    colour: bool = False
    unicode: bool = True


_STYLES = {
    "bold": "1",
    "dim": "2",
    "good": "32",
    "near": "33",
    "over": "31;1",
    "plain": "36",
    "title": "1;36",
}
_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_PAINT = re.compile(r"\x1b\[[0-9;]*m")


def paint(text: str, style: str, look: Look) -> str:
    """Return `text` in a style, where there are colours."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and look.colour and text else text


def unpaint(text: str) -> str:
    """Return `text` without styles."""
    return _PAINT.sub("", text)


def clean(text: str) -> str:
    """Return `text` on one line, without anything that a terminal takes for more than a letter."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else f"\\x{ord(c):02x}" for c in text])


def cells_of(text: str) -> int:
    """Return how many columns a clean text takes."""
    text = unpaint(text)
    if text.isascii():
        return len(text)
    return sum([_cells(c) for c in text])


def _cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(text: str, width: int, look: Look) -> str:
    """Return `text` in at most `width` columns, with dots where something is missing."""
    if cells_of(text) <= width:
        return text
    dots = "…" if look.unicode else "..."
    room = width - len(dots)
    kept = []
    for letter in text:
        room -= _cells(letter)
        if room < 0:
            break
        kept.append(letter)
    return "".join(kept) + dots[: max(width, 0)]


def count(number: int) -> str:
    """Return a number with its thousands apart: 12,345."""
    return f"{number:,}"


def short(number: float) -> str:
    """Return a number in few letters: 999, 1.2k, 34k, 5.6M."""
    for step, letter in _STEPS:
        if number >= step * 0.9995:
            value = number / step
            return f"{value:.1f}{letter}" if value < 9.95 else f"{value:.0f}{letter}"
    return f"{number:.0f}" if number >= 9.95 or number == int(number) else f"{number:.1f}"


def per_cent(share: float) -> str:
    """Return a share as it is read: 62.4 %; never 100 while something is left."""
    if 0.9995 <= share < 1:
        return "99.9 %"
    return f"{share * 100:.1f} %" if share < 10 else f"{share * 100:,.0f} %"


def duration(seconds: float) -> str:
    """Return a time in its two largest units: 45 s, 12 min, 3 h 10 min, 4 d 2 h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    if days < 1000:
        return f"{days} d {hours % 24} h" if hours % 24 and days < 100 else f"{days} d"
    return "years"


def when(seconds: float) -> str:
    """Return a time as UTC: 2026-03-27 14:05 UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
