"""How the budgets of a store stand: state, burn rate, and how long what is left will last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._entry import EVER, Label
from ..budget import Asked, BudgetKey, BudgetState, share_ceil
from ..errors import ConfigurationError
from .text import clean

if TYPE_CHECKING:
    import argparse

    from .._entry import Ahead, KnownBudget, Sum
    from ..backends.protocol import LedgerBackend

__all__ = [
    "Burn",
    "Standing",
    "add_budget",
    "asked_for",
    "burns_of",
    "spell",
    "standings",
    "unknown_budget",
    "urgency",
]

_AT_ONCE = 500
_MINUTE = 60


class Burn(NamedTuple):
    """What was spent lately on one budget."""

    per_minute: float = 0.0
    """Tokens."""
    last: float = 0.0
    """When the last call that spent something ended, to the minute; 0: not lately."""


class Standing(NamedTuple):
    """One budget, and where it is heading."""

    state: BudgetState
    override: int | None
    """The limit stored with `tokencap limit` or `set_limit`, if there is one."""
    burn: Burn
    now: float
    """By the clock of the store."""
    thresholds: tuple[Ahead, ...] = ()
    """Of the policy of the process that came to use it last."""

    @property
    def next(self) -> Ahead | None:
        """The threshold that `used` will reach next; None: none is known, or all are behind."""
        state = self.state
        if state.unlimited:
            return None
        ahead = [each for each in self.thresholds if share_ceil(state.limit, each.at_pct) > state.used]
        return min(ahead, default=None)

    @property
    def share(self) -> float:
        """`used / limit`; 0 without a limit."""
        return 0.0 if self.state.unlimited else self.state.pct_used

    @property
    def resets_at(self) -> float | None:
        """When the counter starts anew; None: it does not."""
        return self.state.resets_at

    @property
    def lasts(self) -> float | None:
        """In how many seconds the limit is used up at this rate.

        None: never, for all one knows (no limit, nothing spent lately, or it starts anew before).
        """
        state = self.state
        if state.unlimited:
            return None
        left = state.limit - state.used
        if left <= 0:
            return 0.0
        if self.burn.per_minute <= 0:
            return None
        seconds = left / self.burn.per_minute * _MINUTE
        if self.resets_at is not None and self.now + seconds >= self.resets_at:
            return None
        return seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the budget in types that JSON knows. Amounts are tokens, times seconds since the epoch."""
        state, lasts = self.state, self.lasts
        limited, ahead = not state.unlimited, self.next
        return {
            "dimension": state.key.dimension,
            "identifier": state.key.identifier,
            "used": state.used,
            "reserved": state.reserved,
            "calls_in_flight": state.calls,
            "limit": state.limit if limited else None,
            "limit_override": self.override,
            "remaining": state.remaining if limited else None,
            "pct_used": state.pct_used if limited else None,
            "expired": state.expired,
            "granted": state.granted,
            "next_threshold": None
            if ahead is None
            else {
                "at_pct": ahead.at_pct,
                "actions": list(ahead.actions),
                "at_tokens": share_ceil(state.limit, ahead.at_pct),
            },
            "previous_used": state.previous_used,
            "resets_at": self.resets_at,
            "tokens_per_minute": round(self.burn.per_minute, 3),
            "exhausted_in_seconds": None if lasts is None else round(lasts, 3),
            "exhausted_at": None if lasts is None else round(self.now + lasts, 3),
        }


def standings(
    backend: LedgerBackend, window: float, dimension: str | None = None, identifier: str | None = None
) -> list[Standing]:
    """Ask how every budget stands, those most in need of a look first.

    The burn rate is that of the last `window` seconds. Raises ConfigurationError for a dimension or an
    identifier that the store does not know, BackendError when it fails.
    """
    known = backend.budgets()
    chosen = [
        one
        for one in known
        if (dimension is None or one.key.dimension == dimension)
        and (identifier is None or one.key.identifier == identifier)
    ]
    if dimension is not None and not chosen:
        raise unknown_budget(known, dimension, identifier)
    now = backend.now()
    burns = burns_of(backend.sums(now - window, EVER, _MINUTE), now, window)
    found = []
    for at in range(0, len(chosen), _AT_ONCE):
        some = chosen[at : at + _AT_ONCE]
        states = backend.get_states([Asked(one.key, one.limit, one.period) for one in some])
        found += [
            Standing(state, one.override, burns.get(one.key, Burn()), now, one.thresholds)
            for one, state in zip(some, states)
        ]
    return sorted(found, key=urgency)


def urgency(one: Standing) -> tuple[Any, ...]:
    """Return what to sort by: in use before what is not, then the fullest, then the name."""
    in_use = one.burn.per_minute > 0 or one.state.reserved > 0
    return not in_use, one.state.unlimited, -one.share, -one.state.used, one.state.key


def burns_of(sums: Iterable[Sum], now: float, window: float) -> dict[BudgetKey, Burn]:
    """Return the burn rates that sums by the minute come to. Pure.

    Of a budget that is younger than the window, the rate is that of its life so far.
    """
    labels: dict[str, Label] = {}
    tokens: dict[BudgetKey, int] = {}
    first: dict[BudgetKey, int] = {}
    last: dict[BudgetKey, int] = {}
    for one in sums:
        spent = one.input + one.output
        if not spent:
            continue
        label = labels.get(one.label)
        if label is None:
            label = labels[one.label] = Label.parse(one.label)
        for key in map(BudgetKey._make, label.identifiers.items()):
            tokens[key] = tokens.get(key, 0) + spent
            first[key] = min(first.get(key, one.period), one.period)
            last[key] = max(last.get(key, 0), one.period)
    return {
        key: Burn(spent * _MINUTE / min(window, max(now - first[key], _MINUTE)), last[key])
        for key, spent in tokens.items()
    }


def spell(key: BudgetKey) -> str:
    """Return a budget as it is written on the command line: tenant=acme."""
    return f"{clean(key.dimension)}={clean(key.identifier)}"


def add_budget(parser: argparse.ArgumentParser, about: str) -> None:
    """Let a command be about some budgets only: see `asked_for`."""
    parser.add_argument(
        "budget", nargs="?", metavar="DIMENSION[=IDENTIFIER]", help=f"{about}, like tenant=acme"
    )


def asked_for(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the dimension and the identifier that a command is about; None: whichever."""
    return _parse_key(args.budget) if args.budget else (None, None)


def _parse_key(text: str) -> tuple[str, str | None]:
    """Return the dimension and the identifier of `tenant=acme`, or of `tenant` alone."""
    dimension, equals, identifier = text.partition("=")
    if not dimension or (equals and not identifier):
        raise ConfigurationError(f"{text!r} names no budget; write DIMENSION=IDENTIFIER, like tenant=acme")
    return dimension, identifier if equals else None


def unknown_budget(
    known: Sequence[KnownBudget], dimension: str, identifier: str | None
) -> ConfigurationError:
    """Return the error that says what there is instead."""
    dimensions = sorted({one.key.dimension for one in known})
    if dimension not in dimensions:
        there = ", ".join(map(clean, dimensions)) or "none yet: no guarded call was made"
        return ConfigurationError(f"no budget has the dimension {dimension!r}; the store knows {there}")
    import difflib

    names = [one.key.identifier for one in known if one.key.dimension == dimension]
    near = difflib.get_close_matches(identifier or "", names, 3) or names[:3]
    examples = ", ".join([spell(BudgetKey(dimension, name)) for name in near])
    return ConfigurationError(
        f"the store knows no {spell(BudgetKey(dimension, identifier or ''))}; there is {examples}"
        f"{', ...' if len(names) > len(near) else ''} (`tokencap status {clean(dimension)} --all` lists all)"
    )
