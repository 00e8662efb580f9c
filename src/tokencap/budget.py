"""The nouns shared with storage backends: keys, states, holds and what became of them.

Every amount is in tokens. Nothing here knows policies, providers or actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._periods import Period

__all__ = [
    "UNLIMITED",
    "Asked",
    "BudgetKey",
    "BudgetState",
    "CheckResult",
    "Grant",
    "Held",
    "Hold",
    "Mark",
    "Reservation",
    "Settlement",
    "share_ceil",
    "share_floor",
]

UNLIMITED = 2**53 - 1
"""The limit of a dimension that is only tracked: the largest integer every store counts exactly."""

# A share like 0.29 of 100 is 28.999999999999996 in floating point. The same correction is
# applied by every backend (the Lua scripts included), so that all of them agree to the token.
_ROUNDING = 1e-6


def share_floor(limit: int, share: float) -> int:
    """Return the most tokens that are not above `share` of `limit`."""
    return math.floor(limit * share + _ROUNDING)


def share_ceil(limit: int, share: float) -> int:
    """Return the least tokens that reach `share` of `limit`."""
    return math.ceil(limit * share - _ROUNDING)


class BudgetKey(NamedTuple):
    """What is budgeted (`dimension`: "tenant") and whose it is (`identifier`: "acme")."""

    dimension: str
    identifier: str


class Asked(NamedTuple):
    """A budget whose state is asked for. Everything but the key is as configured."""

    key: BudgetKey
    limit: int
    period: Period | None = None


class BudgetState(NamedTuple):
    """One budget at one moment, in the window that runs then."""

    key: BudgetKey
    limit: int
    """The limit in force, with what was granted; `UNLIMITED` for a dimension that is only tracked."""
    used: int
    """Settled tokens."""
    reserved: int = 0
    """Tokens held by calls in flight."""
    calls: int = 0
    """How many calls hold `reserved`."""
    expired: int = 0
    """The part of `used` that was charged for calls whose process died: estimates, not reports."""
    resets_at: int | None = None
    """When the window ends, in seconds since the epoch; None for a budget that does not start anew."""
    previous_used: int = 0
    """Settled tokens of the window before this one."""
    granted: int = 0
    """The part of `limit` that was granted for this window only."""

    @property
    def unlimited(self) -> bool:
        """True when there is no limit to compare with."""
        return self.limit >= UNLIMITED

    @property
    def remaining(self) -> int:
        """`limit - used - reserved`; negative when over."""
        return self.limit - self.used - self.reserved

    @property
    def pct_used(self) -> float:
        """`used / limit`: 0.624 is 62.4 %."""
        return self.used / self.limit


class Hold(NamedTuple):
    """What one call asks of one key. Admitted iff `used + reserved + need` is within the ceiling."""

    key: BudgetKey
    limit: int
    """As configured. A limit stored with `set_limit` wins over it."""
    ceiling: float | None
    """The share of the limit above which the call is refused; None: never refused."""
    need: int
    """What must fit, or the call is refused."""
    amount: int
    """What is held once admitted; at least 0."""
    elastic: bool = False
    """Hold what is left below the ceiling, from `need` up to `amount`, the same on all elastic keys."""
    period: Period | None = None
    """How long the counter runs; None: for ever. The same in every process."""
    thresholds: str = ""
    """What is to happen at which share, for whoever looks at the store: see `Ahead`. Nothing goes by it."""


class Held(NamedTuple):
    """One key's part of a reservation, as the store granted it."""

    key: BudgetKey
    epoch: str
    """Which life of the counter: a reset or a new window starts another, and a late settlement never
    lands in it."""
    amount: int
    period: Period | None = None
    """That of the hold."""


class Reservation(NamedTuple):
    """An identified hold on all keys of a call. Ends once: settled, released or expired."""

    id: str
    holds: tuple[Held, ...]
    charge: int
    """What each key is charged if the owner dies before it settles."""


class Grant(NamedTuple):
    """The answer to a reserve."""

    reservation: Reservation | None
    """None when refused: nothing is held on any key."""
    states: tuple[BudgetState, ...]
    """In the order of the holds, without this call's own part, with the limit in force."""
    refused: tuple[BudgetKey, ...] = ()
    """The keys that had no room."""


class Mark(NamedTuple):
    """A point on a counter that is passed once per epoch."""

    key: BudgetKey
    at_pct: float
    limit: int
    """As configured. A limit stored with `set_limit` wins over it."""


class Settlement(NamedTuple):
    """The answer to a settle."""

    states: tuple[BudgetState, ...]
    """After it, in the order of the reservation's holds; empty when the reservation had already ended."""
    passed: tuple[Mark, ...] = ()
    """The marks this settlement was the first to find reached."""


@dataclass(frozen=True)
class CheckResult:
    """Why a call was or was not admitted."""

    allowed: bool
    states: dict[str, BudgetState] = field(default_factory=dict)
    """By dimension, all of them."""
    violated: list[str] = field(default_factory=list)
    """The dimensions that refused."""
    need: int = 0
    """Tokens the call was expected to take at least: its prompt estimate, and `reply`."""
    contended: bool = False
    """True when the call would fit if the calls in flight took nothing."""
    reason: str = ""
    """Why it was refused, when that is not for want of tokens."""
    blocked_at: dict[str, float] = field(default_factory=dict)
    """The share of the limit at which a dimension that refused does so, where that is not all of it."""
    reply: int = 0
    """The part of `need` that is for the reply, which only strict budgets ask for."""

    def explain(self) -> str:
        """Say what is used, what is held and by how many calls, for each refusing dimension."""
        parts = []
        for dimension in self.violated:
            state = self.states[dimension]
            text = f"{dimension}={state.key.identifier}: {state.used:,} of {state.limit:,} tokens used"
            if dimension in self.blocked_at:
                text += f", blocked at {self.blocked_at[dimension] * 100:g} %"
            if state.reserved:
                calls = "1 call" if state.calls == 1 else f"{state.calls:,} calls"
                text += f", {state.reserved:,} held by {calls} in flight"
            if state.resets_at is not None:
                text += f", until {datetime.fromtimestamp(state.resets_at, timezone.utc):%Y-%m-%d %H:%M} UTC"
            parts.append(text)
        if self.reason:
            where = f" ({', '.join(self.violated)})" if self.violated else ""
            return f"{self.reason}{where}; the call was not sent"
        why = "budget contended" if self.contended else "budget exceeded"
        need = f"{self.need:,} tokens" + (f", {self.reply:,} of them for its reply," if self.reply else "")
        return f"{why} ({'; '.join(parts)}); this call needs about {need} and was not sent"
