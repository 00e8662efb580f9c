"""`tokencap changes`: who changed which budget, and when."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._audit import LIMIT, RESET, Change
from .._usage import seconds_of
from ..budget import UNLIMITED
from .drawing import Cell, table
from .options import EVER, add_command, add_since, range_of
from .standing import add_budget, asked_for, spell, unknown_budget
from .store import opened
from .text import Look, count, paint, when

if TYPE_CHECKING:
    from .console import Console
    from .options import Commands

__all__ = ["add", "render"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "changes",
        perform,
        "Show who changed limits, granted tokens and reset budgets: by command and in code.",
        [
            ("tokencap changes", "all that the store remembers, the last one last"),
            ("tokencap changes tenant=acme --since 7d", "of one budget"),
            ("tokencap changes --json", "for a script"),
        ],
    )
    add_budget(parser, "only these budgets")
    add_since(parser, EVER)
    parser.set_defaults(until=None)


def perform(args: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    dimension, identifier = asked_for(args)
    since, _ = range_of(args)
    with opened(args.backend) as backend:
        start = seconds_of(since, backend.now(), "since") or 0.0
        found = [
            change
            for change in backend.changes()
            if (dimension is None or change.key.dimension == dimension)
            and (identifier is None or change.key.identifier == identifier)
            and change.at >= start
        ]
        if dimension is not None and not found:
            known = backend.budgets()
            if not any(one.key.dimension == dimension and identifier in (None, one.key[1]) for one in known):
                raise unknown_budget(known, dimension, identifier)
        name = backend.name
    if args.json:
        console.json({"backend": name, "changes": [change.to_dict() for change in found]})
    else:
        console.lines(render(found, name, console.look))
    return 0


def render(found: Sequence[Change], name: str, look: Look) -> list[str]:
    """Return the screen: a line for each change."""
    lines = [paint(name, "bold", look), ""]
    if not found:
        return [*lines, "No change: tokencap limit, grant and reset make some."]
    cells: list[list[Cell | str]] = [
        [
            when(change.at),
            spell(change.key),
            Cell(change.action, "bold"),
            _said(change, "→" if look.unicode else "->"),
            f"{change.who.user}@{change.who.host}",
        ]
        for change in found
    ]
    return lines + table(["time", "budget", "change", "before, after", "by"], cells, look, "lllll")


def _said(change: Change, arrow: str) -> str:
    if change.action == RESET:
        return f"used {count(change.used_before)} {arrow} {count(change.used_after)}"
    text = f"{_limited(change.limit_before)} {arrow} {_limited(change.limit_after)}"
    return f"{text} (as configured)" if change.action == LIMIT and change.tokens is None else text


def _limited(limit: int) -> str:
    return "no limit" if limit >= UNLIMITED else count(limit)
