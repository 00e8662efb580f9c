"""Budgets in this process's memory: for tests and throw-away runs."""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._audit import GRANT, LIMIT, Change, Who
from .._entry import Ahead, Entry, KnownBudget, Retention, Sum
from .._fork import ForkAware, survive_forks
from ..budget import (
    Asked,
    BudgetKey,
    BudgetState,
    Grant,
    Held,
    Hold,
    Mark,
    Reservation,
    Settlement,
    share_ceil,
)
from ..errors import BackendError
from ._memory_counter import Counter
from ._memory_ledger import MemoryLedger
from ._rules import (
    PRUNE_SECONDS,
    TOMBSTONE_SECONDS,
    Question,
    admit,
    check_change,
    check_grant,
    check_holds,
    check_limit,
    in_full,
)
from .aio import InlineAsyncBackend
from .protocol import AsyncBackend

if TYPE_CHECKING:
    from .._periods import Period

__all__ = ["MemoryBackend"]

Verb = TypeVar("Verb", bound=Callable[..., Any])


@dataclass
class _Live:
    reservation: Reservation
    expires_at: float
    about: str = ""


def _alone(verb: Verb) -> Verb:
    """Let one thread at a time into the store, and each only once.

    A garbage collection in the middle of a verb may run a finalizer that calls another verb: it must
    neither wait for its own thread nor see the counters half changed, so it is sent away.
    """

    @functools.wraps(verb)
    def guarded(self: MemoryBackend, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if self._inside:
                raise BackendError("memory: in use by this very thread, try again in a moment")
            self._inside = True
            try:
                return verb(self, *args, **kwargs)
            finally:
                self._inside = False

    return cast("Verb", guarded)


class MemoryBackend(ForkAware):
    """A store that lives and dies with the object. A forked child goes on with a copy of it.

    `clock` returns seconds since the epoch. `retention` says how much of the ledger is kept: 10,000
    calls if nothing is said.
    """

    name = "memory"

    def __init__(self, *, clock: Callable[[], float] = time.time, retention: Retention | None = None) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._inside = False
        # Tells reservations of this store from those of another one in `Held.epoch`.
        self._store = secrets.token_hex(8)
        self._counters: dict[BudgetKey, Counter] = {}
        self._live: dict[str, _Live] = {}
        # By id: when it ended, and what it was charged (None: booked for another store).
        self._ended: dict[str, tuple[float, int | None]] = {}
        self._ledger = MemoryLedger(retention or Retention(rows=10_000))
        self._changes: deque[Change] = deque(maxlen=1000)
        self._swept_at = clock()
        self._pruned_at = 0.0
        survive_forks(self)

    @_alone
    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = "") -> Grant:
        """As `Backend.reserve`; raises ValueError when a key appears twice."""
        check_holds(holds)
        now = self._clock()
        if abs(now - self._swept_at) >= 1.0:
            self._sweep(now)
        live = self._live.get(id)
        if live is not None:
            if live.expires_at > now:
                return self._again(live, holds, now + lease)
            self._sweep(now)
        questions = [Asked(hold.key, hold.limit, hold.period) for hold in holds]
        states = self._states(questions, now)
        admission = admit(holds, states)
        if admission.short and self._sweep(now):
            states = self._states(questions, now)
            admission = admit(holds, states)
        if admission.refused:
            for hold in holds:
                self._counter(hold.key).configure(hold)
            return Grant(None, states, admission.refused)
        held = []
        for hold, amount in zip(holds, admission.amounts):
            counter = self._counter(hold.key)
            counter.turn(hold.period, now)
            counter.reserved += amount
            counter.calls += 1
            counter.configure(hold)
            held.append(Held(hold.key, self._epoch(counter.life), amount, hold.period))
        reservation = Reservation(id, tuple(held), charge)
        self._live[id] = _Live(reservation, now + lease, about)
        self._ended.pop(id, None)
        return Grant(reservation, states)

    @_alone
    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`."""
        mine = not reservation.holds or reservation.holds[0].epoch.startswith(f"{self._store}:")
        ended = self._ended.get(reservation.id)
        now = self._clock()
        held_back, charged_at, charged = 0, now, 0
        if not mine:
            if ended is not None:
                return Settlement(())
            self._prune(now)
            self._ended[reservation.id] = (now, None)
            alive = self._live.get(reservation.id)
            reservation, mine = (reservation, False) if alive is None else (alive.reservation, True)
        if not mine:
            pass
        elif self._live.pop(reservation.id, None) is not None:
            held_back = 1
        elif ended is None or ended[1] is None:
            return Settlement(())
        else:
            del self._ended[reservation.id]
            charged_at, charged = ended[0], ended[1]
            self._ledger.take_back(reservation.id)
        if entry is not None:
            self._ledger.write(entry, now)
        touched: dict[BudgetKey, Counter] = {}
        for held in reservation.holds:
            counter = self._counter(held.key)
            counter.turn(held.period, now)
            if not mine or held.epoch == self._epoch(counter.life):
                counter.take_back(charged, charged_at)
                counter.add(now, tokens)
                counter.reserved -= held.amount * held_back
                counter.calls -= held_back
                touched[held.key] = counter
            elif held.epoch == self._epoch(counter.before):
                counter.previous += tokens - charged
        limits = {mark.key: mark.limit for mark in marks}
        passed = []
        for mark in marks:
            reached = touched.get(mark.key)
            if reached is None or mark.at_pct in reached.passed:
                continue
            if reached.used >= share_ceil(reached.limit(mark.limit), mark.at_pct):
                reached.passed.add(mark.at_pct)
                passed.append(mark)
        questions = [
            Asked(held.key, limits.get(held.key, self._counter(held.key).configured), held.period)
            for held in reservation.holds
        ]
        return Settlement(self._states(questions, now), tuple(passed))

    @_alone
    def renew(self, ids: Collection[str], lease: float) -> set[str]:
        """As `Backend.renew`."""
        now = self._clock()
        gone = set()
        for each in ids:
            live = self._live.get(each)
            if live is None or live.expires_at <= now:
                gone.add(each)
            else:
                live.expires_at = now + lease
        return gone

    @_alone
    def record(self, entries: Sequence[Entry]) -> None:
        """As `LedgerBackend.record`."""
        now = self._clock()
        for entry in entries:
            self._ledger.write(entry, now)

    def now(self) -> float:
        """As `LedgerBackend.now`."""
        return self._clock()

    @_alone
    def sums(self, since: float, until: float, period: int = 0) -> Sequence[Sum]:
        """As `LedgerBackend.sums`."""
        return self._ledger.sums(since, until, period)

    @_alone
    def calls(self, since: float, until: float, newest_first: bool = False) -> Iterator[tuple[float, Entry]]:
        """As `LedgerBackend.calls`, as of now."""
        return iter(self._ledger.calls(since, until, newest_first))

    @_alone
    def budgets(self) -> Sequence[KnownBudget]:
        """As `LedgerBackend.budgets`."""
        return [
            KnownBudget(
                key, counter.configured, counter.override, counter.period, Ahead.parse(counter.thresholds)
            )
            for key, counter in sorted(self._counters.items())
        ]

    @_alone
    def pass_marks(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        """As `Backend.pass_marks`."""
        passed = []
        for mark in marks:
            counter = self._counter(mark.key)
            if mark.at_pct not in counter.passed:
                counter.passed.add(mark.at_pct)
                passed.append(mark)
        return tuple(passed)

    @_alone
    def get_states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...]:
        """As `Backend.get_states`."""
        now = self._clock()
        self._sweep(now)
        return self._states([in_full(each) for each in keys], now)

    @_alone
    def set_limit(self, key: BudgetKey, limit: int | None) -> None:
        """As `Backend.set_limit`; raises ConfigurationError for a limit below 1 token."""
        check_limit(limit)
        self._counter(key).override = limit

    @_alone
    def grant(self, key: BudgetKey, tokens: int, period: Period | None = None) -> None:
        """As `Backend.grant`."""
        check_grant(tokens)
        counter = self._counter(key)
        now = self._clock()
        counter.turn(period, now)
        counter.add(now, granted=tokens)

    @_alone
    def reset(self, key: BudgetKey) -> None:
        """As `Backend.reset`."""
        self._counter(key).reset()

    @_alone
    def change(
        self, key: BudgetKey, action: str, tokens: int | None, who: Who, period: Period | None = None
    ) -> Change:
        """As `LedgerBackend.change`."""
        check_change(action, tokens)
        counter, now = self._counter(key), self._clock()
        counter.turn(period, now)
        limit, used = counter.limit(counter.configured), counter.used
        if action == LIMIT:
            counter.override = tokens
        elif action == GRANT:
            counter.add(now, granted=tokens or 0)
        else:
            counter.reset()
        after = counter.limit(counter.configured)
        change = Change(now, key, action, tokens, who, limit, after, used, counter.used)
        self._changes.append(change)
        return change

    @_alone
    def changes(self) -> Sequence[Change]:
        """As `LedgerBackend.changes`."""
        return list(self._changes)

    def as_async(self) -> AsyncBackend:
        """Return this store for coroutines; no verb ever waits."""
        return InlineAsyncBackend(self)

    def close(self) -> None:
        """Nothing to release; the counts stay."""

    def before_fork(self) -> None:
        """See `_fork`: no thread is half way through a verb when the child gets its copy."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """See `_fork`."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """See `_fork`."""
        self._lock = threading.RLock()

    def _counter(self, key: BudgetKey) -> Counter:
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = Counter()
        return counter

    def _epoch(self, life: int) -> str:
        return f"{self._store}:{life}"

    def _states(self, questions: Sequence[Asked], now: float) -> tuple[BudgetState, ...]:
        states = []
        for key, limit, period in questions:
            # One that is only looked at is not kept.
            counter = self._counters.get(key) or Counter()
            counter.turn(period, now)
            states.append(counter.state(key, limit, period))
        return tuple(states)

    def _again(self, live: _Live, holds: Sequence[Hold], expires_at: float) -> Grant:
        """Answer a reserve whose id is alive already."""
        live.expires_at = expires_at
        own = {held.key: held for held in live.reservation.holds}
        states = []
        questions = [Asked(hold.key, hold.limit, hold.period) for hold in holds]
        for state in self._states(questions, self._clock()):
            held = own.get(state.key)
            if held is not None and held.epoch == self._epoch(self._counter(state.key).life):
                state = state._replace(reserved=state.reserved - held.amount, calls=state.calls - 1)
            states.append(state)
        return Grant(live.reservation, tuple(states))

    def _sweep(self, now: float) -> bool:
        """Charge the reservations whose owners died; return whether there were any."""
        self._swept_at = now
        dead = [live for live in self._live.values() if live.expires_at <= now]
        for live in dead:
            reservation = live.reservation
            del self._live[reservation.id]
            if live.about:
                self._ledger.write(Entry.expired(live.about, reservation.charge), now, reservation.id)
            self._ended[reservation.id] = (now, reservation.charge)
            for held in reservation.holds:
                counter = self._counter(held.key)
                if held.epoch == self._epoch(counter.life):
                    counter.add(now, reservation.charge, reservation.charge)
                    counter.reserved -= held.amount
                    counter.calls -= 1
                elif held.epoch == self._epoch(counter.before):
                    counter.previous += reservation.charge
        if dead:
            self._prune(now)
        return bool(dead)

    def _prune(self, now: float) -> None:
        if not -PRUNE_SECONDS < now - self._pruned_at < PRUNE_SECONDS:
            self._pruned_at = now
            ended = self._ended.items()
            self._ended = {each: (at, how) for each, (at, how) in ended if at > now - TOMBSTONE_SECONDS}
