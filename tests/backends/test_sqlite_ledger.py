"""The ledger of a SQLite store: its size, its retention, and what reading it disturbs."""

from __future__ import annotations

import os
import sqlite3
import threading

import pytest

from tokencap._audit import Who
from tokencap._entry import EVER, Entry, Label
from tokencap.backends import _sqlite_ledger
from tokencap.backends._sqlite_schema import VERSION
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.budget import BudgetKey, BudgetState, Hold
from tokencap.errors import BackendError
from tokencap.ledger import Retention

GPT = Label("openai", "/chat/completions", "gpt-4o", "gpt-4o", {"tenant": "acme"}, {}).text()
A = BudgetKey("tenant", "acme")
STATED_BYTES_A_ROW = 64


def entry(number=0):
    return Entry(GPT, "ok", number)


def inputs(backend):
    return [row.input for _, row in backend.calls(0.0, EVER)]


def size(path):
    return os.path.getsize(path)


def test_a_row_takes_less_than_is_stated(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    backend.record([entry()])
    backend.close()
    before = size(tmp_path / "x.db")
    # As large as they come: a million tokens in, a hundred thousand out, an hour long.
    backend.record([Entry(GPT, "cut", 10**6, 10**5, 10**6, 10**6, 10**5, 10**6, True, 3_600.0)] * 20_000)
    backend.close()
    assert (size(tmp_path / "x.db") - before) / 20_000 < STATED_BYTES_A_ROW


def test_rows_of_many_sorts_take_no_more(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    labels = [
        Label("openai", "/chat/completions", "gpt", "gpt", {"tenant": str(n)}, {}).text() for n in range(100)
    ]
    backend.record(
        [Entry(labels[n % 100], "ok", 3_000, 700, 1_000, 0, 100, 2_900, False, 2.5) for n in range(20_000)]
    )
    backend.close()
    assert size(tmp_path / "x.db") / 20_000 < STATED_BYTES_A_ROW


def test_a_row_dirties_one_page_more(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")

    def log_pages(**more):
        sizes = []
        for _ in range(100):
            grant = backend.reserve(os.urandom(8).hex(), [Hold(A, 10**9, 1.0, 1, 1)], 1, 60.0)
            before = size(tmp_path / "x.db-wal")
            backend.settle(grant.reservation, 1, (), **more)
            sizes.append((size(tmp_path / "x.db-wal") - before) // (512 + 24))
        return sorted(sizes)[50]

    log_pages(entry=entry())
    assert log_pages(entry=entry()) - log_pages() == 1
    backend.close()


def test_rows_that_are_too_old_go_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(_sqlite_ledger, "_PRUNE_EVERY", 10)
    monkeypatch.setattr(_sqlite_ledger, "_PRUNED_AT_ONCE", 20)
    now = [1_000_000_000.0]
    backend = SQLiteBackend(tmp_path / "x.db", clock=lambda: now[0], retention=Retention(days=1))
    backend.record([entry(1)] * 100)
    now[0] += 86_400 + 1
    left = []
    for _ in range(12):
        backend.record([entry(2)] * 5)
        left.append(inputs(backend).count(1))
    assert left == sorted(left, reverse=True)
    assert left[0] >= 80
    assert left[-1] == 0
    assert inputs(backend) == [2] * 60
    backend.close()


def test_rows_that_are_too_many_go_from_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr(_sqlite_ledger, "_PRUNE_EVERY", 10)
    backend = SQLiteBackend(tmp_path / "x.db", retention=Retention(rows=100))
    for number in range(300):
        backend.record([entry(number)])
    kept = inputs(backend)
    assert 100 <= len(kept) <= 110
    assert kept == list(range(300 - len(kept), 300))
    backend.close()


def test_processes_that_live_for_one_call_prune_too(tmp_path):
    for number in range(10):
        backend = SQLiteBackend(tmp_path / "x.db", retention=Retention(rows=3))
        backend.record([entry(number)])
        backend.close()
    backend = SQLiteBackend(tmp_path / "x.db")
    assert inputs(backend) == [7, 8, 9]
    backend.close()


def test_labels_nobody_refers_to_go_too(tmp_path, monkeypatch):
    monkeypatch.setattr(_sqlite_ledger, "_PRUNE_EVERY", 1)
    now = [1_000_000_000.0]
    backend = SQLiteBackend(tmp_path / "x.db", clock=lambda: now[0], retention=Retention(days=2))
    for day in range(10):
        backend.record([Entry(Label("p", "/e", str(day), str(day), {}, {}).text(), "ok", day)])
        now[0] += 86_400
    assert [row.label for _, row in backend.calls(0.0, EVER)]
    backend.close()
    other = sqlite3.connect(tmp_path / "x.db")
    (labels,) = other.execute("SELECT count(*) FROM labels").fetchone()
    (orphans,) = other.execute(
        "SELECT count(*) FROM calls WHERE label NOT IN (SELECT id FROM labels)"
    ).fetchone()
    other.close()
    assert labels <= 5
    assert orphans == 0


def test_calls_of_the_same_microsecond_all_have_their_row(tmp_path):
    backends = [SQLiteBackend(tmp_path / "x.db", clock=lambda: 1_000_000_000.0) for _ in range(2)]
    for number in range(20):
        backends[number % 2].record([entry(number), entry(number)])
    assert sorted(inputs(backends[0])) == sorted([*range(20), *range(20)])
    for backend in backends:
        backend.close()


def test_a_clock_that_is_set_back_loses_no_row(tmp_path):
    now = [1_000_000_000.0]
    backend = SQLiteBackend(tmp_path / "x.db", clock=lambda: now[0])
    backend.record([entry(1)])
    now[0] -= 3_600
    backend.record([entry(2)])
    assert inputs(backend) == [2, 1]
    backend.close()


def test_reading_waits_for_no_writer_and_no_writer_for_it(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    backend.record([entry(n) for n in range(3_000)])
    writer = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert sum(each.calls for each in backend.sums(0.0, EVER)) == 3_000
    writer.execute("ROLLBACK")
    writer.close()
    reading = backend.calls(0.0, EVER)
    next(reading)
    backend.record([entry(3_000)])
    assert sum(1 for _ in reading) == 3_000
    backend.close()


def test_nobody_waits_while_a_long_answer_is_read(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    backend.record([entry()])
    with backend._reader._reading() as execute:
        assert execute("SELECT count(*) FROM calls").fetchone() == (1,)
        done = threading.Thread(target=backend.record, args=([entry(1)],))
        done.start()
        done.join(30)
        assert not done.is_alive()
        assert execute("SELECT count(*) FROM calls").fetchone() == (1,)
    assert inputs(backend) == [0, 1]
    backend.close()


def test_a_child_of_a_fork_reads_and_writes_like_its_parent(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    backend.record([entry(1)])
    reading = backend.calls(0.0, EVER)
    next(reading)
    child = os.fork()
    if child == 0:
        try:
            backend.record([entry(2)])
            os._exit(0 if inputs(backend) == [1, 2] else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert inputs(backend) == [1, 2]
    backend.close()


def test_counts_of_a_file_without_a_ledger_are_kept(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    grant = backend.reserve("call-1", [Hold(A, 100, 1.0, 10, 20)], 10, 60.0)
    backend.settle(grant.reservation, 33)
    open_call = backend.reserve("call-2", [Hold(A, 100, 1.0, 10, 20)], 10, 60.0).reservation
    backend.close()
    old = sqlite3.connect(tmp_path / "x.db")
    old.executescript(
        "DROP TABLE calls; DROP TABLE labels; DROP TABLE slots; DROP TABLE changes; DROP TABLE thresholds;"
        "ALTER TABLE holds DROP COLUMN about;"
        "ALTER TABLE ended DROP COLUMN entry; PRAGMA user_version = 1"
    )
    old.close()
    again = SQLiteBackend(tmp_path / "x.db")
    assert again.get_states([(A, 100)])[0][2:4] == (33, 20)
    again.settle(open_call, 7, (), entry(7))
    assert inputs(again) == [7]
    again.close()
    old = sqlite3.connect(tmp_path / "x.db")
    assert old.execute("PRAGMA user_version").fetchone() == (VERSION,)
    old.close()


def test_a_change_that_cannot_be_noted_is_not_made(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    backend.settle(backend.reserve("call", [Hold(A, 100, 1.0, 10, 20)], 10, 60.0).reservation, 33)
    other = sqlite3.connect(tmp_path / "x.db")
    other.executescript("DROP TABLE changes")
    other.close()
    for action, tokens in (("limit", 500), ("grant", 500), ("reset", None)):
        with pytest.raises(BackendError, match="no such table"):
            backend.change(A, action, tokens, Who("mo", "host-1"))
    assert backend.get_states([(A, 100)]) == (BudgetState(A, 100, 33),)
    backend.close()


def test_an_answer_that_cannot_be_read_is_an_error_of_the_store(tmp_path):
    backend = SQLiteBackend(tmp_path / "x.db")
    backend.record([entry()])
    other = sqlite3.connect(tmp_path / "x.db")
    other.executescript("DROP TABLE calls")
    other.close()
    with pytest.raises(BackendError, match="no such table"):
        backend.sums(0.0, EVER)
    backend.close()
