"""Rolling windows against a list of everything that was ever spent, added up anew at every look.

What is spent must count for at least the window, and at most a step of it longer. So a sum over the window
and one over the window and a step are the bounds; and where nothing lies in that step, the count is exact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stores import CLOCKED, STORES
from tokencap._periods import SLOTS, rolling
from tokencap.backends.protocol import Backend
from tokencap.budget import Asked, BudgetKey, Hold, Reservation

KEY = BudgetKey("tenant", "acme")
LIMIT = 1000
# Beside an hour, lengths whose steps are no whole seconds, or shorter than one.
WINDOWS = (3600.0, 100.0, 7.0)
FORGOTTEN = float("-inf")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.25

    def __call__(self) -> float:
        return self.now


@dataclass
class Spent:
    """Tokens, and the moments they count from: between the two, where the clock was set back meanwhile."""

    tokens: int
    early: float
    late: float


@dataclass
class Call:
    """A reservation, when its lease is over, and what it was charged for that."""

    reservation: Reservation
    ends: float
    charged: Spent | None = None
    moved: bool = False  # the clock was set back after the charge: it may be where no correction finds it


@dataclass
class Naive:
    """Everything that was ever spent, in the order of it."""

    window: float
    spent: list[Spent] = field(default_factory=list)
    unsure: list[Spent] = field(default_factory=list)
    taken: list[Spent] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @property
    def longer(self) -> float:
        return self.window * (1 + 1 / SLOTS)

    def book(self, tokens: int, now: float) -> Spent:
        self.spent.append(Spent(tokens, now, now))
        return self.spent[-1]

    def look(self, now: float) -> tuple[int, int]:
        """Charge the calls whose lease is over; return the least and the most that may be counted."""
        for call in self.calls:
            if call.charged is None and call.ends <= now:
                call.charged = self.book(call.reservation.charge, now)
        for item in self.spent:
            if item.early <= now - self.window:
                item.early = FORGOTTEN  # a clock that is set back later brings nothing back
        least = sum(item.tokens for item in self.spent if item.early > FORGOTTEN)
        least = max(0, least - sum(item.tokens for item in self.taken if item.late > now - self.longer))
        most = sum(item.tokens for item in [*self.spent, *self.unsure] if item.late > now - self.longer)
        return least, most

    def settle(self, call: Call, tokens: int, now: float) -> None:
        """Replace what the call was charged, if anything."""
        self.look(now)
        self.calls.remove(call)
        if call.charged is not None:
            self.spent = [item for item in self.spent if item is not call.charged]
            if call.moved:
                self.unsure.append(call.charged)
                # Or the correction finds what another call has left there since.
                self.taken.append(Spent(call.charged.tokens, now, now))
        self.book(tokens, now)

    def set_back(self, now: float) -> None:
        """What lies ahead counts as of now, from the next time that anything is written."""
        for item in [*self.spent, *self.unsure]:
            item.early = min(item.early, now)
        for call in self.calls:
            call.moved = call.moved or call.charged is not None

    def written(self, now: float) -> None:
        for items in (self.spent, self.unsure, self.taken):
            items[:] = [item for item in items if item.late > now - self.longer]
            for item in items:
                item.late = min(item.late, now)


# Times are in windows: a step, several, nearly one, exactly one, one and a step, far more; and back.
moments = st.sampled_from(
    [0.0, 1 / 600, 1 / 60, 0.1, 0.5, 59 / 60, 0.999, 1.0, 61 / 60, 3.0, -1 / 60, -0.3, -2.0]
)
steps = st.lists(
    st.tuples(
        moments,
        st.sampled_from(["spend", "spend", "reserve", "settle", "settle", "look"]),
        st.integers(0, 400),
        st.integers(0, 1),
    ),
    min_size=5,
    max_size=40,
)


@pytest.fixture(scope="module", params=CLOCKED)
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[Clock, list[Backend]]]:
    """One store for all examples, which reset its counter: seen through two handles."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        store = STORES[request.param](Path(folder), clock=clock)
        yield clock, [store.handle(), store.handle()]
        store.close()


STEP = 1 / 60
BACK_AT_A_CHARGE = [
    *[(0.0, "reserve", 0, 0), (0.0, "reserve", 0, 0), (0.0, "reserve", 2, 0), (0.0, "settle", 0, 0)],
    *[(STEP, "spend", 0, 0), (STEP, "spend", 0, 0), (STEP, "spend", 0, 0), (59 / 60, "spend", 0, 0)],
    *[(-STEP, "settle", 0, 0), (-2.0, "reserve", 2, 0), (0.999, "settle", 0, 0)],
]
"""A charge, forgotten, is corrected when the clock has come to the same moment for a second time."""


@settings(max_examples=60, deadline=None, database=None)
@given(window=st.sampled_from(WINDOWS), steps=steps)
@example(window=3600.0, steps=BACK_AT_A_CHARGE)
def test_a_rolling_window_counts_what_was_spent_in_it_and_at_most_a_step_before(opened, window, steps):
    clock, handles = opened
    period, model = rolling(window), Naive(window)
    clock.now += 10 * 86_400  # past what another example has left behind
    handles[0].reset(KEY)
    for number, (moved, verb, tokens, n) in enumerate(steps):
        handle = handles[n]
        clock.now += moved * window
        if moved < 0:
            model.set_back(clock.now)
        # The dead are charged when they are found, so both look before anything else is done.
        handle.get_states([])
        least, most = model.look(clock.now)
        if verb in ("spend", "reserve"):
            held = sum(held.amount for c in model.calls if c.charged is None for held in c.reservation.holds)
            # Half of the calls are held to the limit, and half are only counted.
            ceiling = 1.0 if tokens % 2 else None
            hold = Hold(KEY, LIMIT, ceiling, tokens, tokens, False, period)
            # Its owner dies, unless it settles at once: a step or half a window later.
            lease = window * (1 / 60 if tokens % 3 else 0.5)
            grant = handle.reserve(f"{clock.now}-{number}", [hold], tokens // 2, lease)
            if ceiling is not None:
                if most + held + max(tokens, 1) <= LIMIT:
                    assert grant.reservation is not None
                if least + held + max(tokens, 1) > LIMIT:
                    assert grant.refused == (KEY,)
            if grant.reservation is not None:
                model.written(clock.now)
                model.calls.append(Call(grant.reservation, clock.now + lease))
        if verb in ("spend", "settle") and model.calls:
            call = model.calls[-1] if verb == "spend" else model.calls[tokens % len(model.calls)]
            model.settle(call, tokens, clock.now)
            handle.settle(call.reservation, tokens)
            model.written(clock.now)
        least, most = model.look(clock.now)
        for each in handles:
            (state,) = each.get_states([Asked(KEY, LIMIT, period)])
            assert least <= state.used <= most
    # When nothing was spent for a window and a step, nothing is left.
    clock.now += window * 62 / 60 + 1
    for call in list(model.calls):
        model.settle(call, 0, clock.now)
        handles[0].settle(call.reservation, 0)
    clock.now += window * 62 / 60
    (state,) = handles[1].get_states([Asked(KEY, LIMIT, period)])
    assert (state.used, state.reserved) == (0, 0)
