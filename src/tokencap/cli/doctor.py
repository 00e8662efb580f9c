"""`tokencap doctor`: whether budgets are kept as they should be here, and what to do where they are not."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TokencapError
from .findings import NOTE, WELL, WRONG, Finding, wrong
from .options import EXIT_ERROR, EXIT_OK, add_command
from .store import settled
from .text import Look, cells_of, clean, paint

if TYPE_CHECKING:
    from .._coverage import Coverage
    from .console import Console
    from .options import Commands

__all__ = ["add", "examine", "render"]

_MARKS = {WELL: ("✓", "ok", "good"), NOTE: ("!", "! ", "near"), WRONG: ("✗", "X ", "over")}


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "doctor",
        perform,
        "See whether all is well: what is installed and guarded, the store, the tokenizer, the clock, and "
        "what passed unseen.",
        [
            ("tokencap doctor", "in the directory of the app, in its environment"),
            ("tokencap doctor --backend redis://host:6379/0", "with another store"),
            ("tokencap doctor --json", "for a script; has all of tokencap.coverage(), too"),
        ],
        notes=(
            "Exit status: 0 when all is well, notes included; 1 when something is wrong. Nothing is changed\n"
            "and nothing is fetched. Functions that the configuration names are imported."
        ),
    )
    parser.set_defaults(settles=False)


def perform(args: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    from .._coverage import coverage

    seen = coverage()
    found = list(examine(args.backend, seen))
    if args.json:
        console.json(to_dict(found, seen))
    else:
        console.lines(render(found, console.look))
    return EXIT_ERROR if _many(found, WRONG) else EXIT_OK


def examine(backend: str | None, seen: Coverage) -> Iterator[Finding]:
    """Look at everything. `backend` is the store that was named, if one was."""
    # What looks at everything is slow to load: not for the other commands.
    from . import checks, checks_store

    yield from checks.installed()
    yield from checks.configured()
    try:
        text = settled(backend, os.environ)
    except TokencapError as error:
        yield wrong("store", f"it cannot be told which one: {error}", "correct that file")
    else:
        yield from checks_store.store(text)
    yield from checks.tokenizer()
    yield from checks.guarded(seen)


def to_dict(found: Sequence[Finding], seen: Coverage) -> dict[str, Any]:
    """Return the answer in types that JSON knows."""
    return {
        "well": not _many(found, WRONG),
        "wrong": _many(found, WRONG),
        "notes": _many(found, NOTE),
        "findings": [one.to_dict() for one in found],
        "sdks": dict(seen.sdks),
        "coverage": [{**row._asdict(), "status": row.status.value} for row in seen.rows],
    }


def _many(found: Sequence[Finding], level: str) -> int:
    return sum([one.level == level for one in found])


def render(found: Sequence[Finding], look: Look) -> list[str]:
    """Return the screen: a line for each thing looked at, and what to do about it."""
    lines: list[str] = []
    area = ""
    for one in found:
        if one.area != area:
            area = one.area
            lines += [*([""] if lines else []), paint(area, "bold", look)]
        drawn, spelled, style = _MARKS[one.level]
        lines += _wrapped(paint(drawn if look.unicode else spelled, style, look), 2, one.what, look)
        if one.do:
            lines += _wrapped("→" if look.unicode else "->", 4, one.do, look)
    bad, notes = _many(found, WRONG), _many(found, NOTE)
    said = f"{bad} {'thing is' if bad == 1 else 'things are'} wrong" if bad else "All is well"
    if notes:
        said += f", {notes} {'note' if notes == 1 else 'notes'}"
    return [*lines, "", paint(f"{said}.", "over" if bad else "good", look)]


def _wrapped(mark: str, indent: int, text: str, look: Look) -> list[str]:
    """Return a text behind a mark, on as many lines as it needs. Paths and commands are not broken."""
    hanging = indent + cells_of(mark) + 1
    lines = textwrap.wrap(
        clean(text), min(look.width, 110) - hanging, break_long_words=False, break_on_hyphens=False
    )
    return [f"{' ' * indent}{mark} {lines[0]}", *[" " * hanging + line for line in lines[1:]]]
