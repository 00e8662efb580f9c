"""What every store written in Python decides alike: who is admitted, with how much.

Pure: values in, values out. The Lua scripts of Redis say the same in their own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

from .._audit import GRANT, LIMIT, RESET
from .._periods import Calendar, Period, Rolling
from ..budget import UNLIMITED, Asked, BudgetKey, BudgetState, Hold, share_floor
from ..errors import ConfigurationError

__all__ = [
    "PRUNE_SECONDS",
    "TOMBSTONE_SECONDS",
    "Admission",
    "Question",
    "Turn",
    "admit",
    "check_change",
    "check_grant",
    "check_holds",
    "check_limit",
    "fell_below",
    "in_force",
    "in_full",
    "resets_at",
    "turn",
]

Question = Union[Asked, "tuple[BudgetKey, int]"]
"""What `get_states` is asked: a pair means a budget that runs for ever."""

TOMBSTONE_SECONDS = 24 * 3600.0
"""How long a store remembers a reservation that expired, so that a late settlement corrects it; and one that
was booked for another store, so that it is not booked twice."""

PRUNE_SECONDS = 3600.0
"""How often it looks for what it need not remember any more."""


class Admission(NamedTuple):
    """What became of the holds of one call."""

    amounts: tuple[int, ...]
    """What each key is to hold, in the order of the holds; empty when refused."""
    refused: tuple[BudgetKey, ...]
    """The keys without room; empty when admitted."""
    short: bool
    """True when more room would have changed the answer: worth looking for dead reservations."""


def admit(holds: Sequence[Hold], states: Sequence[BudgetState]) -> Admission:
    """Decide on `holds`, given the state of each key without them, in the same order."""
    refused: list[BudgetKey] = []
    common: int | None = None
    short = False
    for hold, state in zip(holds, states):
        most = hold.amount
        if hold.ceiling is not None:
            room = share_floor(state.limit, hold.ceiling) - state.used - state.reserved
            if room <= 0 or hold.need > room:
                refused.append(hold.key)
                continue
            if hold.elastic and room < most:
                most = room
                short = True
        if hold.elastic and (common is None or most < common):
            common = most
    if refused:
        return Admission((), tuple(refused), True)
    if common is None:
        return Admission(tuple([hold.amount for hold in holds]), (), False)
    # Where the needs of two elastic keys cannot both be met by one amount, each gets its own need:
    # that always fits below its own ceiling.
    amounts = [max(common, hold.need) if hold.elastic else hold.amount for hold in holds]
    return Admission(tuple(amounts), (), short)


def in_full(question: Question) -> Asked:
    """Return what is asked, in full."""
    return question if isinstance(question, Asked) else Asked(*question)


class Turn(NamedTuple):
    """Where a counter is in its period."""

    window: int
    """Of a calendar: when the window began. Of a rolling one: the number of its step."""
    anew: bool
    """True when another window begins, with nothing used and nothing held."""
    carried: bool = False
    """True when the counter ran by another period so far: what it counted goes on counting in this one."""
    follows: bool = False
    """True when the one that ends now came just before."""


def turn(period: Period, text: str, window: int, now: float) -> Turn:
    """Return where a counter is now that ran by the period `text` ("": for ever) and was in `window`.

    A clock that was set back begins no old window again: the running one goes on until it is over. Only
    one that lies further ahead than the next was entered by mistake, and goes on as the next.
    """
    kept = bool(text)
    if isinstance(period, Rolling):
        return Turn(period.slot_of(now), not kept, kept and text != period.text, True)
    start = period.start_of(now)
    if not kept:
        return Turn(start, True, follows=True)
    if text.startswith("rolling"):
        return Turn(start, False, carried=True)
    if window >= start:
        return Turn(min(window, period.next_after(now)), False)
    return Turn(start, True, follows=period.start_of(start - 1) <= window)


def resets_at(period: Period | None, window: int) -> int | None:
    """Return when `window` of `period` ends; None when it does not."""
    return period.next_after(window) if isinstance(period, Calendar) else None


def in_force(limit: int, granted: int) -> int:
    """Return `limit` with what was granted on it."""
    return limit + granted if limit + granted < UNLIMITED else UNLIMITED


def fell_below(was: int, used: int, trigger: int) -> bool:
    """Return whether a mark at `trigger` may be passed again, now that some of `was` is forgotten.

    One that was passed before `used` came to it waits until `used` has, or until nothing is left.
    """
    return used < trigger and (was >= trigger or used == 0)


def check_grant(tokens: int | None) -> None:
    """Raise ConfigurationError unless `tokens` can be granted."""
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens < UNLIMITED:
        raise ConfigurationError(f"a grant is a whole number of tokens, at least 1, not {tokens!r}")


def check_change(action: str, tokens: int | None) -> None:
    """Raise ConfigurationError unless this is a change that can be made."""
    if action == LIMIT:
        check_limit(tokens)
    elif action == GRANT:
        check_grant(tokens)
    elif action != RESET or tokens is not None:
        raise ConfigurationError(f"there is no change {action!r} of {tokens!r} tokens")


def check_holds(holds: Sequence[Hold]) -> None:
    """Raise ValueError when a key appears twice: its own part would be counted against itself."""
    if len(holds) > 1 and len({hold.key for hold in holds}) < len(holds):
        raise ValueError("the same key appears twice in the holds of one reservation")


def check_limit(limit: int | None) -> None:
    """Raise ConfigurationError unless `limit` is None or can be divided by and counted exactly."""
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= UNLIMITED:
        raise ConfigurationError(f"a limit is a whole number of tokens from 1 to 2**53 - 1, not {limit!r}")
