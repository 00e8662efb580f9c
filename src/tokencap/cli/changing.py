"""`tokencap limit`, `grant` and `reset`: change a budget while the app runs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .._audit import GRANT, LIMIT, RESET, Change, who
from .._entry import KnownBudget
from ..budget import UNLIMITED, Asked, BudgetKey, BudgetState
from .options import EXIT_ERROR, EXIT_OK, EXIT_USAGE, add_command, tokens
from .standing import spell, unknown_budget
from .store import opened
from .text import Look, count, paint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..backends.protocol import LedgerBackend
    from .console import Console
    from .options import Commands

__all__ = ["add"]

_NOTES = """Every process that uses the store goes by it from its next call on; calls in flight end as they
would have. Who did it is written down: tokencap changes"""
_CONFIGURED = "default"


def add(commands: Commands) -> None:
    """Add the commands."""
    limit = add_command(
        commands,
        "limit",
        perform,
        "Change the limit of a budget at once: a running app goes by it from its next call on.",
        [
            ("tokencap limit tenant acme 2M", "asks before it does it"),
            ("tokencap limit tenant acme 500k --yes", "does not ask, for a script"),
            ("tokencap limit tenant acme default", "the limit that the app configures, again"),
        ],
        _NOTES,
    )
    _name(limit)
    limit.add_argument(
        "tokens",
        metavar="TOKENS",
        type=_limit,
        help=f"the new limit, like 50000, 50k or 2M; or `{_CONFIGURED}`: what the app configures",
    )
    limit.add_argument(
        "--new",
        action="store_true",
        help="for a budget that no call has used yet, which the store cannot know",
    )
    limit.set_defaults(action=LIMIT)
    grant = add_command(
        commands,
        "grant",
        perform,
        "Raise the limit of a budget until its window ends: of one without windows, until it is reset.",
        [
            ("tokencap grant tenant acme 100k", "asks before it does it"),
            ("tokencap grant tenant acme 100k --yes --json", "for a script"),
        ],
        _NOTES,
    )
    _name(grant)
    grant.add_argument("tokens", metavar="TOKENS", type=tokens, help="how many, like 50000, 50k or 2M")
    grant.set_defaults(action=GRANT, new=False)
    reset = add_command(
        commands,
        "reset",
        perform,
        "Start a budget anew: nothing used, nothing held, nothing granted, every threshold ahead.",
        [
            ("tokencap reset tenant acme", "asks before it does it"),
            ("tokencap reset tenant acme --yes", "does not ask, for a script"),
        ],
        _NOTES,
    )
    _name(reset)
    reset.set_defaults(action=RESET, tokens=None, new=False)


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dimension", metavar="DIMENSION", help="what is budgeted, like tenant")
    parser.add_argument("identifier", metavar="IDENTIFIER", help="whose budget, like acme")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _limit(text: str) -> int | None:
    return None if text == _CONFIGURED else tokens(text)


def perform(args: argparse.Namespace, console: Console) -> int:
    """Run one of the commands."""
    key = BudgetKey(args.dimension, args.identifier)
    with opened(args.backend) as backend:
        known = _known(backend, key, args.new)
        (now,) = backend.get_states([Asked(key, known.limit, known.period)])
        if not args.yes:
            sys.stderr.write(
                "".join([f"{line}\n" for line in _ahead(args.action, known, now, args.tokens, console.look)])
            )
            answer = console.confirm(f"{args.action} {spell(key)} in {backend.name}?")
            if answer is None:
                sys.stderr.write("tokencap: nothing was changed: there is no terminal to ask on; add --yes\n")
                return EXIT_USAGE
            if not answer:
                sys.stderr.write("tokencap: nothing was changed\n")
                return EXIT_ERROR
        change = backend.change(key, args.action, args.tokens, who(), known.period)
        name = backend.name
    if args.json:
        console.json({"backend": name, **change.to_dict()})
    else:
        console.lines(_done(change, console.look))
    return EXIT_OK


def _known(backend: LedgerBackend, key: BudgetKey, new: bool) -> KnownBudget:
    """Return the budget as the store knows it. Raises ConfigurationError when it does not."""
    known: Sequence[KnownBudget] = backend.budgets()
    for one in known:
        if one.key == key:
            return one
    if new:
        return KnownBudget(key, UNLIMITED)
    raise unknown_budget(known, *key)


def _ahead(action: str, known: KnownBudget, now: BudgetState, tokens: int | None, look: Look) -> list[str]:
    """Return what would be changed."""
    limit, used = now.limit, now.used
    if action == LIMIT:
        limit = (known.limit if tokens is None else tokens) + now.granted
    elif action == GRANT:
        limit += tokens or 0
    else:
        limit, used = limit - now.granted, 0
    return _lines(known.key, now.limit, limit, now.used, used, look)


def _done(change: Change, look: Look) -> list[str]:
    return [
        *_lines(
            change.key, change.limit_before, change.limit_after, change.used_before, change.used_after, look
        ),
        f"done, by {change.who.user} on {change.who.host}",
    ]


def _lines(key: BudgetKey, limit: int, to_limit: int, used: int, to_used: int, look: Look) -> list[str]:
    arrow = "→" if look.unicode else "->"

    def step(name: str, before: str, after: str) -> str:
        return f"  {name:<6} {before}" + (f" {arrow} {paint(after, 'bold', look)}" if after != before else "")

    return [
        paint(spell(key), "bold", look),
        step("limit", _limited(limit), _limited(to_limit)),
        step("used", count(used), count(to_used)),
        *(
            [step("left", _left(limit, used), _left(to_limit, to_used))]
            if min(limit, to_limit) < UNLIMITED
            else []
        ),
    ]


def _limited(limit: int) -> str:
    return "no limit" if limit >= UNLIMITED else count(limit)


def _left(limit: int, used: int) -> str:
    return "no limit" if limit >= UNLIMITED else count(limit - used)
