"""What the commands have in common: options, examples in the help, exit codes."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .._usage import seconds_of
from ..errors import ConfigurationError
from .store import DEFAULT, VARIABLE

if TYPE_CHECKING:
    from .console import Console

__all__ = [
    "EXIT_ERROR",
    "EXIT_EXCEEDED",
    "EXIT_OK",
    "EXIT_USAGE",
    "Commands",
    "add_command",
    "add_pairs",
    "add_range",
    "add_since",
    "positive",
    "range_of",
    "seconds_ago",
    "tokens",
]

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_EXCEEDED = 0, 1, 2, 3

EVER = "ever"

EXITS = """exit status:
  0  done
  1  it could not be done (no store, the store failed, no such budget, the answer was no)
  2  the command line is wrong
  3  status --check: a budget is used up
`tokencap run` exits as the command it ran."""

Commands = Any
"""What `ArgumentParser.add_subparsers` returns, which argparse does not name in public."""


class Parser(argparse.ArgumentParser):
    """Keeps the lines of a help text as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)


def add_command(
    commands: Commands,
    name: str,
    perform: Callable[[argparse.Namespace, Console], int],
    about: str,
    examples: Sequence[tuple[str, str]],
    notes: str = "",
    as_json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command: `about` in a sentence, and examples with what they do."""
    wide = max([len(line) for line, _ in examples])
    shown = "\n".join([f"  {line:<{wide}}  {what}".rstrip() for line, what in examples])
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about.partition(":")[0].rstrip("."),
        description=textwrap.fill(about, 90),
        epilog=f"examples:\n{shown}" + (f"\n\n{notes}" if notes else ""),
    )
    parser.set_defaults(perform=perform, json=False, settles=True)
    parser.add_argument(
        "--backend",
        metavar="STORE",
        help="the store: a SQLite file or redis://host:6379/0#prefix (default: "
        f"${VARIABLE}, else `backend` in tokencap.toml, else ./{DEFAULT})",
    )
    if as_json:
        parser.add_argument("--json", action="store_true", help="write JSON, for a script")
    return parser


def add_range(parser: argparse.ArgumentParser, since: str) -> None:
    """Let a command be about a range of time, from `since` on if nothing else is said: see `range_of`."""
    add_since(parser, since)
    parser.add_argument("--until", type=moment, metavar="TIME", help="24h, 7d or 2026-03-01 (default: now)")


def add_since(parser: argparse.ArgumentParser, since: str) -> None:
    """Let a command be about what was since a time, `since` if nothing else is said."""
    about = f"24h, 7d, 2026-03-01 or `{EVER}` (default: {since})"
    parser.add_argument("--since", type=_since, default=since, metavar="TIME", help=about)


def range_of(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return when a range of time begins and ends, as it was written; None: ever, and now."""
    return None if args.since == EVER else args.since, args.until


def add_pairs(parser: argparse.ArgumentParser, name: str, metavar: str, about: str) -> None:
    """Add an option that may be given again and again, a NAME=VALUE each time."""
    parser.add_argument(name, type=pair, action="append", default=[], metavar=metavar, help=about)


def moment(text: str) -> str:
    """Return `text` if it says a time."""
    try:
        seconds_of(text, 0.0, "time")
    except ConfigurationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 24h, 7d or 2026-03-01") from None
    return text


def _since(text: str) -> str:
    return text if text == EVER else moment(text)


def seconds_ago(text: str) -> float:
    """Return the seconds that `24h` and the like stand for."""
    try:
        found = seconds_of(text, 0.0, "time")
    except ConfigurationError:
        found = None
    if found is None or not -1e10 < found < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 30m, 24h or 7d")
    return -found


def positive(text: str) -> float:
    """Return a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def tokens(text: str) -> int:
    """Return a whole number of tokens: 50000, 50_000, 50k, 2M."""
    digits, factor = text.replace("_", "").replace(",", ""), 1
    if digits[-1:] in ("k", "M"):
        digits, factor = digits[:-1], 1_000 if digits[-1] == "k" else 1_000_000
    if not (digits.isdecimal() and digits.isascii() and 0 < int(digits) * factor < 2**53 - 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens like 50000, 50k or 2M, at least 1")
    return int(digits) * factor


def pair(text: str) -> tuple[str, str]:
    """Return the two sides of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
