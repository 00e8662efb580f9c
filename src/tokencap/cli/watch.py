"""`tokencap watch`: budgets, models and calls as they are at the moment, on one screen."""

from __future__ import annotations

import argparse
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..budget import BudgetKey
from ..errors import BackendError
from .drawing import Cell, table
from .fullscreen import NoTerminalError, Screen
from .live import Follower, Live, Rate, Seen
from .options import EXIT_USAGE, add_command, positive, seconds_ago
from .standing import add_budget, asked_for, spell
from .status import rows
from .store import opened
from .text import Look, cells_of, count, cut, paint, per_cent, short, unpaint, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .console import Console
    from .drawing import Bar
    from .options import Commands

__all__ = ["add", "render"]

_PATIENCE = 3


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "watch",
        perform,
        "Show budgets, models and calls as they go on, on the whole terminal: q leaves.",
        [
            ("tokencap watch", "all of ./tokencap.db, once a second"),
            ("tokencap watch tenant=acme", "one budget and the calls that count on it"),
            ("tokencap watch --interval 0.2 --window 5m", "more often; rates of the last five minutes"),
        ],
        notes=(
            "It only reads, except that, as any call would, it books what expired with its process and\n"
            "starts windows that are due. Rates are those of the last minute, or of --window."
        ),
        as_json=False,
    )
    add_budget(parser, "only this")
    parser.add_argument(
        "--interval",
        type=positive,
        default=1.0,
        metavar="SECONDS",
        help="how long to wait between two looks at the store (default: 1)",
    )
    parser.add_argument(
        "--window",
        type=seconds_ago,
        default=60.0,
        metavar="TIME",
        help="the time just gone that the rates are taken from (default: 1m)",
    )


def perform(args: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    dimension, identifier = asked_for(args)
    try:
        screen = Screen(console)
    except NoTerminalError as error:
        import sys

        sys.stderr.write(
            f"tokencap: {error}; `tokencap status` prints once, `tokencap status --json` for a script\n"
        )
        return EXIT_USAGE
    with opened(args.backend) as backend:
        follower = Follower(backend, args.window, dimension, identifier)
        began = time.monotonic()
        live, said = follower.look(), ""
        with screen:
            while True:
                # Not more than a part of the time: what is watched comes first.
                due = time.monotonic() + max(args.interval, _PATIENCE * (time.monotonic() - began))
                while (left := due - time.monotonic()) > 0:
                    columns, height = screen.size
                    look = console.look._replace(width=max(columns - 1, 1))
                    screen.draw(render(live, look, height, said))
                    ended = screen.wait(left)
                    if ended is not None:
                        return ended
                began = time.monotonic()
                try:
                    live, said = follower.look(), ""
                except BackendError as error:
                    said = str(error)


def render(live: Live, look: Look, height: int, said: str = "") -> list[str]:
    """Return the screen, of at most `height` lines. `said`: why this is not what is in the store now."""
    budgets, models, calls = _shares(len(live.standings), len(live.models), len(live.calls), height - 4)
    parts = [
        _budgets(live, budgets, look),
        _models(live.models[:models], look) if models else [],
        _calls(live.calls[:calls], look) if calls else [],
    ]
    lines = [*_head(live, look), ""]
    for part in parts:
        lines += [*part, ""] if part else []
    lines = lines[: max(height - 1, 0)]
    lines += [""] * (height - 1 - len(lines))
    foot = paint(said, "over", look) if said else paint("q: leave", "dim", look)
    return [_fit(line, look) for line in [*lines, foot]]


def _shares(budgets: int, models: int, calls: int, room: int) -> tuple[int, int, int]:
    """Return how many lines each part has for its rows; each that is shown also takes two others."""
    with_models, with_calls = room >= 8, room >= 12
    room -= 2 + 2 * with_models + 2 * with_calls
    least_models = min(models, max(1, room // 5)) if with_models else 0
    least_calls = min(calls, max(1, room // 3)) if with_calls else 0
    budgets = max(1, min(budgets, room - least_models - least_calls))
    most_models = min(models, room - budgets - least_calls) if with_models else 0
    most_calls = min(calls, room - budgets - most_models) if with_calls else 0
    return budgets, most_models, most_calls


def _fit(line: str, look: Look) -> str:
    # Where even names of a few letters do not fit, colours go too.
    return line if cells_of(line) <= look.width else cut(unpaint(line), look.width, look)


def _head(live: Live, look: Look) -> list[str]:
    dot = " · " if look.unicode else " - "
    total, held = live.total, _in_flight(live)
    numbers = [
        f"{short(total.calls)} calls/min",
        f"{short(total.tokens)} tokens/min",
        *([f"{short(total.blocked)} blocked/min"] if total.blocked else []),
        *([f"{count(held)} in flight"] if held else []),
    ]
    at = datetime.fromtimestamp(live.now, timezone.utc).strftime(":%S UTC")
    return [
        f"{paint(live.name, 'bold', look)}{dot}{when(live.now)[:-4]}{at}",
        dot.join(numbers),
    ]


def _in_flight(live: Live) -> int:
    """Return how many calls are under way: each holds on one budget of every dimension."""
    held: dict[str, int] = {}
    for one in live.standings:
        held[one.state.key.dimension] = held.get(one.state.key.dimension, 0) + one.state.calls
    return max(held.values(), default=0)


def _budgets(live: Live, most: int, look: Look) -> list[str]:
    if not live.standings:
        return ["No budget yet: the first guarded call makes one."]
    more = live.known - most
    title = f"budget ({count(more)} more)" if more > 0 else "budget"
    return rows(live.standings[:most], look, title)


def _models(models: Sequence[tuple[str, Rate]], look: Look) -> list[str]:
    cells: list[list[Cell | Bar | str]] = [
        [
            name,
            short(rate.calls),
            Cell(short(rate.tokens), "bold"),
            short(rate.input),
            short(rate.output),
            per_cent(rate.cached / rate.input) if rate.cached else "",
        ]
        for name, rate in models
    ]
    names = ["model", "calls/min", "tokens/min", "input/min", "output/min", "cached"]
    return table(names, cells, look, "lrrrrr", ["cached", "output/min", "input/min"])


def _calls(calls: Sequence[Seen], look: Look) -> list[str]:
    cells: list[list[Cell | Bar | str]] = [
        [
            datetime.fromtimestamp(seen.at, timezone.utc).strftime("%H:%M:%S"),
            seen.label.model,
            count(seen.entry.input + seen.entry.output),
            Cell(seen.entry.ending, "" if seen.entry.ending == "ok" else "over"),
            f"{seen.entry.seconds:.1f} s",
            " ".join([spell(key) for key in _keys(seen)]),
        ]
        for seen in calls
    ]
    return table(["call", "model", "tokens", "ended", "took", "for"], cells, look, "llrlrl", ["took"])


def _keys(seen: Seen) -> list[BudgetKey]:
    return list(map(BudgetKey._make, seen.label.identifiers.items()))
