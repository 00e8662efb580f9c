"""One counter of a store in memory, and how it goes through the windows of its period."""

from __future__ import annotations

from dataclasses import dataclass, field

from .._periods import SLOTS, Period, Rolling
from ..budget import UNLIMITED, BudgetKey, BudgetState, Hold, share_ceil
from ._rules import fell_below, in_force, resets_at, turn

__all__ = ["Counter"]


@dataclass
class _Slot:
    """What was counted in one step of a rolling window."""

    used: int = 0
    expired: int = 0
    granted: int = 0


@dataclass
class Counter:
    """The numbers of one budget. `life` tells windows, and what is between two resets, apart."""

    life: int = 1
    used: int = 0
    reserved: int = 0
    calls: int = 0
    expired: int = 0
    override: int | None = None
    configured: int = UNLIMITED
    thresholds: str = ""
    passed: set[float] = field(default_factory=set)
    period: Period | None = None
    window: int = 0
    """See `Turn.window`."""
    before: int = 0
    """The life of the window before, whose late settlements go to `previous`; 0: none."""
    previous: int = 0
    granted: int = 0
    slots: dict[int, _Slot] = field(default_factory=dict)

    def configure(self, hold: Hold) -> None:
        """Remember what the policy of whoever asks says."""
        self.configured, self.thresholds = hold.limit, hold.thresholds

    def limit(self, configured: int) -> int:
        """Return the limit in force."""
        return in_force(self.override or configured, self.granted)

    def state(self, key: BudgetKey, configured: int, period: Period | None) -> BudgetState:
        """Return the state of the running window."""
        return BudgetState(
            key,
            self.limit(configured),
            self.used,
            self.reserved,
            self.calls,
            self.expired,
            resets_at(period, self.window),
            self.previous,
            self.granted,
        )

    def turn(self, period: Period | None, now: float) -> None:
        """Go into the window of `now`."""
        if period is None:
            return
        where = turn(period, self.period.text if self.period else "", self.window, now)
        if where.anew:
            kept = 0 if self.period else self.granted
            self.before, self.previous = (self.life, self.used) if where.follows else (0, 0)
            self.life += 1
            self.used = self.reserved = self.calls = self.expired = 0
            self.granted = kept
            self.passed.clear()
        if where.anew or where.carried:
            self.slots = {}
            if isinstance(period, Rolling):
                self.slots[where.window] = _Slot(self.used, self.expired, self.granted)
        elif where.window != self.window and isinstance(period, Rolling):
            self._age(where.window)
        self.window, self.period = where.window, period

    def reset(self) -> None:
        """Start anew within the same window."""
        self.life += 1
        self.used = self.reserved = self.calls = self.expired = 0
        self.before = self.previous = self.granted = 0
        self.passed.clear()
        self.slots = {}

    def add(self, now: float, used: int = 0, expired: int = 0, granted: int = 0) -> None:
        """Count tokens, or grant some, from now on."""
        self.used += used
        self.expired += expired
        self.granted += granted
        if isinstance(self.period, Rolling):
            slot = self.slots.setdefault(self.period.slot_of(now), _Slot())
            slot.used += used
            slot.expired += expired
            slot.granted += granted

    def take_back(self, charge: int, at: float) -> None:
        """Undo a charge made at `at`, unless it is forgotten."""
        if isinstance(self.period, Rolling):
            slot = self.slots.get(self.period.slot_of(at))
            if slot is None or slot.expired < charge:
                return
            slot.used -= charge
            slot.expired -= charge
        self.used -= charge
        self.expired -= charge

    def _age(self, slot: int) -> None:
        """Forget what is too old. What lies ahead of a clock that was set back is counted as of now."""
        was, slots = self.used, self.slots
        self.slots = {}
        self.used = self.expired = self.granted = 0
        for number, old in slots.items():
            if number >= slot - SLOTS:
                new = self.slots.setdefault(min(number, slot), _Slot())
                new.used += old.used
                new.expired += old.expired
                new.granted += old.granted
                self.used += old.used
                self.expired += old.expired
                self.granted += old.granted
        limit = self.limit(self.configured)
        self.passed = {at for at in self.passed if not fell_below(was, self.used, share_ceil(limit, at))}
