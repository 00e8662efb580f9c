"""`tokencap status`: how every budget stands, how fast it goes, and how long it will last."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .drawing import Bar, Cell, level_of, table
from .options import EXIT_EXCEEDED, add_command, positive, seconds_ago
from .standing import Standing, add_budget, asked_for, spell, standings
from .store import opened
from .text import Look, count, duration, paint, per_cent, short, when

if TYPE_CHECKING:
    from .console import Console
    from .options import Commands

__all__ = ["add", "render"]

_SHOWN = 20


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "status",
        perform,
        "Show every budget: used, held by calls in flight, limit, burn rate, and how long it lasts.",
        [
            ("tokencap status", "the budgets in ./tokencap.db, those in use first"),
            ("tokencap status tenant", "of one dimension"),
            ("tokencap status tenant=acme --json", "one budget, for a script"),
            ("tokencap status --check 90", "exit status 3 once a budget is used to 90 % or more"),
        ],
        notes=(
            "next: the threshold that `used` reaches next, by the policy of the process that came last to\n"
            "use the budget and has thresholds for it."
        ),
    )
    add_budget(parser, "only these budgets")
    parser.add_argument(
        "--window",
        type=seconds_ago,
        default=3600.0,
        metavar="TIME",
        help="the time just gone that the burn rate is taken from (default: 1h)",
    )
    parser.add_argument("--all", action="store_true", help=f"list all, and not only {_SHOWN}")
    parser.add_argument(
        "--check",
        type=positive,
        nargs="?",
        const=100.0,
        metavar="PER_CENT",
        help="exit with status 3 when a budget shown is used to this share of its limit (default: 100)",
    )


def perform(args: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    dimension, identifier = asked_for(args)
    with opened(args.backend) as backend:
        found = standings(backend, args.window, dimension, identifier)
        name, now = backend.name, backend.now()
    if args.json:
        console.json({"backend": name, "time": now, "budgets": [one.to_dict() for one in found]})
    else:
        console.lines(render(found, name, now, console.look, len(found) if args.all else _SHOWN))
    over = args.check is not None and any(
        not one.state.unlimited and one.share * 100 >= args.check - 1e-9 for one in found
    )
    return EXIT_EXCEEDED if over else 0


def render(found: Sequence[Standing], name: str, now: float, look: Look, most: int = _SHOWN) -> list[str]:
    """Return the screen: a line for each of the first `most` budgets."""
    dot = "·" if look.unicode else "-"
    lines = [f"{paint(name, 'bold', look)} {dot} {when(now)}", ""]
    if not found:
        return [*lines, "No budget yet: the first guarded call makes one."]
    lines += rows(found[:most], look)
    if len(found) > most:
        lines += ["", f"{count(len(found) - most)} more, less in need of a look: tokencap status --all"]
    return lines


def rows(found: Sequence[Standing], look: Look, title: str = "budget") -> list[str]:
    """Return the table of budgets."""
    cells: list[list[Cell | Bar | str]] = [
        [
            Cell(spell(one.state.key)),
            Cell("") if one.state.unlimited else Bar(one.share, level_of(one.share)),
            Cell("" if one.state.unlimited else per_cent(one.share), level_of(one.share)),
            Cell(count(one.state.used), "bold"),
            Cell("no limit", "dim") if one.state.unlimited else Cell(count(one.state.limit)),
            count(one.state.reserved) if one.state.reserved else "",
            short(one.burn.per_minute) if one.burn.per_minute else "",
            coming(one),
            Cell(lasting(one), "over" if one.lasts == 0 else ""),
        ]
        for one in found
    ]
    names = [title, " ", "", "used", "limit", "held", "per min", "next", "lasts"]
    return table(names, cells, look, "lbrrrrrll", ["next", "held", "per min", "limit", " "])


def coming(one: Standing) -> str:
    """Return what happens next to a budget, in words: `DEGRADE at 80 %`."""
    ahead = one.next
    return "" if ahead is None else f"{', '.join(ahead.actions)} at {ahead.at_pct * 100:g} %"


def lasting(one: Standing) -> str:
    """Return how long a budget lasts, in words."""
    if one.lasts is not None:
        return duration(one.lasts) if one.lasts else "used up" + _until_reset(one)
    if one.resets_at is not None:
        return f"resets in {duration(one.resets_at - one.now)}"
    if one.state.unlimited:
        return ""
    return "idle" if not one.burn.per_minute else ""


def _until_reset(one: Standing) -> str:
    return "" if one.resets_at is None else f", resets in {duration(one.resets_at - one.now)}"
