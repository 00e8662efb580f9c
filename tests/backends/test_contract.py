"""What every store must do. Real clocks and short leases: some stores have a clock of their own."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timezone

import pytest

from stores import CLOCKED, STORES
from tokencap._periods import calendar, rolling
from tokencap.backends._redis_scripts import Call, Script
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.protocol import Backend
from tokencap.budget import UNLIMITED, Asked, BudgetKey, BudgetState, Held, Hold, Mark, Reservation
from tokencap.errors import ConfigurationError

LEASE = 30.0
SHORT = 0.5
"""The lease of one that is to be renewed, or reset, in time: the machine may be busy."""
INSTANT = 0.01
"""The lease of one that is to be dead before anything else happens."""
A = BudgetKey("tenant", "acme")
B = BudgetKey("session", "s-1")
C = BudgetKey("run", "r-1")


def new() -> str:
    return uuid.uuid4().hex


def hold(key=A, *, limit=100, ceiling=1.0, need=10, amount=20, elastic=False, period=None):
    return Hold(key, limit, ceiling, need, amount, elastic, period)


def take(backend, *holds, id=None, charge=10, lease=LEASE):
    grant = backend.reserve(id or new(), holds or (hold(),), charge, lease)
    assert grant.reservation is not None
    return grant.reservation


def spend(backend, tokens, key=A, limit=100, marks=(), period=None):
    free = take(backend, hold(key, limit=limit, ceiling=None, need=0, amount=0, period=period))
    return backend.settle(free, tokens, marks)


def state(backend, key=A, limit=100, period=None):
    return backend.get_states([Asked(key, limit, period)])[0]


def die(backend, *holds, charge=10):
    """A reservation whose owner is gone and whose lease is over."""
    reservation = take(backend, *holds, charge=charge, lease=INSTANT)
    time.sleep(INSTANT * 1.5)
    return reservation


def test_it_is_a_backend(store):
    assert isinstance(store.handle(), Backend)


def test_its_name_says_what_it_is(store, store_name):
    assert store.handle().name.split(":")[0] == store_name.split("-")[0]


class TestReserve:
    def test_the_states_are_those_before_the_call(self, backend):
        spend(backend, 7)
        grant = backend.reserve(new(), [hold()], 10, LEASE)
        assert grant.states == (BudgetState(A, 100, 7),)
        assert grant.refused == ()

    def test_what_is_held_is_reserved(self, backend):
        take(backend)
        take(backend, hold(amount=5))
        assert state(backend) == BudgetState(A, 100, 0, 25, 2)

    def test_the_reservation_says_what_each_key_holds(self, backend):
        reservation = take(backend, hold(A, amount=20), hold(B, amount=30), id="call-1", charge=9)
        assert reservation.id == "call-1"
        assert reservation.charge == 9
        assert [(held.key, held.amount) for held in reservation.holds] == [(A, 20), (B, 30)]

    def test_exactly_what_is_left_is_admitted(self, backend):
        spend(backend, 90)
        assert take(backend, hold(need=10))

    def test_one_token_too_much_is_refused(self, backend):
        spend(backend, 91)
        grant = backend.reserve(new(), [hold(need=10)], 10, LEASE)
        assert grant == (None, (BudgetState(A, 100, 91),), (A,))

    def test_nothing_is_admitted_once_nothing_is_left(self, backend):
        spend(backend, 100)
        assert backend.reserve(new(), [hold(need=0)], 0, LEASE).reservation is None

    def test_what_others_hold_counts(self, backend):
        take(backend, hold(amount=95))
        assert backend.reserve(new(), [hold(need=10)], 10, LEASE).refused == (A,)

    def test_the_own_amount_does_not_count_for_admission(self, backend):
        assert take(backend, hold(need=10, amount=5000))

    def test_a_ceiling_below_the_limit_is_a_share_of_it(self, backend):
        assert backend.reserve(new(), [hold(ceiling=0.29, need=30)], 0, LEASE).refused == (A,)
        assert take(backend, hold(ceiling=0.29, need=29))

    def test_a_ceiling_above_the_limit_is_a_share_of_it(self, backend):
        spend(backend, 100)
        assert take(backend, hold(ceiling=1.5, need=50))

    def test_without_a_ceiling_nothing_is_refused(self, backend):
        spend(backend, 500)
        assert take(backend, hold(ceiling=None, need=500))

    def test_a_key_without_a_limit_is_only_tracked(self, backend):
        assert take(backend, hold(limit=UNLIMITED, ceiling=None, need=10**9, amount=10**9))
        assert state(backend, limit=UNLIMITED) == BudgetState(A, UNLIMITED, 0, 10**9, 1)

    def test_a_refusal_holds_nothing_on_any_key(self, backend):
        spend(backend, 95, B)
        grant = backend.reserve(new(), [hold(A), hold(B)], 10, LEASE)
        assert grant.reservation is None
        assert grant.refused == (B,)
        assert backend.get_states([(A, 100), (B, 100)]) == (BudgetState(A, 100, 0), BudgetState(B, 100, 95))

    def test_a_refusal_names_every_key_without_room(self, backend):
        assert backend.reserve(new(), [hold(A, need=101), hold(B, need=101)], 0, LEASE).refused == (A, B)

    def test_the_same_id_again_holds_nothing_more(self, backend):
        first = backend.reserve("call-1", [hold(A), hold(B)], 10, LEASE)
        again = backend.reserve("call-1", [hold(A), hold(B)], 10, LEASE)
        assert again == first
        assert state(backend) == BudgetState(A, 100, 0, 20, 1)

    def test_the_same_id_again_is_not_refused_because_of_its_own_hold(self, backend):
        first = backend.reserve("call-1", [hold(amount=100)], 10, LEASE)
        assert backend.reserve("call-1", [hold(amount=100)], 10, LEASE) == first

    def test_an_id_may_be_used_again_once_it_has_ended(self, backend):
        backend.settle(take(backend, id="call-1"), 5)
        take(backend, id="call-1")
        assert state(backend) == BudgetState(A, 100, 5, 20, 1)

    def test_the_same_key_twice_is_a_mistake(self, backend):
        with pytest.raises(ValueError):
            backend.reserve(new(), [hold(A), hold(A)], 10, LEASE)


class TestElasticHolds:
    def test_they_take_what_is_left_below_the_ceiling(self, backend):
        spend(backend, 30)
        (held,) = take(backend, hold(need=10, amount=500, elastic=True)).holds
        assert held.amount == 70

    def test_they_take_no_more_than_their_amount(self, backend):
        (held,) = take(backend, hold(need=10, amount=40, elastic=True)).holds
        assert held.amount == 40

    def test_they_are_refused_below_their_need(self, backend):
        spend(backend, 95)
        assert backend.reserve(new(), [hold(need=10, amount=40, elastic=True)], 0, LEASE).refused == (A,)

    def test_all_elastic_keys_hold_the_same(self, backend):
        spend(backend, 30, A)
        spend(backend, 60, B)
        reservation = take(
            backend, hold(A, amount=500, elastic=True), hold(B, amount=500, elastic=True), hold(C, amount=77)
        )
        assert [held.amount for held in reservation.holds] == [40, 40, 77]

    def test_without_a_ceiling_only_the_amount_bounds_them(self, backend):
        free = hold(A, ceiling=None, amount=500, elastic=True)
        assert [held.amount for held in take(backend, free).holds] == [500]

    def test_never_past_the_limit(self, backend):
        for _ in range(5):
            backend.reserve(new(), [hold(need=10, amount=30, elastic=True)], 10, LEASE)
        assert state(backend) == BudgetState(A, 100, 0, 100, 4)


class TestSettle:
    def test_the_hold_is_replaced_by_what_was_spent(self, backend):
        settlement = backend.settle(take(backend), 33)
        assert settlement == ((BudgetState(A, 100, 33),), ())
        assert state(backend) == BudgetState(A, 100, 33)

    def test_more_than_was_held_is_booked_too(self, backend):
        backend.settle(take(backend), 133)
        assert state(backend).used == 133
        assert state(backend).remaining == -33

    def test_nothing_spent_is_a_release(self, backend):
        backend.settle(take(backend), 0)
        assert state(backend) == BudgetState(A, 100, 0)

    def test_every_key_is_settled(self, backend):
        settlement = backend.settle(take(backend, hold(A), hold(B, limit=50)), 7)
        assert settlement.states == (BudgetState(A, 100, 7), BudgetState(B, 50, 7))

    def test_a_second_time_changes_nothing(self, backend):
        reservation = take(backend)
        backend.settle(reservation, 33)
        assert backend.settle(reservation, 33) == ((), ())
        assert state(backend) == BudgetState(A, 100, 33)

    def test_a_second_time_passes_no_marks(self, backend):
        reservation = take(backend)
        backend.settle(reservation, 90)
        assert backend.settle(reservation, 90, [Mark(A, 0.5, 100)]).passed == ()

    def test_of_another_handle_is_seen_here(self, backend, store):
        reservation = take(backend)
        store.handle().settle(reservation, 12)
        assert state(backend) == BudgetState(A, 100, 12)

    def test_the_largest_amount_is_counted_exactly(self, backend):
        spend(backend, UNLIMITED - 1, limit=UNLIMITED)
        assert state(backend, limit=UNLIMITED).used == UNLIMITED - 1
        assert state(backend, limit=UNLIMITED).remaining == 1


class TestLostReservations:
    """The store was flushed or replaced between the reserve and the settle."""

    def test_what_was_spent_is_booked(self, backend, other_store):
        reservation = take(other_store.handle(), hold(A), hold(B))
        settlement = backend.settle(reservation, 40, [Mark(A, 0.4, 100)])
        assert [each.used for each in settlement.states] == [40, 40]
        assert settlement.passed == (Mark(A, 0.4, 100),)
        assert backend.get_states([(A, 100), (B, 100)]) == (BudgetState(A, 100, 40), BudgetState(B, 100, 40))

    def test_once(self, backend, other_store):
        reservation = take(other_store.handle())
        backend.settle(reservation, 40)
        assert backend.settle(reservation, 40) == ((), ())
        assert state(backend).used == 40

    def test_beside_what_is_there(self, backend, other_store):
        take(backend)
        spend(backend, 5)
        backend.settle(take(other_store.handle()), 40)
        assert state(backend) == BudgetState(A, 100, 45, 20, 1)

    def test_a_hold_that_its_owner_never_heard_of_is_ended_by_its_id(self, backend):
        made = take(backend, hold(A), hold(B))
        unheard_of = Reservation(made.id, (Held(A, "", 0), Held(B, "", 0)), 0)
        states = backend.settle(unheard_of, 7).states
        assert [(each.used, each.reserved, each.calls) for each in states] == [(7, 0, 0)] * 2
        assert backend.settle(unheard_of, 7).states == ()

    def test_as_is_what_never_was_in_one(self, backend):
        unreserved = Reservation(new(), (Held(A, "", 0), Held(B, "", 0)), 0)
        settlement = backend.settle(unreserved, 80, [Mark(A, 0.8, 100)])
        assert settlement.passed == (Mark(A, 0.8, 100),)
        backend.settle(unreserved, 80)
        assert (state(backend).used, state(backend, B).used) == (80, 80)

    def test_they_are_not_alive(self, backend, other_store):
        reservation = take(other_store.handle())
        assert backend.renew([reservation.id], LEASE) == {reservation.id}


class TestExpiry:
    def test_a_dead_reservation_is_charged_once(self, backend):
        die(backend, charge=15)
        for _ in range(2):
            assert state(backend) == BudgetState(A, 100, 15, 0, 0, 15)

    def test_it_is_charged_on_every_key(self, backend):
        die(backend, hold(A), hold(B), charge=15)
        assert [each.expired for each in backend.get_states([(A, 100), (B, 100)])] == [15, 15]

    def test_its_room_is_free_for_the_next_call_at_once(self, backend):
        die(backend, hold(amount=100), charge=15)
        grant = backend.reserve(new(), [hold(need=85)], 10, LEASE)
        assert grant.reservation is not None
        assert grant.states == (BudgetState(A, 100, 15, 0, 0, 15),)

    def test_its_room_is_free_for_an_elastic_hold_too(self, backend):
        die(backend, hold(amount=60), charge=15)
        assert take(backend, hold(amount=500, elastic=True)).holds[0].amount == 85

    def test_a_late_settlement_replaces_the_charge(self, backend):
        reservation = die(backend, charge=15)
        state(backend)
        assert backend.settle(reservation, 40).states == (BudgetState(A, 100, 40),)
        assert state(backend) == BudgetState(A, 100, 40)

    def test_a_late_release_takes_the_charge_back(self, backend):
        reservation = die(backend, charge=15)
        state(backend)
        backend.settle(reservation, 0)
        assert state(backend) == BudgetState(A, 100, 0)

    def test_a_late_settlement_counts_once(self, backend):
        reservation = die(backend, charge=15)
        state(backend)
        backend.settle(reservation, 40)
        assert backend.settle(reservation, 40) == ((), ())
        assert state(backend) == BudgetState(A, 100, 40)

    def test_a_late_settlement_passes_marks(self, backend):
        reservation = die(backend, charge=15)
        state(backend)
        assert backend.settle(reservation, 40, [Mark(A, 0.4, 100)]).passed == (Mark(A, 0.4, 100),)

    def test_a_settlement_after_the_lease_that_nobody_noticed_is_an_ordinary_one(self, backend):
        backend.settle(die(backend, charge=15), 40)
        assert state(backend) == BudgetState(A, 100, 40)

    def test_a_dead_id_can_be_reserved_again(self, backend):
        take(backend, id="call-1", lease=INSTANT)
        time.sleep(INSTANT * 1.5)
        take(backend, id="call-1")
        assert state(backend) == BudgetState(A, 100, 10, 20, 1, 10)

    def test_renewing_keeps_alive(self, backend):
        # The longer one where the machine was too busy to renew the shorter one in time.
        for lease in (SHORT, 40 * SHORT):
            reservation = take(backend, lease=lease)
            if not backend.renew([reservation.id], LEASE):
                break
            backend.settle(reservation, 0)
        time.sleep(lease * 1.5)
        assert state(backend) == BudgetState(A, 100, 0, 20, 1)

    def test_renewing_tells_who_is_not_alive(self, backend):
        alive, dead, settled = take(backend), die(backend), take(backend)
        backend.settle(settled, 1)
        gone = {dead.id, settled.id, "never-there"}
        assert backend.renew([alive.id, *gone], LEASE) == gone

    def test_renewing_nothing_is_nothing(self, backend):
        assert backend.renew([], LEASE) == set()


class TestReset:
    def test_the_counter_starts_anew(self, backend):
        spend(backend, 50)
        take(backend)
        die(backend)
        state(backend)
        backend.reset(A)
        assert state(backend) == BudgetState(A, 100, 0)

    def test_a_late_settlement_does_not_land_in_the_new_life(self, backend):
        reservation = take(backend)
        backend.reset(A)
        backend.settle(reservation, 50, [Mark(A, 0.1, 100)])
        assert state(backend) == BudgetState(A, 100, 0)
        assert backend.pass_marks([Mark(A, 0.1, 100)])

    def test_a_late_settlement_still_lands_on_the_other_keys(self, backend):
        reservation = take(backend, hold(A), hold(B))
        backend.reset(A)
        take(backend, hold(A, amount=7))
        settlement = backend.settle(reservation, 50)
        assert settlement.states == (BudgetState(A, 100, 0, 7, 1), BudgetState(B, 100, 50))

    def test_an_expiry_does_not_land_in_the_new_life(self, backend):
        take(backend, hold(A), hold(B), lease=SHORT)
        backend.reset(A)
        time.sleep(SHORT * 1.5)
        assert backend.get_states([(A, 100), (B, 100)]) == (
            BudgetState(A, 100, 0),
            BudgetState(B, 100, 10, 0, 0, 10),
        )

    def test_a_correction_does_not_land_in_the_new_life(self, backend):
        reservation = die(backend)
        state(backend)
        backend.reset(A)
        backend.settle(reservation, 50)
        assert state(backend) == BudgetState(A, 100, 0)

    def test_marks_can_be_passed_again(self, backend):
        mark = Mark(A, 0.5, 100)
        assert spend(backend, 60, marks=[mark]).passed == (mark,)
        backend.reset(A)
        assert spend(backend, 60, marks=[mark]).passed == (mark,)

    def test_other_keys_are_left_alone(self, backend):
        spend(backend, 50, B)
        backend.reset(A)
        assert state(backend, B).used == 50

    def test_a_limit_that_was_set_stays(self, backend):
        backend.set_limit(A, 500)
        backend.reset(A)
        assert state(backend).limit == 500


class TestMarks:
    MARK = Mark(A, 0.5, 100)

    def test_a_mark_is_passed_when_it_is_reached(self, backend):
        assert spend(backend, 49, marks=[self.MARK]).passed == ()
        assert spend(backend, 1, marks=[self.MARK]).passed == (self.MARK,)

    def test_once(self, backend, store):
        spend(backend, 60, marks=[self.MARK])
        assert spend(backend, 60, marks=[self.MARK]).passed == ()
        assert spend(store.handle(), 60, marks=[self.MARK]).passed == ()

    def test_a_share_is_a_whole_number_of_tokens(self, backend):
        mark = Mark(A, 0.29, 100)
        assert spend(backend, 28, marks=[mark]).passed == ()
        assert spend(backend, 1, marks=[mark]).passed == (mark,)

    def test_several_at_once(self, backend):
        marks = [Mark(A, share, 100) for share in (0.5, 0.8, 1.0)]
        assert spend(backend, 85, marks=marks).passed == tuple(marks[:2])

    def test_of_several_keys(self, backend):
        reservation = take(backend, hold(A), hold(B, limit=1000))
        marks = [self.MARK, Mark(B, 0.5, 1000)]
        assert backend.settle(reservation, 60, marks).passed == (self.MARK,)

    def test_the_limit_that_was_set_counts(self, backend):
        backend.set_limit(A, 1000)
        assert spend(backend, 60, marks=[self.MARK]).passed == ()

    def test_what_is_held_does_not_reach_a_mark(self, backend):
        take(backend, hold(amount=90))
        assert spend(backend, 10, marks=[self.MARK]).passed == ()

    def test_they_can_be_passed_by_hand_once(self, backend):
        assert backend.pass_marks([self.MARK]) == (self.MARK,)
        assert backend.pass_marks([self.MARK]) == ()
        assert spend(backend, 60, marks=[self.MARK]).passed == ()

    def test_by_hand_after_they_were_reached_is_too_late(self, backend):
        spend(backend, 60, marks=[self.MARK])
        assert backend.pass_marks([self.MARK, Mark(A, 0.9, 100)]) == (Mark(A, 0.9, 100),)

    def test_another_handle_resets_and_it_is_noticed(self, backend, store):
        backend.pass_marks([self.MARK])
        store.handle().reset(A)
        assert backend.pass_marks([self.MARK]) == (self.MARK,)


class TestLimits:
    def test_a_new_key_has_the_configured_limit(self, backend):
        assert state(backend, limit=123) == BudgetState(A, 123, 0)

    def test_a_limit_that_was_set_wins(self, backend, store):
        store.handle().set_limit(A, 30)
        assert state(backend).limit == 30
        grant = backend.reserve(new(), [hold(need=31)], 10, LEASE)
        assert grant.refused == (A,)
        assert grant.states[0].limit == 30

    def test_a_raised_limit_makes_room(self, backend):
        spend(backend, 100)
        backend.set_limit(A, 200)
        assert take(backend, hold(need=100))

    def test_it_can_be_taken_back(self, backend):
        backend.set_limit(A, 30)
        backend.set_limit(A, None)
        assert state(backend).limit == 100

    def test_it_is_for_one_key(self, backend):
        backend.set_limit(A, 30)
        assert state(backend, B).limit == 100

    def test_the_configured_limit_may_change_between_calls(self, backend):
        take(backend, hold(limit=100))
        assert state(backend, limit=70).limit == 70

    @pytest.mark.parametrize("limit", [0, -1, 1.5, True, 2**53, "100"])
    def test_one_that_cannot_work_is_refused(self, backend, limit):
        with pytest.raises(ConfigurationError):
            backend.set_limit(A, limit)


HOSTILE = [
    "",
    "a",
    "a\0b",
    "a\0",
    "a\nb",
    "a b",
    "a:b",
    "a}b{",
    "*",
    "'; DROP TABLE counters; --",
    '"',
    "%s%d",
    "é",
    "e\u0301",
    "\u202e\u2028",
    "🦊",
    "\ud800",
    "\udfff",
    "x" * 10_000,
    "x" * 10_000 + "y",
]


class TestHostileIdentifiers:
    def test_none_is_taken_for_another(self, backend):
        keys = [BudgetKey("d", text) for text in HOSTILE] + [BudgetKey(text, "d") for text in HOSTILE]
        for n, key in enumerate(keys, start=1):
            spend(backend, n, key)
        states = backend.get_states([(key, 100) for key in keys])
        assert [each.used for each in states] == list(range(1, len(keys) + 1))

    def test_dimension_and_identifier_do_not_run_together(self, backend):
        spend(backend, 1, BudgetKey("a", "b:c"))
        assert state(backend, BudgetKey("a:b", "c")).used == 0

    @pytest.mark.parametrize("text", HOSTILE, ids=ascii)
    def test_every_verb_takes_them(self, backend, text):
        key = BudgetKey("d", text)
        reservation = take(backend, hold(key), id=f"id{text}")
        assert take(backend, hold(key), id=f"id{text}") == reservation
        assert backend.renew([reservation.id], LEASE) == set()
        backend.settle(reservation, 60, [Mark(key, 0.5, 100)])
        assert backend.pass_marks([Mark(key, 0.5, 100)]) == ()
        backend.set_limit(key, 70)
        assert state(backend, key) == BudgetState(key, 70, 60)
        backend.reset(key)
        assert state(backend, key).used == 0


class TestHandles:
    def test_a_closed_one_opens_again(self, backend):
        spend(backend, 5)
        backend.close()
        backend.close()
        assert state(backend).used == 5

    def test_states_come_in_the_order_asked_for(self, backend):
        spend(backend, 5, B)
        assert [each.key for each in backend.get_states([(B, 1), (A, 1), (C, 1)])] == [B, A, C]
        assert backend.get_states([]) == ()


class Clock:
    """The store's clock, set by hand. It starts on a Friday, half a minute before a minute's end."""

    def __init__(self):
        self.now = at(2026, 3, 27, 10, 59, 30)

    def __call__(self):
        return self.now


def at(*date):
    return datetime(*date, tzinfo=timezone.utc).timestamp()


MINUTE, HOUR, DAY, MONTH = map(calendar, ("minute", "hour", "day", "month"))
BERLIN = calendar("day", "Europe/Berlin", 6 * 60)
HALF = Mark(A, 0.5, 100)


class Ticking:
    """A store with a clock that a test sets."""

    @pytest.fixture(params=CLOCKED)
    def store_name(self, request):
        return request.param

    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def store(self, store_name, tmp_path, clock):
        store = STORES[store_name](tmp_path, clock=clock)
        yield store
        store.close()

    @pytest.fixture
    def other_store(self, store_name, tmp_path_factory, clock):
        store = STORES[store_name](tmp_path_factory.mktemp("other"), clock=clock)
        yield store
        store.close()


def test_a_store_in_memory_remembers_what_was_booked_for_another_for_a_day():
    clock = Clock()
    backend = MemoryBackend(clock=clock)
    for _ in range(100):
        clock.now += 3600
        elsewhere = Reservation(new(), (Held(A, "", 0),), 0)
        backend.settle(elsewhere, 1)
        backend.settle(elsewhere, 1)
    assert state(backend).used == 100
    assert len(backend._ended) <= 25


class TestCalendarWindows(Ticking):
    def test_a_window_ends_when_its_period_says_so(self, backend):
        assert state(backend, period=HOUR).resets_at == at(2026, 3, 27, 11)
        spend(backend, 7, period=HOUR)
        assert state(backend, period=HOUR) == BudgetState(A, 100, 7, resets_at=at(2026, 3, 27, 11))
        assert backend.get_states([Asked(A, 9, MONTH), Asked(B, 9, BERLIN), (C, 9)]) == (
            BudgetState(A, 9, 7, resets_at=at(2026, 4, 1)),
            BudgetState(B, 9, 0, resets_at=at(2026, 3, 28, 5)),
            BudgetState(C, 9, 0),
        )

    def test_every_answer_says_when(self, backend):
        end = at(2026, 3, 27, 11)
        grant = backend.reserve(new(), [hold(period=HOUR)], 10, LEASE)
        assert grant.states == (BudgetState(A, 100, 0, resets_at=end),)
        assert backend.settle(grant.reservation, 7).states == (BudgetState(A, 100, 7, resets_at=end),)
        refused = backend.reserve(new(), [hold(need=94, period=HOUR)], 10, LEASE)
        assert refused.states == (BudgetState(A, 100, 7, resets_at=end),)

    def test_a_full_budget_is_empty_in_the_next_window(self, backend, clock):
        spend(backend, 100, period=MINUTE)
        clock.now += 29.9
        assert backend.reserve(new(), [hold(period=MINUTE)], 10, LEASE).refused == (A,)
        clock.now += 0.1
        grant = backend.reserve(new(), [hold(period=MINUTE)], 10, LEASE)
        assert grant.reservation is not None
        assert grant.states == (BudgetState(A, 100, 0, resets_at=at(2026, 3, 27, 11, 1), previous_used=100),)

    def test_a_look_alone_finds_the_window_of_the_moment(self, backend, clock):
        spend(backend, 60, period=HOUR)
        for hours in range(1, 4):
            clock.now += 3600
            end = at(2026, 3, 27, 11 + hours)
            assert state(backend, period=HOUR) == BudgetState(
                A, 100, 0, resets_at=end, previous_used=60 if hours == 1 else 0
            )

    @pytest.mark.parametrize("looked", [True, False])
    def test_the_window_before_is_the_one_just_before_whether_or_not_anybody_looked(
        self, backend, clock, looked
    ):
        late = take(backend, hold(period=HOUR))
        spend(backend, 60, period=HOUR)
        clock.now += 3600
        if looked:
            state(backend, period=HOUR)
        clock.now += 3600
        assert state(backend, period=HOUR).previous_used == 0
        assert backend.settle(late, 7).states[0].previous_used == 0

    def test_a_late_settlement_finds_the_dead_of_the_life_after_its_own(self, backend, clock):
        late = take(backend, hold())
        backend.reset(A)
        take(backend, hold(), lease=1.0)
        clock.now += 2
        backend.get_states([])
        assert [(each.calls, each.expired) for each in backend.settle(late, 5).states] == [(0, 10)]

    def test_a_settlement_made_again_does_not_move_the_window(self, backend, clock):
        ended = take(backend, hold(period=MINUTE))
        backend.settle(ended, 0)
        clock.now -= 3600
        backend.settle(ended, 0)
        clock.now += 30
        # The window was entered by mistake; it goes on as the next of whoever comes first.
        assert state(backend, period=MINUTE).resets_at == at(2026, 3, 27, 10, 2)

    def test_a_reserve_made_again_moves_the_window_as_any_other(self, backend, clock):
        call = take(backend, hold(period=MINUTE))
        clock.now -= 3600
        assert take(backend, hold(period=MINUTE), id=call.id, lease=60.0) == call
        clock.now += 30
        end = at(2026, 3, 27, 10, 1)
        assert state(backend, period=MINUTE) == BudgetState(A, 100, 0, 20, 1, resets_at=end)
        assert backend.settle(call, 7).states == (BudgetState(A, 100, 7, resets_at=end),)

    def test_what_was_used_before_is_told(self, backend, clock):
        spend(backend, 60, period=HOUR)
        clock.now += 3600
        spend(backend, 30, period=HOUR)
        assert state(backend, period=HOUR).previous_used == 60
        clock.now += 3600
        assert spend(backend, 1, period=HOUR).states[0].previous_used == 30

    def test_what_is_held_across_the_end_is_no_burden_on_the_next_window(self, backend, clock):
        take(backend, hold(amount=100, period=MINUTE))
        clock.now += 30
        assert take(backend, hold(need=100, period=MINUTE))

    def test_a_late_settlement_belongs_to_the_window_of_its_reservation(self, backend, clock):
        late = take(backend, hold(period=MINUTE))
        clock.now += 30
        spend(backend, 5, period=MINUTE)
        settlement = backend.settle(late, 70, [HALF])
        assert settlement.passed == ()
        assert [(each.used, each.previous_used) for each in settlement.states] == [(5, 70)]
        assert state(backend, period=MINUTE)[2:6] == (5, 0, 0, 0)
        assert spend(backend, 45, marks=[HALF], period=MINUTE).passed == (HALF,)

    def test_also_when_it_is_the_first_to_see_the_new_window(self, backend, clock):
        late = take(backend, hold(period=MINUTE))
        clock.now += 30
        assert backend.settle(late, 70, [HALF]) == (
            (BudgetState(A, 100, 0, resets_at=at(2026, 3, 27, 11, 1), previous_used=70),),
            (),
        )

    def test_a_settlement_later_than_that_is_in_no_window(self, backend, clock):
        late = take(backend, hold(period=MINUTE))
        for _ in range(2):
            clock.now += 60
            spend(backend, 5, period=MINUTE)
        backend.settle(late, 70)
        assert state(backend, period=MINUTE)[2:] == (5, 0, 0, 0, at(2026, 3, 27, 11, 2), 5, 0)

    def test_a_late_settlement_counts_once(self, backend, clock):
        late = take(backend, hold(period=MINUTE))
        clock.now += 30
        backend.settle(late, 70)
        assert backend.settle(late, 70) == ((), ())
        assert state(backend, period=MINUTE).previous_used == 70

    def test_on_each_key_by_its_own_window(self, backend, clock):
        late = take(backend, hold(A, period=MINUTE), hold(B, period=DAY), hold(C))
        clock.now += 30
        states = backend.settle(late, 70).states
        assert [(each.used, each.previous_used) for each in states] == [(0, 70), (70, 0), (70, 0)]

    @pytest.mark.parametrize("noticed", ["before", "after"])
    def test_an_expiry_belongs_to_the_window_of_its_reservation(self, backend, clock, noticed):
        take(backend, hold(period=MINUTE), charge=15, lease=10)
        clock.now += 20
        if noticed == "before":
            assert state(backend, period=MINUTE).expired == 15
        clock.now += 10
        assert state(backend, period=MINUTE)[2:] == (0, 0, 0, 0, at(2026, 3, 27, 11, 1), 15, 0)

    def test_one_that_expires_in_the_next_window_too(self, backend, clock):
        late = take(backend, hold(period=MINUTE), charge=15, lease=45)
        clock.now += 30
        spend(backend, 1, period=MINUTE)
        clock.now += 20
        assert state(backend, period=MINUTE)[2:] == (1, 0, 0, 0, at(2026, 3, 27, 11, 1), 15, 0)
        backend.settle(late, 40)
        assert state(backend, period=MINUTE)[2:] == (1, 0, 0, 0, at(2026, 3, 27, 11, 1), 40, 0)

    def test_a_call_that_was_never_reserved_lands_in_the_window_of_the_moment(
        self, backend, other_store, clock
    ):
        spend(backend, 60, period=MINUTE)
        clock.now += 30
        lost = take(other_store.handle(), hold(period=MINUTE))
        assert backend.settle(lost, 40).states[0][2:] == (40, 0, 0, 0, at(2026, 3, 27, 11, 1), 60, 0)

    def test_thresholds_start_anew_with_the_window(self, backend, store, clock):
        assert spend(backend, 60, marks=[HALF], period=MINUTE).passed == (HALF,)
        assert spend(store.handle(), 10, marks=[HALF], period=MINUTE).passed == ()
        clock.now += 30
        assert spend(store.handle(), 40, marks=[HALF], period=MINUTE).passed == ()
        assert spend(backend, 10, marks=[HALF], period=MINUTE).passed == (HALF,)
        assert spend(store.handle(), 10, marks=[HALF], period=MINUTE).passed == ()

    def test_a_mark_passed_by_hand_can_be_passed_again_in_the_next_window(self, backend, clock):
        spend(backend, 60, period=MINUTE)
        backend.pass_marks([HALF])
        clock.now += 30
        assert backend.reserve(new(), [hold(need=101, period=MINUTE)], 0, LEASE).refused == (A,)
        assert backend.pass_marks([HALF]) == (HALF,)
        assert backend.reserve(new(), [hold(need=101, period=MINUTE)], 0, LEASE).refused == (A,)
        assert backend.pass_marks([HALF]) == ()

    def test_a_clock_set_back_goes_on_with_the_running_window(self, backend, clock):
        spend(backend, 60, period=MINUTE)
        clock.now += 30
        spend(backend, 20, period=MINUTE)
        clock.now -= 30
        for _ in range(2):
            found = spend(backend, 1, period=MINUTE).states[0]
            assert found == state(backend, period=MINUTE)
            assert (found.resets_at, found.previous_used) == (at(2026, 3, 27, 11, 1), 60)
        clock.now += 30
        assert state(backend, period=MINUTE).used == 22
        clock.now += 60
        assert state(backend, period=MINUTE)[2:] == (0, 0, 0, 0, at(2026, 3, 27, 11, 2), 22, 0)

    def test_a_clock_that_was_years_ahead_for_a_moment_blocks_nobody_for_years(self, backend, clock):
        spend(backend, 60, period=DAY)
        clock.now += 10 * 365 * 86400
        spend(backend, 20, period=DAY)
        clock.now -= 10 * 365 * 86400
        assert spend(backend, 1, period=DAY).states[0][2:] == (21, 0, 0, 0, at(2026, 3, 29), 0, 0)
        clock.now = at(2026, 3, 28, 12)
        assert state(backend, period=DAY).used == 21
        clock.now = at(2026, 3, 29)
        assert state(backend, period=DAY)[2:] == (0, 0, 0, 0, at(2026, 3, 30), 21, 0)

    def test_a_reset_starts_anew_within_the_window(self, backend, clock):
        spend(backend, 60, period=MINUTE)
        clock.now += 30
        late = take(backend, hold(period=MINUTE))
        backend.reset(A)
        clean = BudgetState(A, 100, 0, resets_at=at(2026, 3, 27, 11, 1))
        assert state(backend, period=MINUTE) == clean
        backend.settle(late, 5)
        assert state(backend, period=MINUTE) == clean
        clock.now += 60
        assert state(backend, period=MINUTE).previous_used == 0

    def test_a_limit_that_was_set_stays(self, backend, clock):
        backend.set_limit(A, 500)
        spend(backend, 60, period=MINUTE)
        clock.now += 30
        assert state(backend, period=MINUTE).limit == 500

    def test_the_same_id_again_after_the_window_is_the_same_reservation(self, backend, clock):
        first = take(backend, hold(period=MINUTE), id="call-1")
        clock.now += 30 - LEASE / 2 + 10
        assert take(backend, hold(period=MINUTE), id="call-1") == first
        clock.now += LEASE / 2
        again = backend.reserve("call-1", [hold(period=MINUTE)], 10, LEASE)
        assert again.reservation == first
        assert again.states[0].reserved == 0
        assert state(backend, period=MINUTE).calls == 0

    def test_a_budget_that_ran_for_ever_starts_anew_when_it_gets_windows(self, backend, clock):
        spend(backend, 1000)
        found = state(backend, period=HOUR)
        assert (found.used, found.previous_used) == (0, 1000)
        assert spend(backend, 1, period=HOUR).states[0].used == 1

    def test_a_longer_period_goes_on_with_what_the_shorter_one_counted(self, backend, clock):
        spend(backend, 60, period=HOUR)
        assert state(backend, period=DAY) == BudgetState(A, 100, 60, resets_at=at(2026, 3, 28))
        clock.now += 7200
        assert spend(backend, 1, period=DAY).states[0].used == 61

    def test_whoever_knows_no_policy_is_told_the_period(self, backend, store, clock):
        spend(backend, 60, A, period=BERLIN)
        spend(backend, 50, B)
        spend(backend, 40, C, period=rolling(3600.0))
        known = {each.key: each.period for each in store.handle().budgets()}
        assert known == {A: BERLIN, B: None, C: rolling(3600.0)}

    def test_other_keys_are_left_alone(self, backend, clock):
        spend(backend, 60, period=MINUTE)
        spend(backend, 50, B)
        clock.now += 30
        assert backend.get_states([Asked(A, 100, MINUTE), (B, 100)])[1] == BudgetState(B, 100, 50)


class TestRollingWindows(Ticking):
    """Of an hour, so in steps of a minute; each test starts half way through one."""

    LAST = rolling(3600.0)

    def test_what_is_settled_is_forgotten_after_the_window_and_at_most_a_step(self, backend, clock):
        spend(backend, 60, period=self.LAST)
        clock.now += 3600
        assert state(backend, period=self.LAST) == BudgetState(A, 100, 60)
        clock.now += 60
        assert state(backend, period=self.LAST) == BudgetState(A, 100, 0)

    def test_bit_by_bit(self, backend, clock):
        for _ in range(4):
            spend(backend, 20, period=self.LAST)
            clock.now += 1200
        assert state(backend, period=self.LAST).used == 60
        assert backend.reserve(new(), [hold(need=41, period=self.LAST)], 10, LEASE).refused == (A,)
        clock.now += 60
        assert take(backend, hold(need=41, period=self.LAST))

    def test_it_counts_from_the_settlement(self, backend, clock):
        call = take(backend, hold(period=self.LAST))
        clock.now += 1800
        backend.settle(call, 60)
        clock.now += 3600
        assert state(backend, period=self.LAST).used == 60

    def test_a_charge_is_forgotten_too(self, backend, clock):
        take(backend, hold(period=self.LAST), charge=15, lease=10)
        clock.now += 20
        assert state(backend, period=self.LAST) == BudgetState(A, 100, 15, expired=15)
        clock.now += 3661
        assert state(backend, period=self.LAST) == BudgetState(A, 100, 0)

    def test_a_late_settlement_replaces_the_charge_from_its_own_moment_on(self, backend, clock):
        late = take(backend, hold(period=self.LAST), charge=15, lease=10)
        clock.now += 20
        state(backend, period=self.LAST)
        clock.now += 1800
        assert backend.settle(late, 40).states == (BudgetState(A, 100, 40),)
        clock.now += 3600
        assert state(backend, period=self.LAST).used == 40

    def test_a_late_settlement_of_a_charge_that_is_forgotten_counts_in_full(self, backend, clock):
        late = take(backend, hold(period=self.LAST), charge=15, lease=10)
        clock.now += 20
        state(backend, period=self.LAST)
        clock.now += 7200
        assert backend.settle(late, 40).states == (BudgetState(A, 100, 40),)

    def test_a_mark_is_passed_again_once_used_has_fallen_below_it(self, backend, store, clock):
        assert spend(backend, 60, marks=[HALF], period=self.LAST).passed == (HALF,)
        clock.now += 1800
        assert spend(store.handle(), 60, marks=[HALF], period=self.LAST).passed == ()
        clock.now += 1900
        assert spend(store.handle(), 1, marks=[HALF], period=self.LAST).passed == ()
        clock.now += 1800
        assert spend(backend, 48, marks=[HALF], period=self.LAST).passed == ()
        assert spend(store.handle(), 1, marks=[HALF], period=self.LAST).passed == (HALF,)
        assert spend(backend, 1, marks=[HALF], period=self.LAST).passed == ()

    def test_a_mark_passed_by_hand_waits_until_nothing_is_left(self, backend, clock):
        spend(backend, 20, period=self.LAST)
        backend.pass_marks([HALF])
        clock.now += 120
        spend(backend, 20, period=self.LAST)
        clock.now += 3600
        assert state(backend, period=self.LAST).used == 20
        assert backend.pass_marks([HALF]) == ()
        clock.now += 120
        assert state(backend, period=self.LAST).used == 0
        assert backend.pass_marks([HALF]) == (HALF,)

    def test_a_clock_set_back_forgets_nothing_and_keeps_nothing_for_longer(self, backend, clock):
        spend(backend, 60, period=self.LAST)
        clock.now -= 86400
        assert state(backend, period=self.LAST).used == 60
        clock.now += 3600
        assert spend(backend, 1, period=self.LAST).states[0].used == 61
        clock.now += 60
        assert state(backend, period=self.LAST).used == 1

    def test_a_reset_forgets_everything(self, backend, clock):
        spend(backend, 60, period=self.LAST)
        backend.reset(A)
        assert state(backend, period=self.LAST) == BudgetState(A, 100, 0)
        spend(backend, 5, period=self.LAST)
        clock.now += 120
        assert state(backend, period=self.LAST).used == 5

    def test_another_length_goes_on_with_what_was_counted(self, backend, clock):
        spend(backend, 60, period=self.LAST)
        clock.now += 1800
        assert state(backend, period=rolling(60.0)).used == 60
        clock.now += 62
        assert state(backend, period=rolling(60.0)).used == 0

    @pytest.mark.parametrize(("one", "other"), [(DAY, LAST), (LAST, DAY)])
    def test_calendar_and_rolling_windows_hand_over_what_was_counted(self, backend, clock, one, other):
        spend(backend, 60, period=one)
        assert spend(backend, 1, period=other).states[0].used == 61
        assert state(backend, period=one).used == 61

    def test_the_memory_of_a_key_is_bounded(self, backend, clock):
        for n in range(400):
            clock.now += 37
            spend(backend, n, period=self.LAST)
        counted = [(400 - n) * 37 for n in range(400) if (400 - n - 1) * 37 < 3600]
        assert state(backend, period=self.LAST).used in {
            sum(range(400 - kept, 400)) for kept in (len(counted), len(counted) + 1, len(counted) + 2)
        }
        assert len(steps_of(backend)) <= 61


def steps_of(backend):
    """What a store keeps of the steps of A's rolling window, wherever that is."""
    backend = getattr(backend, "_backend", backend)
    if hasattr(backend, "_counters"):
        return backend._counters[A].slots
    if hasattr(backend, "_books"):
        return backend._books.cursor.execute("SELECT * FROM slots").fetchall()
    verbs = backend._verbs
    (group,) = verbs._groups([A])
    script = Script("", "return redis.call('HGET', KEYS[1], 's')")
    return backend._call(Call(group.slot, script, group.keys, [])).split()


class TestGrants(Ticking):
    def test_a_grant_makes_room(self, backend, store):
        spend(backend, 100)
        store.handle().grant(A, 50)
        assert state(backend) == BudgetState(A, 150, 100, granted=50)
        assert backend.reserve(new(), [hold(need=51)], 10, LEASE).refused == (A,)
        assert take(backend, hold(need=50))

    def test_grants_add_up(self, backend):
        backend.grant(A, 50)
        backend.grant(A, 25)
        assert state(backend).limit == 175

    def test_elastic_holds_may_take_it(self, backend):
        backend.grant(A, 50)
        assert take(backend, hold(amount=500, elastic=True)).holds[0].amount == 150

    def test_it_comes_on_top_of_a_limit_that_was_set(self, backend):
        backend.set_limit(A, 10)
        backend.grant(A, 50)
        assert state(backend).limit == 60
        backend.set_limit(A, None)
        assert state(backend).limit == 150

    def test_marks_go_by_it(self, backend):
        backend.grant(A, 100)
        assert spend(backend, 99, marks=[HALF]).passed == ()
        assert spend(backend, 1, marks=[HALF]).passed == (HALF,)

    def test_it_is_for_one_key(self, backend):
        backend.grant(A, 50)
        assert state(backend, B).limit == 100

    def test_without_windows_it_lasts_until_a_reset(self, backend, clock):
        backend.grant(A, 50)
        clock.now += 1e8
        assert state(backend).limit == 150
        backend.reset(A)
        assert state(backend) == BudgetState(A, 100, 0)

    def test_it_ends_with_the_window(self, backend, clock):
        spend(backend, 100, period=MINUTE)
        backend.grant(A, 50, MINUTE)
        assert spend(backend, 1, period=MINUTE).states[0].limit == 150
        clock.now += 30
        assert state(backend, period=MINUTE)[1:3] == (100, 0)
        assert state(backend, period=MINUTE).granted == 0

    def test_it_is_for_the_window_of_the_moment_though_nobody_called_yet(self, backend, clock):
        spend(backend, 100, period=MINUTE)
        clock.now += 30
        backend.grant(A, 50, MINUTE)
        assert spend(backend, 1, period=MINUTE).states[0][1:3] == (150, 1)
        clock.now += 60
        assert state(backend, period=MINUTE).limit == 100

    def test_one_before_the_first_call_counts_in_the_first_window(self, backend, clock):
        backend.grant(A, 50)
        assert spend(backend, 1, period=MINUTE).states[0][1:3] == (150, 1)
        clock.now += 30
        assert state(backend, period=MINUTE).limit == 100

    def test_in_a_rolling_window_it_lasts_as_long(self, backend, clock):
        hour = rolling(3600.0)
        backend.grant(A, 50, hour)
        clock.now += 3600
        assert state(backend, period=hour) == BudgetState(A, 150, 0, granted=50)
        clock.now += 60
        assert state(backend, period=hour) == BudgetState(A, 100, 0)

    def test_what_has_no_limit_still_has_none(self, backend):
        backend.grant(A, 50)
        assert state(backend, limit=UNLIMITED).limit == UNLIMITED

    @pytest.mark.parametrize("tokens", [0, -1, 1.5, True, 2**53, "100"])
    def test_one_that_cannot_work_is_refused(self, backend, tokens):
        with pytest.raises(ConfigurationError):
            backend.grant(A, tokens)
