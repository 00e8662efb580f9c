"""A step of a SQLite store goes the straight way or is looked at closely: nobody can tell which."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencap._entry import Entry
from tokencap.backends._sqlite_books import WRITE, Books
from tokencap.backends._sqlite_straight import StraightBooks
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.budget import BudgetKey, Hold, Mark

KEYS = [BudgetKey("tenant", "acme"), BudgetKey("session", "s")]
ABOUT = '{"p":"openai","e":"/x","m":"m","i":{}}'


def closely(verb):
    def look(books, *args):
        books.cursor.execute(WRITE)
        return verb(books, *args)

    return look


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


keys = st.sampled_from(KEYS)
counts = st.integers(0, 60)
reserves = st.tuples(
    st.just("reserve"), st.integers(0, 5), keys, st.sampled_from([100, 150]),
    st.sampled_from([None, 0.29, 0.5, 1.0]), counts, counts, st.booleans(), st.sampled_from(["", ABOUT]),
)  # fmt: skip
settles = st.tuples(
    st.just("settle"), st.integers(0, 5), counts, st.lists(st.sampled_from([0.29, 0.5, 1.0]), unique=True),
    st.booleans(),
)  # fmt: skip
changes = st.one_of(
    st.tuples(st.just("limit"), keys, st.sampled_from([None, 50, 200])),
    st.tuples(st.just("grant"), keys, st.integers(1, 50)),
    st.tuples(st.just("reset"), keys),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.4, 3.0, 90_000.0])),
    st.tuples(st.just("reopen")),
)
plays = st.lists(st.one_of(reserves, settles, reserves, settles, changes), max_size=40)


def play(moves, path):
    """Return every answer, with the id of the store taken out."""
    clock, granted, answers = Clock(), {}, []
    backend = SQLiteBackend(path, clock=clock)
    prefix = ""
    for move, *said in moves:
        if move == "reserve":
            n, key, limit, ceiling, need, more, elastic, about = said
            hold = Hold(key, limit, ceiling, need, need + more, elastic)
            answer = backend.reserve(f"call-{n}", [hold], need, 2.0, about)
            if answer.reservation is not None:
                granted[n] = answer.reservation
                prefix = answer.reservation.holds[0].epoch.split(":")[0]
        elif move == "settle":
            n, tokens, shares, noted = said
            if n not in granted:
                continue
            marks = [Mark(granted[n].holds[0].key, share, 100) for share in shares]
            entry = Entry(ABOUT, "ok", tokens, 0, seconds=0.5) if noted else None
            answer = backend.settle(granted[n], tokens, marks, entry)
        elif move == "limit":
            answer = backend.set_limit(*said)
        elif move == "grant":
            answer = backend.grant(*said)
        elif move == "reset":
            answer = backend.reset(*said)
        elif move == "wait":
            answer, clock.now = None, clock.now + said[0]
        else:
            answer = backend.close()
        answers.append(repr(answer).replace(prefix or "?", "store"))
    answers += [repr(backend.get_states([(key, 100) for key in KEYS])), repr([*backend.calls(0, 2**40)])]
    backend.close()
    return answers


@given(plays)
def test_both_ways_lead_to_the_same(moves):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        straight = play(moves, Path(folder) / "straight.db")
        patch.setattr(StraightBooks, "reserve", closely(Books.reserve))
        patch.setattr(StraightBooks, "settle", closely(Books.settle))
        assert play(moves, Path(folder) / "closely.db") == straight


@pytest.fixture
def looks(monkeypatch):
    """Counts the steps that were looked at closely."""
    counted = []
    for name in ("reserve", "settle"):
        verb = getattr(Books, name)
        monkeypatch.setattr(Books, name, lambda *args, verb=verb: counted.append(1) or verb(*args))
    return counted


def spend(backend, id, tokens=5, marks=()):
    grant = backend.reserve(id, [Hold(KEYS[0], 10_000, 1.0, 10, 10)], 10, 60.0, ABOUT)
    return backend.settle(grant.reservation, tokens, marks, Entry(ABOUT, "ok", tokens, 0))


def test_what_is_ordinary_goes_the_straight_way(tmp_path, looks):
    backend = SQLiteBackend(tmp_path / "tokencap.db", clock=Clock())
    spend(backend, "first")
    assert len(looks) == 2
    for n in range(200):
        spend(backend, f"call-{n}", marks=[Mark(KEYS[0], 0.9, 10_000)])
    assert len(looks) == 2
    assert backend.get_states([(KEYS[0], 1000)])[0].used == 1005
    backend.close()


def test_a_budget_out_of_the_ordinary_is_not_tried_again_at_once(tmp_path, looks):
    clock = Clock()
    backend = SQLiteBackend(tmp_path / "tokencap.db", clock=clock)
    spend(backend, "first")
    backend.set_limit(KEYS[0], 5000)
    tried = []
    for n in range(3):
        spend(backend, f"call-{n}")
        backend._opened.connection.set_trace_callback(tried.append)
    assert len(looks) == 2 + 2 * 3
    assert not [text for text in tried if "reserving" in text or "entering" in text]
    backend.set_limit(KEYS[0], None)
    clock.now += 2
    spend(backend, "sweeps")
    clock.now += 0.5
    del looks[:]
    spend(backend, "straight")
    assert not looks
    backend.close()


def test_two_rows_of_the_ledger_in_the_same_microsecond_are_both_kept(tmp_path, looks):
    clock = Clock()
    one, other = (SQLiteBackend(tmp_path / "tokencap.db", clock=clock) for _ in range(2))
    for backend in (one, other):
        spend(backend, f"first of {id(backend)}")
    del looks[:]
    spend(one, "one")
    # `other` was at the microsecond before, and takes the one that is taken now.
    spend(other, "two")
    assert looks
    assert one.get_states([(KEYS[0], 1000)])[0].used == 20
    assert len({at for at, _ in one.calls(0, 2**40)}) == 4
    one.close()
    other.close()


def test_what_ended_before_is_not_settled_again(tmp_path):
    backend = SQLiteBackend(tmp_path / "tokencap.db")
    for n in itertools.count():
        grant = backend.reserve(f"call-{n}", [Hold(KEYS[0], 10_000, 1.0, 10, 10)], 10, 60.0, ABOUT)
        assert backend.settle(grant.reservation, 5, (), Entry(ABOUT, "ok", 5, 0)).states
        assert not backend.settle(grant.reservation, 5, (), Entry(ABOUT, "ok", 5, 0)).states
        if n == 2:
            break
    (state,) = backend.get_states([(KEYS[0], 1000)])
    assert (state.used, state.reserved, state.calls) == (15, 0, 0)
    assert len([*backend.calls(0, 2**40)]) == 3
    backend.close()
