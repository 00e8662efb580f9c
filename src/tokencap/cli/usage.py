"""`tokencap usage`: where the tokens went, as a table and a plot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from .._entry import EVER, Label
from .._usage import Usage, UsageRow
from ..errors import ConfigurationError
from ..ledger import Ledger
from .drawing import Bar, Cell, plot, table
from .options import add_command, add_pairs, add_range, range_of
from .store import opened
from .text import Look, clean, count, paint, per_cent

if TYPE_CHECKING:
    from ..backends.protocol import LedgerBackend
    from .console import Console
    from .options import Commands

__all__ = ["add", "render"]

_FIXED = ("provider", "endpoint", "model", "model_asked", "ending", "hour", "day")
_ROWS = 30
_PLOT_HEIGHT = 6


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "usage",
        perform,
        "Show where the tokens went: by model, tenant, agent, hour or anything else the ledger knows.",
        [
            ("tokencap usage", "by model, the last 24 hours"),
            ("tokencap usage --by tenant --since 7d", "by a dimension"),
            ("tokencap usage --by agent,model", "by a tag, and by model within it"),
            ("tokencap usage --by hour --where model=gpt-5", "one model over time (UTC)"),
            ("tokencap usage --by day --since 30d --csv > days.csv", "for a spreadsheet"),
        ],
        notes=(
            "--by and --where know provider, endpoint, model, model_asked, ending, every dimension and\n"
            "every tag; where both have a name: dimension:NAME and tag:NAME. --by also knows hour and day."
        ),
        as_json=False,
    )
    parser.add_argument("--by", default="model", metavar="NAME[,NAME...]", help="default: model")
    add_range(parser, "24h")
    about = "only these calls; may be repeated, and values of one name add up"
    add_pairs(parser, "--where", "NAME=VALUE", about)
    parser.add_argument("--all", action="store_true", help=f"list all rows, and not only {_ROWS}")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--json", action="store_true", help="write JSON, for a script")
    other.add_argument("--csv", action="store_true", help="write CSV")
    other.add_argument("--jsonl", action="store_true", help="write JSON Lines, one a row")


def perform(args: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    by = [name.strip() for name in args.by.split(",") if name.strip()]
    since, until = range_of(args)
    where: dict[str, list[str]] = {}
    for name, value in args.where:
        where.setdefault(name, []).append(value)
    with opened(args.backend) as backend:
        ledger = Ledger(backend)
        found = ledger.usage(by, since=since, until=until, where=where)
        _check_names(backend, [*by, *where], found)
        timed = any(name in ("hour", "day") for name in by)
        over_time = found if timed and len(by) == 1 else None
        if over_time is None and found and not (args.json or args.csv or args.jsonl):
            step = _step_of(found, ledger, where)
            over_time = ledger.usage(step, since=since, until=until, where=where)
        name = backend.name
    if args.csv:
        console.write(found.to_csv())
    elif args.jsonl:
        console.write(found.to_jsonl())
    elif args.json:
        console.json(to_dict(found, name))
    else:
        console.lines(render(found, over_time, name, console.look, len(found) if args.all else _ROWS))
    return 0


def to_dict(found: Usage, name: str) -> dict[str, Any]:
    """Return the answer in types that JSON knows. Amounts are tokens."""
    whole = Usage((), (found.total,), found.total, found.since, found.until).to_dicts()[0]
    return {
        "backend": name,
        "since": None if found.since is None else found.since.isoformat(),
        "until": found.until.isoformat(),
        "by": list(found.by),
        "rows": found.to_dicts(),
        "total": whole,
    }


def _step_of(found: Usage, ledger: Ledger, where: dict[str, list[str]]) -> str:
    start = found.since
    if start is None:
        first = next(ledger.calls(where=where), None)
        start = found.until if first is None else first.time
    return "hour" if found.until - start <= timedelta(days=4) else "day"


def _check_names(backend: LedgerBackend, names: Sequence[str], found: Usage) -> None:
    """Raise ConfigurationError for a name that no call in the ledger has."""
    asked = [name for name in names if name not in _FIXED]
    # A value for each of them: no need to look.
    if not asked or (found and all(any(row.group[at] for row in found) for at in range(len(found.by)))):
        return
    dimensions = {one.key.dimension for one in backend.budgets()}
    tags: set[str] = set()
    for text in {one.label for one in backend.sums(0.0, EVER)}:
        label = Label.parse(text)
        dimensions.update(label.identifiers)
        tags.update(label.tags)
    for name in asked:
        kind, _, rest = name.partition(":")
        there = {"dimension": dimensions, "tag": tags}.get(kind) if rest else None
        if (rest if there is not None else name) in (dimensions | tags if there is None else there):
            continue
        some = [", ".join(sorted(map(clean, each))) or "none" for each in (dimensions, tags)]
        raise ConfigurationError(
            f"no call has {name!r}; there is {', '.join(_FIXED)}; dimensions: {some[0]}; tags: {some[1]}"
        )


def render(found: Usage, over_time: Usage | None, name: str, look: Look, most: int = _ROWS) -> list[str]:
    """Return the screen: when, how much, a plot over time, and a table."""
    dot = "·" if look.unicode else "-"
    since = "the beginning" if found.since is None else _minute(found.since)
    lines = [f"{paint(name, 'bold', look)} {dot} {since} to {_minute(found.until)} UTC", ""]
    if not found:
        return [
            *lines,
            "No call in this time. Look further back with --since 7d, or at all with --since ever.",
        ]
    lines += [_summary(found.total, look), ""]
    if over_time is not None:
        lines += [*_plot(over_time, look), ""]
    lines += _table(found, look, most)
    if len(found) > most:
        lines += ["", f"{count(len(found) - most)} more rows: --all"]
    return lines


def _minute(time: datetime) -> str:
    return time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M")


def _summary(total: UsageRow, look: Look) -> str:
    calls = "1 call" if total.calls == 1 else f"{count(total.calls)} calls"
    text = f"{paint(count(total.tokens) + ' tokens', 'bold', look)} in {calls}"
    if total.cached and total.input:
        text += f", {per_cent(total.cached / total.input)} of the prompts from a cache"
    for many, what in ((total.blocked, "blocked"), (total.degraded, "degraded"), (total.failed, "failed")):
        if many:
            text += f", {count(many)} {what}"
    return text


def _plot(over_time: Usage, look: Look) -> list[str]:
    """Return the plot; periods in which nothing happened have a place in it."""
    at = next(index for index, name in enumerate(over_time.by) if name in ("hour", "day"))
    hourly = over_time.by[at] == "hour"
    step = timedelta(hours=1) if hourly else timedelta(days=1)
    tokens = {_time(row.group[at]): row.tokens for row in over_time}
    start = _begin(over_time.since, hourly) if over_time.since is not None else min(tokens)
    end = max(_begin(over_time.until, hourly), *tokens)
    values = [tokens.get(start + step * n, 0) for n in range((end - start) // step + 1)]
    shown = "%d %b %H:00" if hourly else "%d %b %Y"
    title = f"tokens per {over_time.by[at]} (UTC)"
    width = min(look.width, 100)
    return [
        paint(title, "dim", look),
        *plot(values, (start.strftime(shown), end.strftime(shown)), _PLOT_HEIGHT, look._replace(width=width)),
    ]


def _begin(time: datetime, hourly: bool) -> datetime:
    time = time.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)
    return time if hourly else time.replace(hour=0)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "")).replace(tzinfo=timezone.utc)


def _table(found: Usage, look: Look, most: int) -> list[str]:
    top = max([row.tokens for row in found]) or 1
    some = [name for name in ("cached", "blocked", "degraded") if getattr(found.total, name)]
    names = [*found.by, "tokens", " ", "share", "input", "output", *some, "calls"]
    cells: list[list[Cell | Bar | str]] = [
        [
            *[Cell(value) if value else Cell("(none)", "dim") for value in row.group],
            Cell(count(row.tokens), "bold"),
            Bar(row.tokens / top, "plain"),
            per_cent(row.tokens / found.total.tokens) if found.total.tokens else "",
            *[count(getattr(row, name)) for name in ("input", "output", *some, "calls")],
        ]
        for row in found.rows[:most]
    ]
    kinds = "l" * len(found.by) + "rb" + "r" * (4 + len(some))
    spare = ["cached", "degraded", "blocked", "input", "output", "share", "calls", " "]
    return table(names, cells, look, kinds, spare)
