"""What every store written in Python decides alike: who is admitted, with how much.

Pure: values in, values out. The Lua scripts of Redis say the same in their own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..budget import UNLIMITED, BudgetKey, BudgetState, Hold, share_floor
from ..errors import ConfigurationError

__all__ = ["TOMBSTONE_SECONDS", "Admission", "admit", "check_holds", "check_limit"]

TOMBSTONE_SECONDS = 24 * 3600.0
"""How long a store remembers a reservation that expired, so that a late settlement corrects it."""


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
