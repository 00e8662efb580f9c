"""Random lives of calls against a model simple enough to be read: the books always agree with it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from stores import CLOCKED, STORES
from tokencap._periods import calendar
from tokencap.budget import Asked, BudgetKey, BudgetState, Hold, Mark, share_ceil, share_floor

KEYS = [BudgetKey("tenant", "a"), BudgetKey("session", "a\0b"), BudgetKey("session", "ü")]
PERIODS = dict(zip(KEYS, [None, calendar("minute"), calendar("day", "Europe/Berlin", 6 * 60)]))
LIMIT = 1000
SHARES = (0.29, 0.5, 1.0)
DAY = 24 * 3600.0
EXAMPLES = int(os.environ.get("EXAMPLES", "25"))
"""How many lives: `make test-ordeal` lives more."""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000.0  # far from 0, however often it is set back

    def __call__(self) -> float:
        return self.now


class Call:
    """What the model knows of one reservation."""

    def __init__(self, reservation, lives, amounts, charge, expires_at) -> None:
        self.reservation = reservation
        self.parts = {key: (lives[key], amount) for key, amount in amounts.items()}
        self.charge = charge
        self.expires_at = expires_at
        self.ended_at = None  # when it expired; a settlement may still correct it
        self.settled = False
        self.unclear = False  # whether it ended: the clock was set back


class Model:
    """Plain sums over all calls ever made, no counters."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lives = dict.fromkeys(KEYS, 0)
        self.before: dict[BudgetKey, int | None] = dict.fromkeys(KEYS)  # the life of the window before
        self.windows: dict[BudgetKey, int] = {}  # when the running one began
        self.granted = dict.fromkeys(KEYS, 0)
        self.limits: dict[BudgetKey, int] = {}
        self.booked: list[tuple[BudgetKey, int, int]] = []  # key, life, tokens
        self.calls: dict[str, Call] = {}
        self.passed: set[tuple[BudgetKey, int, float]] = set()

    def expire(self) -> None:
        for call in self.calls.values():
            if not call.settled and call.ended_at is None and call.expires_at <= self.clock.now:
                call.ended_at = self.clock.now

    def turn(self, key) -> None:
        """Begin the window of now, unless it is running, or a later one is."""
        period, now = PERIODS[key], self.clock.now
        if period is None:
            return
        start, running = period.start_of(now), self.windows.get(key)
        if running is not None and running >= start:
            self.windows[key] = min(running, period.next_after(now))
            return
        follows = running is None or period.next_after(running) >= start
        self.before[key] = self.lives[key] if follows else None
        self.lives[key] += 1
        self.windows[key] = start
        self.granted[key] = 0

    def reset(self, key) -> None:
        self.lives[key] += 1
        self.before[key] = None
        self.granted[key] = 0

    def parts(self, key, of):
        """(call, amount) of every call that counts for this life of `key`."""
        for call in self.calls.values():
            life, amount = call.parts.get(key, (None, 0))
            if life is not None and life == of:
                yield call, amount

    def used(self, key, of):
        """What was spent in this life of `key`, and what charged."""
        charged = sum(
            call.charge for call, _ in self.parts(key, of) if not call.settled and call.ended_at is not None
        )
        return sum(tokens for each, life, tokens in self.booked if (each, life) == (key, of)), charged

    def limit(self, key) -> int:
        return self.limits.get(key, LIMIT) + self.granted[key]

    def state(self, key) -> BudgetState:
        self.expire()
        self.turn(key)
        life, period = self.lives[key], PERIODS[key]
        live = [
            amount for call, amount in self.parts(key, life) if not call.settled and call.ended_at is None
        ]
        spent, charged = self.used(key, life)
        return BudgetState(
            key,
            self.limit(key),
            spent + charged,
            sum(live),
            len(live),
            charged,
            None if period is None else period.next_after(self.windows[key]),
            sum(self.used(key, self.before[key])),
            self.granted[key],
        )

    def room(self, hold: Hold) -> int:
        state = self.state(hold.key)
        return share_floor(state.limit, hold.ceiling) - state.used - state.reserved

    def amounts(self, holds):
        """What each key would hold; None: refused."""
        bounded = [hold for hold in holds if hold.ceiling is not None]
        if any(self.room(hold) <= 0 or hold.need > self.room(hold) for hold in bounded):
            return None
        rooms = [min(h.amount, self.room(h)) if h in bounded else h.amount for h in holds if h.elastic]
        return {h.key: max(min(rooms), h.need) if h.elastic else h.amount for h in holds}

    def settle(self, call: Call, tokens: int):
        """The states after it; nothing when it had ended."""
        if call.settled:
            return ()
        for key, (life, _) in call.parts.items():
            self.turn(key)
            self.booked.append((key, life, tokens))
        call.settled = True
        return tuple(self.state(key) for key in call.parts)

    def recent(self, call: Call) -> bool:
        return all(life in (self.lives[key], self.before[key]) for key, (life, _) in call.parts.items())

    def touched(self, call: Call):
        return [key for key, (life, _) in call.parts.items() if life == self.lives[key]]

    def pass_mark(self, key, share) -> bool:
        known = (key, self.lives[key], share) in self.passed
        self.passed.add((key, self.lives[key], share))
        return not known


# The need is the same on all keys of a call, as the core asks it.
@st.composite
def calls(draw):
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    need = draw(st.integers(0, 400))
    holds = tuple(
        Hold(
            key,
            LIMIT,
            draw(st.sampled_from([None, 0.29, 1.0, 1.0])),
            need,
            need + draw(st.integers(0, 400)),
            draw(st.booleans()),
            PERIODS[key],
        )
        for key in keys
    )
    # Reservations that died unnoticed still count with what they hold, so that must be the larger.
    return holds, draw(st.integers(0, need)), draw(st.sampled_from([0.5, 5.0, 50.0]))


class Books(RuleBasedStateMachine):
    """One store seen through two handles, and the model beside it."""

    store_name = ""

    alive = Bundle("alive")
    ended = Bundle("ended")

    @initialize()
    def open(self) -> None:
        self.clock = Clock()
        self.folder = Path(tempfile.mkdtemp())
        self.store = STORES[self.store_name](self.folder, clock=self.clock)
        self.handles = [self.store.handle(), self.store.handle()]
        self.model = Model(self.clock)
        self.made = 0
        for key in KEYS:
            # Known from the start: a window that nobody but a look has seen is remembered by no store.
            hold = Hold(key, LIMIT, None, 0, 0, False, PERIODS[key])
            self.handles[0].settle(self.handles[0].reserve("first", [hold], 0, 5.0).reservation, 0)
            self.model.turn(key)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(target=alive, call=calls(), handle=st.integers(0, 1))
    def reserve(self, call, handle):
        holds, charge, lease = call
        self.made += 1
        for hold in holds:
            self.model.turn(hold.key)
        amounts = self.model.amounts(holds)
        grant = self.handles[handle].reserve(f"call-{self.made}", holds, charge, lease)
        if amounts is None:
            assert grant.reservation is None
            assert grant.refused
            assert grant.states == tuple(self.model.state(hold.key) for hold in holds)
            return multiple()
        assert grant.reservation is not None
        assert {held.key: held.amount for held in grant.reservation.holds} == amounts
        for hold in holds:
            if hold.ceiling is not None and hold.elastic:
                assert amounts[hold.key] <= self.model.room(hold)
        made = Call(grant.reservation, self.model.lives, amounts, charge, self.clock.now + lease)
        self.model.calls[grant.reservation.id] = made
        return made

    @rule(call=alive, handle=st.integers(0, 1))
    def reserve_again(self, call, handle):
        self.model.expire()
        assume(not call.settled and call.ended_at is None)
        holds = [
            Hold(held.key, LIMIT, 1.0, 0, held.amount, False, held.period) for held in call.reservation.holds
        ]
        assert self.handles[handle].reserve(call.reservation.id, holds, call.charge, 5.0).reservation == (
            call.reservation
        )
        call.expires_at = self.clock.now + 5.0
        for hold in holds:
            self.model.turn(hold.key)

    @rule(target=ended, call=consumes(alive), tokens=st.integers(0, 700), handle=st.integers(0, 1))
    def settle(self, call, tokens, handle):
        self.end(call, tokens, handle)
        return call

    @rule(target=ended, call=consumes(alive), handle=st.integers(0, 1))
    def release(self, call, handle):
        self.end(call, 0, handle)
        return call

    @rule(call=ended, tokens=st.integers(0, 700), handle=st.integers(0, 1))
    def settle_again(self, call, tokens, handle):
        self.end(call, tokens, handle)

    def end(self, call, tokens, handle):
        marks = [Mark(key, share, LIMIT) for key in KEYS for share in SHARES]
        # Bring the store to where the model is, or the states would differ by the unnoticed dead.
        self.handles[handle].get_states([])
        forgotten = call.ended_at is not None and call.ended_at <= self.clock.now - DAY
        assume(not forgotten and not call.unclear)
        before = call.settled
        states = self.model.settle(call, tokens)
        settlement = self.handles[handle].settle(call.reservation, tokens, marks)
        assert settlement.states == states
        passed = [
            mark
            for mark in marks
            if not before
            and mark.key in self.model.touched(call)
            and self.model.state(mark.key).used >= share_ceil(self.model.limit(mark.key), mark.at_pct)
            and self.model.pass_mark(mark.key, mark.at_pct)
        ]
        assert settlement.passed == tuple(passed)

    @rule(call=alive, lease=st.sampled_from([0.5, 5.0, 50.0]), handle=st.integers(0, 1))
    def renew(self, call, lease, handle):
        self.model.expire()
        live = not call.settled and call.ended_at is None
        assume(not call.unclear)
        gone = self.handles[handle].renew([call.reservation.id, "unknown"], lease)
        assert gone == ({"unknown"} if live else {"unknown", call.reservation.id})
        if live:
            call.expires_at = self.clock.now + lease

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, 30.0, DAY / 2]))
    def wait(self, seconds):
        self.clock.now += seconds
        # Noticed now by the model; by the store whenever it looks.
        self.model.expire()

    @rule(seconds=st.sampled_from([0.1, 30.0, 3600.0, 3 * DAY]))
    def set_the_clock_back(self, seconds):
        # What nobody has seen by then never happened, and the dead of a life long over are seen by nobody.
        self.check()
        for call in self.model.calls.values():
            call.unclear = call.unclear or (call.ended_at is not None and not self.model.recent(call))
        self.clock.now -= seconds

    @rule(key=st.sampled_from(KEYS), handle=st.integers(0, 1))
    def reset(self, key, handle):
        self.handles[handle].reset(key)
        self.model.reset(key)

    @rule(key=st.sampled_from(KEYS), tokens=st.sampled_from([1, 300]), handle=st.integers(0, 1))
    def grant(self, key, tokens, handle):
        self.handles[handle].grant(key, tokens, PERIODS[key])
        self.model.turn(key)
        self.model.granted[key] += tokens

    @rule(key=st.sampled_from(KEYS), limit=st.sampled_from([None, 1, 500, 5000]), handle=st.integers(0, 1))
    def set_limit(self, key, limit, handle):
        self.handles[handle].set_limit(key, limit)
        self.model.limits.pop(key, None)
        if limit is not None:
            self.model.limits[key] = limit

    @rule(key=st.sampled_from(KEYS), share=st.sampled_from(SHARES), handle=st.integers(0, 1))
    def pass_mark(self, key, share, handle):
        mark = Mark(key, share, LIMIT)
        passed = self.handles[handle].pass_marks([mark])
        assert passed == ((mark,) if self.model.pass_mark(key, share) else ())

    @rule(handle=st.integers(0, 1))
    def close(self, handle):
        self.handles[handle].close()

    @rule()
    def look(self):
        self.check()

    def check(self) -> None:
        for handle in self.handles:
            states = handle.get_states([Asked(key, LIMIT, PERIODS[key]) for key in KEYS])
            assert states == tuple(self.model.state(key) for key in KEYS)

    @invariant()
    def the_books_agree_with_the_model(self):
        if hasattr(self, "model"):
            self.check()


class Unobserved(Books):
    """The same without a look after every step, so that the dead are found by the other verbs."""

    @invariant()
    def the_books_agree_with_the_model(self):
        pass


@pytest.mark.parametrize("machine", [Books, Unobserved])
@pytest.mark.parametrize("store_name", CLOCKED)
def test_the_books_are_right_whatever_happens(store_name, machine):
    machine = type(machine.__name__, (machine,), {"store_name": store_name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
