"""What a store of budgets must do. Any class with these methods is a backend.

A backend counts atomically and knows nothing of policies: each verb is one transaction or
one script. The contract suite in `tests/backends/test_contract.py` runs on every backend.

Times are seconds by the store's own clock, amounts are tokens. Every failure of the store
is raised as `BackendError`, within a bounded time.

A counter that is asked about with a period starts anew, before anything else is done, when the store's
clock has passed into another window: nothing used, nothing held, nothing granted, no mark passed. What
was used is remembered as `previous_used`, and whatever then ends a reservation of that window (a
settlement, an expiry, a correction) is booked there and passes no marks; earlier windows are forgotten.
A clock that is set back goes on with the running window. In a rolling window what is settled or charged is
forgotten after the time of the period; a mark may be passed again once `used` has fallen below it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .._audit import Change, Who
    from .._entry import Entry, KnownBudget, Sum
    from .._periods import Period
    from ..budget import BudgetKey, BudgetState, Grant, Hold, Mark, Reservation, Settlement
    from ._rules import Question

__all__ = ["AsyncBackend", "AsyncLedgerBackend", "Backend", "LedgerBackend"]


@runtime_checkable
class Backend(Protocol):
    """A store of counters, safe to use from any thread and after a fork."""

    @property
    def name(self) -> str:
        """How the start-up line calls this store, without secrets: `sqlite:tokencap.db`."""
        ...

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float) -> Grant:
        """Hold `holds` on all keys or on none.

        A hold is refused iff it has a ceiling and, with `top = share_floor(limit, ceiling)`,
        `used + reserved >= top` or `used + reserved + need > top`. Elastic holds get the least of
        their `amount` and the room below their ceilings. The reservation expires `lease` seconds
        from now unless renewed: each key is then charged `charge` instead of the hold, once.
        The same `id` again, while it lives, returns the same reservation and holds nothing more.
        """
        ...

    def settle(self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = ()) -> Settlement:
        """End a reservation: give back what it held and add `tokens` to `used` (0: a plain release).

        A reservation that has ended is left alone. One that expired meanwhile is corrected: its
        charge is replaced by `tokens`. One the store has lost (flushed, replaced) is booked all the
        same, once. One of an id alone, with holds of no epoch, ends whatever that id holds: its owner
        never heard of them. A key that was reset since is not touched. `marks` whose
        `share_ceil(limit, at_pct)` is reached by `used` after it are passed, once per epoch.
        """
        ...

    def renew(self, ids: Collection[str], lease: float) -> set[str]:
        """Let live reservations expire `lease` seconds from now; return the ids that are not alive."""
        ...

    def pass_marks(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        """Pass these marks whatever the counter says; return those not passed before in this epoch."""
        ...

    def get_states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...]:
        """Return the state of each key asked for, dead reservations charged first."""
        ...

    def set_limit(self, key: BudgetKey, limit: int | None) -> None:
        """Override the configured limit of one key from the next call on, everywhere; None: no longer."""
        ...

    def grant(self, key: BudgetKey, tokens: int, period: Period | None = None) -> None:
        """Raise the limit in force by `tokens` until the window ends, or until `reset` where none does.

        In a rolling window a grant lasts as long as what was used. Raises ConfigurationError below 1 token.
        """
        ...

    def reset(self, key: BudgetKey) -> None:
        """Start the counter anew: nothing used, nothing held, nothing granted, no mark passed."""
        ...

    def as_async(self) -> AsyncBackend:
        """Return the same store for coroutines; it never blocks the event loop for long."""
        ...

    def close(self) -> None:
        """Release connections. A closed backend opens them again when it is next used."""
        ...


class AsyncBackend(Protocol):
    """The verbs of `Backend` that run in the life of a call, for coroutines.

    Each may be an `async def`, or return another awaitable.
    """

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float) -> Awaitable[Grant]:
        """As `Backend.reserve`."""
        ...

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = ()
    ) -> Awaitable[Settlement]:
        """As `Backend.settle`."""
        ...

    def pass_marks(self, marks: Sequence[Mark]) -> Awaitable[tuple[Mark, ...]]:
        """As `Backend.pass_marks`."""
        ...

    def get_states(self, keys: Sequence[Question]) -> Awaitable[tuple[BudgetState, ...]]:
        """As `Backend.get_states`."""
        ...

    async def aclose(self) -> None:
        """Release the connections of this event loop."""
        ...


@runtime_checkable
class LedgerBackend(Backend, Protocol):
    """A `Backend` that keeps a ledger of the calls too. One that does not works all the same.

    Where an amount is corrected, the row follows: a reservation that expired with a label leaves a row,
    and a settlement that comes after all takes it back.
    """

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = "") -> Grant:
        """As `Backend.reserve`. `about` is the label of the call's row, should it expire; empty: no row."""
        ...

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`, and write `entry` with the same commit iff it ends the reservation."""
        ...

    def record(self, entries: Sequence[Entry]) -> None:
        """Write the rows of calls that held nothing."""
        ...

    def now(self) -> float:
        """Return the time of the store's clock."""
        ...

    def sums(self, since: float, until: float, period: int = 0) -> Sequence[Sum]:
        """Sum up the rows of `since <= time < until` by label, ending and period.

        `period`: how long the periods are, in seconds; 0: no periods.
        """
        ...

    def calls(self, since: float, until: float, newest_first: bool = False) -> Iterator[tuple[float, Entry]]:
        """Iterate the rows of `since <= time < until` with their times, in order."""
        ...

    def budgets(self) -> Sequence[KnownBudget]:
        """Return every budget the store has heard of, in the order of their keys."""
        ...

    def change(
        self, key: BudgetKey, action: str, tokens: int | None, who: Who, period: Period | None = None
    ) -> Change:
        """Do what `set_limit`, `grant` or `reset` does, and with the same commit note who did it.

        The last 1,000 changes, of a budget or of the store, are kept at least.
        """
        ...

    def changes(self) -> Sequence[Change]:
        """Return the changes that were noted, in the order in which they were made."""
        ...


@runtime_checkable
class AsyncLedgerBackend(AsyncBackend, Protocol):
    """The verbs of `LedgerBackend` that run in the life of a call, for coroutines."""

    def reserve(
        self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = ""
    ) -> Awaitable[Grant]:
        """As `LedgerBackend.reserve`."""
        ...

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Awaitable[Settlement]:
        """As `LedgerBackend.settle`."""
        ...

    def record(self, entries: Sequence[Entry]) -> Awaitable[None]:
        """As `LedgerBackend.record`."""
        ...
