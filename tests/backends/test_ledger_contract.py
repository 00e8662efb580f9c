"""What the ledger of every store must do: a row for every call, with the commit that settles it."""

from __future__ import annotations

import time
import uuid

import pytest

from tokencap._audit import Who
from tokencap._entry import EVER, Ahead, Entry, Label
from tokencap._periods import rolling
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.protocol import AsyncLedgerBackend, LedgerBackend
from tokencap.budget import Asked, BudgetKey, Hold
from tokencap.errors import ConfigurationError

A = BudgetKey("tenant", "acme")
B = BudgetKey("session", "s-1")
GPT = Label("openai", "/chat/completions", "gpt-4o", "gpt-4o", {"tenant": "acme"}, {}).text()
HAIKU = Label(
    "anthropic", "/v1/messages", "opus", "haiku", {"tenant": "ümlaut\ud800"}, {"agent": "a;b c"}
).text()
INSTANT = 0.01
ME = Who("mo", "host-1")
LONG = BudgetKey("tenant", "ü" * 200)


def entry(label=GPT, ending="ok", *counts, **more):
    return Entry(label, ending, *counts, **more)


FULL = Entry(GPT, "cut", 1000, 200, 300, 400, 50, 999, True, 1.25)


def take(backend, *keys, about=GPT, lease=30.0, charge=10):
    holds = [Hold(key, 1000, 1.0, 10, 20) for key in keys or (A,)]
    grant = backend.reserve(uuid.uuid4().hex, holds, charge, lease, about)
    assert grant.reservation is not None
    return grant.reservation


def die(backend, *keys, charge=10, about=GPT):
    """A reservation whose owner is gone and whose death has been noticed."""
    reservation = take(backend, *keys, about=about, lease=INSTANT, charge=charge)
    time.sleep(INSTANT * 1.5)
    backend.get_states([(key, 1000) for key in keys or (A,)])
    return reservation


def rows(backend, **kwargs):
    return [row for _, row in backend.calls(0.0, EVER, **kwargs)]


def test_it_keeps_a_ledger(store):
    handle = store.handle()
    assert isinstance(handle, LedgerBackend)
    assert isinstance(handle.as_async(), AsyncLedgerBackend)


class TestRows:
    def test_a_settlement_writes_its_row(self, backend):
        backend.settle(take(backend, A, B), 1200, (), FULL)
        assert rows(backend) == [FULL]

    def test_a_row_has_the_time_of_the_store(self, backend):
        before = backend.now()
        backend.settle(take(backend), 5, (), entry())
        ((at, _),) = backend.calls(0.0, EVER)
        assert before - 0.01 <= at <= backend.now() + 0.01

    def test_without_an_entry_there_is_no_row(self, backend):
        backend.settle(take(backend), 5)
        assert rows(backend) == []

    def test_a_second_settlement_writes_none(self, backend):
        reservation = take(backend, A, B)
        for _ in range(2):
            backend.settle(reservation, 5, (), entry())
        assert rows(backend) == [entry()]

    def test_a_settlement_after_a_reset_writes_its_row_once(self, backend):
        reservation = take(backend)
        backend.reset(A)
        for _ in range(2):
            backend.settle(reservation, 5, (), entry())
        assert rows(backend) == [entry()]

    def test_a_lost_reservation_writes_its_row_once(self, backend, other_store):
        reservation = take(other_store.handle())
        for _ in range(2):
            backend.settle(reservation, 5, (), entry())
        assert rows(backend) == [entry()]

    def test_what_held_nothing_is_recorded(self, backend):
        backend.record([entry(GPT, "blocked", estimate=7), entry(HAIKU, "blocked")])
        assert rows(backend) == [entry(GPT, "blocked", estimate=7), entry(HAIKU, "blocked")]

    def test_recording_nothing_is_nothing(self, backend):
        backend.record([])
        assert rows(backend) == []

    def test_rows_come_in_order_of_time_either_way(self, backend):
        for number in range(5):
            backend.record([entry(GPT, "ok", number)])
        assert [row.input for row in rows(backend)] == [0, 1, 2, 3, 4]
        assert [row.input for row in rows(backend, newest_first=True)] == [4, 3, 2, 1, 0]

    def test_more_rows_than_a_page_come_in_order_once(self, backend):
        backend.record([entry(GPT, "ok", number) for number in range(2_500)])
        assert [row.input for row in rows(backend)] == list(range(2_500))
        assert [row.input for row in rows(backend, newest_first=True)] == list(range(2_500))[::-1]

    def test_a_range_includes_its_beginning_and_not_its_end(self, backend):
        for number in range(3):
            backend.record([entry(GPT, "ok", number)])
            time.sleep(0.005)
        times = [at for at, _ in backend.calls(0.0, EVER)]
        assert [row.input for _, row in backend.calls(times[1], times[2])] == [1]
        assert [each.input for each in backend.sums(times[1], times[2])] == [1]

    def test_another_handle_reads_them(self, backend, store):
        backend.settle(take(backend), 1200, (), FULL)
        assert rows(store.handle()) == [FULL]


class TestExpired:
    def test_a_call_whose_owner_died_leaves_a_row(self, backend):
        die(backend, A, B, charge=15, about=HAIKU)
        assert rows(backend) == [Entry(HAIKU, "expired", 15, estimate=15, estimated=True)]

    def test_once(self, backend):
        die(backend)
        backend.get_states([(A, 1000)])
        take(backend)
        assert len(rows(backend)) == 1

    def test_a_late_settlement_takes_its_place(self, backend):
        reservation = die(backend, A, B)
        backend.settle(reservation, 1200, (), FULL)
        assert rows(backend) == [FULL]
        assert [each.calls for each in backend.sums(0.0, EVER)] == [1]

    def test_a_late_release_of_a_call_never_made_takes_it_back(self, backend):
        backend.settle(die(backend), 0)
        assert rows(backend) == []
        assert sum(each.input for each in backend.sums(0.0, EVER)) == 0

    def test_without_a_label_there_is_no_row(self, backend):
        die(backend, about="")
        assert rows(backend) == []


class TestSums:
    def test_rows_are_summed_by_label_and_ending(self, backend):
        backend.record([FULL, FULL, entry(GPT, "ok", 5, 2), entry(HAIKU, "ok", 7, seconds=0.5)])
        found = {(each.label, each.ending): tuple(each[3:]) for each in backend.sums(0.0, EVER)}
        assert found == {
            (GPT, "cut"): (2, 2, 2000, 400, 600, 800, 100, 2.5),
            (GPT, "ok"): (1, 0, 5, 2, 0, 0, 0, 0.0),
            (HAIKU, "ok"): (1, 0, 7, 0, 0, 0, 0, 0.5),
        }

    def test_they_can_be_split_by_periods(self, backend):
        backend.record([entry(GPT, "ok", 1)])
        ((at, _),) = backend.calls(0.0, EVER)
        for period in (3_600, 86_400):
            (found,) = backend.sums(0.0, EVER, period)
            assert found.period == int(at // period) * period

    def test_a_range_may_begin_and_end_before_the_epoch(self, backend):
        backend.record([FULL])
        for period in (0, 3_600, 86_400):
            assert len(list(backend.sums(-6e10, EVER, period))) == 1
            assert list(backend.sums(-6e10, -5e10, period)) == []
        for newest_first in (False, True):
            assert len(list(backend.calls(-6e10, EVER, newest_first))) == 1
            assert list(backend.calls(-6e10, -5e10, newest_first)) == []

    def test_of_no_rows_there_are_none(self, backend):
        assert list(backend.sums(0.0, EVER)) == []
        assert list(backend.sums(0.0, EVER, 3_600)) == []

    def test_they_equal_what_the_counters_say(self, backend):
        for tokens in (7, 11, 13):
            backend.settle(take(backend), tokens, (), entry(GPT, "ok", tokens))
        die(backend, charge=5)
        late = die(backend, charge=6)
        backend.settle(late, 20, (), entry(GPT, "ok", 4, 16))
        assert sum(each.input + each.output for each in backend.sums(0.0, EVER)) == 56
        assert backend.get_states([(A, 1000)])[0].used == 56


class TestBudgets:
    def test_every_budget_is_known_with_its_limits(self, backend):
        take(backend, A, B)
        long = BudgetKey("tenant", "ümlaut:{x}*" + "y" * 300)
        backend.set_limit(long, 77)
        backend.set_limit(B, 500)
        known = {each.key: (each.limit, each.override) for each in backend.budgets()}
        assert known.pop(long)[1] == 77
        assert known == {A: (1000, None), B: (1000, 500)}

    def test_one_that_refused_its_first_call_is_not_said_to_have_no_limit(self, backend):
        refused = backend.reserve("first", [Hold(A, 5, 1.0, 10, 10)], 0, 30.0).refused
        assert refused == (A,)
        assert {each.limit for each in backend.budgets()} <= {5}

    def test_of_a_fresh_store_there_are_none(self, backend):
        assert list(backend.budgets()) == []

    def test_they_come_in_order(self, backend):
        for name in "cab":
            take(backend, BudgetKey("tenant", name))
        assert [each.key.identifier for each in backend.budgets()] == ["a", "b", "c"]


def test_a_store_in_memory_keeps_the_last_calls_only():
    from tokencap.ledger import Retention

    now = [1_000_000.0]
    backend = MemoryBackend(clock=lambda: now[0], retention=Retention(days=1, rows=3))
    for number in range(5):
        backend.record([entry(GPT, "ok", number)])
    assert [row.input for row in rows(backend)] == [2, 3, 4]
    now[0] += 86_401
    backend.record([entry(GPT, "ok", 5)])
    assert [row.input for row in rows(backend)] == [5]


class TestChanges:
    def test_a_change_says_what_was_and_what_is(self, backend):
        backend.settle(take(backend), 300)
        limit = backend.change(A, "limit", 5000, ME)
        grant = backend.change(A, "grant", 70, ME)
        reset = backend.change(A, "reset", None, ME)
        assert [change[2:] for change in (limit, grant, reset)] == [
            ("limit", 5000, ME, 1000, 5000, 300, 300),
            ("grant", 70, ME, 5000, 5070, 300, 300),
            ("reset", None, ME, 5070, 5000, 300, 0),
        ]
        assert backend.get_states([(A, 1000)])[0][1:4] == (5000, 0, 0)
        assert backend.change(A, "limit", None, ME)[2:] == ("limit", None, ME, 5000, 1000, 0, 0)

    def test_changes_are_noted_in_the_order_in_which_they_were_made(self, backend):
        before = backend.now()
        made = [
            backend.change(A, "limit", 5, ME),
            backend.change(LONG, "limit", 6, Who("ümlaut\ud800 b", "")),
            backend.change(A, "reset", None, ME),
        ]
        found = backend.changes()
        assert [change._replace(at=0.0) for change in found] == [change._replace(at=0.0) for change in made]
        assert before - 0.01 <= found[0].at <= found[1].at <= found[2].at <= backend.now() + 0.01

    def test_what_nobody_signs_is_not_noted(self, backend):
        backend.set_limit(A, 5)
        backend.grant(A, 5)
        backend.reset(A)
        assert backend.changes() == []

    def test_a_budget_with_windows_is_changed_in_the_window_of_the_moment(self, backend):
        hour = rolling(3600)
        hold = Hold(A, 1000, 1.0, 10, 20, period=hour)
        backend.settle(backend.reserve("a", [hold], 10, 30.0).reservation, 300)
        assert backend.change(A, "grant", 70, ME, hour)[5:] == (1000, 1070, 300, 300)
        assert backend.change(A, "reset", None, ME, hour)[5:] == (1070, 1000, 300, 0)
        assert backend.get_states([Asked(A, 1000, hour)])[0][1:4] == (1000, 0, 0)

    def test_a_change_that_makes_no_sense_is_refused(self, backend):
        for action, tokens in (("limit", 0), ("grant", None), ("reset", 5), ("rest", None)):
            with pytest.raises(ConfigurationError):
                backend.change(A, action, tokens, ME)
        assert backend.changes() == []


def test_a_budget_that_refused_its_first_call_is_known_with_its_limit(backend):
    grant = backend.reserve("a", [Hold(A, 100, 1.0, 500, 500), Hold(B, 9000, None, 0, 0)], 0, 30.0)
    assert grant.reservation is None
    assert [(known.key, known.limit) for known in backend.budgets()] == [(B, 9000), (A, 100)]


def test_a_budget_is_known_with_the_thresholds_of_whoever_came_last(store):
    first, second = store.handle(), store.handle()
    warn, more = "0.5=WARN;1.0=BLOCK", "0.25=DEGRADE,WEBHOOK"
    for backend, text in ((first, warn), (first, warn), (second, more)):
        hold = Hold(A, 1000, 1.0, 10, 20, thresholds=text)
        assert backend.reserve(uuid.uuid4().hex, [hold], 10, 30.0).reservation is not None
        (known,) = second.budgets()
        assert known.thresholds == Ahead.parse(text)
    refused = Hold(B, 10, 1.0, 50, 50, thresholds=warn)
    assert second.reserve("b", [refused], 10, 30.0).reservation is None
    assert second.budgets()[0].thresholds == (Ahead(0.5, ("WARN",)), Ahead(1.0, ("BLOCK",)))
