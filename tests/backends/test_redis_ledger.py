"""The ledger of a Redis store: what is kept of it, for how long, and what it leaves behind."""

from __future__ import annotations

import uuid

import pytest

from backends.redis_servers import fresh_prefix, shared_server
from tokencap._entry import EVER, Entry, Label
from tokencap.backends.redis import RedisBackend
from tokencap.budget import BudgetKey, Hold
from tokencap.ledger import Retention

pytestmark = pytest.mark.service

GPT = Label("openai", "/chat/completions", "gpt-4o", "gpt-4o", {"tenant": "acme"}, {}).text()
MINI = Label("openai", "/chat/completions", "gpt-4o", "mini", {"tenant": "acme"}, {}).text()
A, B = BudgetKey("tenant", "acme"), BudgetKey("session", "s")
DAY = 86_400
NOON = 20_000 * DAY + 43_200.0


@pytest.fixture
def server():
    return shared_server()


@pytest.fixture
def clock(server):
    if server.version() < (7,):
        pytest.skip("a stream takes the time of a clock of ours from Redis 7 on; without it, its own")
    return [NOON]


@pytest.fixture
def backend(server, clock):
    backend = open_with(server, clock, Retention(days=30, rows=100_000))
    yield backend
    backend.close()


def open_with(server, clock, retention):
    backend = RedisBackend(server.url, prefix=fresh_prefix(), retention=retention)
    backend._verbs.clock = lambda: clock[0]
    return backend


def entry(number=1, label=GPT, ending="ok"):
    return Entry(label, ending, number, 10)


def take(backend, *keys, about=GPT, lease=30.0):
    holds = [Hold(key, 10**9, 1.0, 1, 1) for key in keys or (A,)]
    return backend.reserve(uuid.uuid4().hex, holds, 7, lease, about).reservation


def inputs(backend, since=0.0, until=EVER):
    return [row.input for _, row in backend.calls(since, until)]


def total(backend, since=0.0, until=EVER, period=0):
    return sum(each.input for each in backend.sums(since, until, period))


def keys_of(backend, server, ending):
    return sorted(server.admin("KEYS", f"{backend._verbs.prefix}:{ending}"))


def test_days_are_remembered_when_their_calls_are_not(server, clock):
    backend = open_with(server, clock, Retention(days=30, rows=1))
    for _ in range(1_000):
        backend.record([entry(1), entry(2, MINI)])
        clock[0] += 5 * DAY / 1_000
    kept = len(inputs(backend))
    assert kept < 500
    assert total(backend) == 3_000
    assert total(backend, period=DAY) == 3_000
    found = {(each.label, each.period): each.calls for each in backend.sums(0.0, EVER, DAY)}
    assert len(found) == 12
    assert found[MINI, 20_002 * DAY] == 200
    assert total(backend, since=20_001.0 * DAY, until=20_003.0 * DAY) == 1_200
    backend.close()


def test_a_range_that_begins_within_a_day_is_exact(backend, clock):
    for number in (1, 2, 4, 8):
        backend.record([entry(number)])
        clock[0] += 10 * 3_600
    # Noon, 22:00, 08:00 and 18:00 of the next day; it is 04:00 of the day after.
    assert total(backend) == 15
    assert total(backend, since=NOON + 1) == 14
    assert total(backend, since=NOON + 9 * 3_600, until=NOON + 25 * 3_600) == 6
    assert total(backend, since=NOON + 20 * 3_600, until=NOON + 21 * 3_600) == 4
    assert total(backend, until=NOON + 30 * 3_600) == 7
    assert sorted(each.period for each in backend.sums(NOON, EVER, 3_600)) == [
        NOON, NOON + 10 * 3_600, NOON + 20 * 3_600, NOON + 30 * 3_600,
    ]  # fmt: skip


def test_what_is_kept_ends_by_itself(backend, server):
    backend.record([entry()])
    (day,) = keys_of(backend, server, "*:y:*")
    assert 30 * DAY < int(server.admin("TTL", day)) <= 32 * DAY


def test_calls_that_are_too_old_go_with_a_new_day(server, clock):
    backend = open_with(server, clock, Retention(days=2, rows=100_000))
    for _ in range(10):
        backend.record([entry(n) for n in range(200)])
        clock[0] += DAY
    assert min(at for at, _ in backend.calls(0.0, EVER)) >= NOON + 5 * DAY
    backend.close()


def test_a_call_that_has_ended_leaves_nothing_beside_its_row(backend, server):
    backend.settle(take(backend, A, B), 5, (), entry())
    backend.settle(take(backend, A, B), 0)
    for counter in keys_of(backend, server, "*:c"):
        assert not [field for field in server.admin("HKEYS", counter) if field.startswith(b"a:")]


def test_what_an_expired_call_leaves_is_forgotten_a_day_later(backend, server, clock):
    take(backend, A, B)
    clock[0] += 31
    assert backend.get_states([(A, 10**9)])[0].expired == 7
    assert inputs(backend) == [7]
    clock[0] += DAY + 1
    backend.settle(take(backend, A), 1)
    clock[0] += 31
    take(backend, A)
    clock[0] += 31
    backend.get_states([(A, 10**9), (B, 10**9)])
    (counter,) = keys_of(backend, server, "*acme*:c")
    fields = [field for field in server.admin("HKEYS", counter) if field.startswith(b"a:")]
    assert len(fields) == 1


def test_a_row_that_is_taken_back_leaves_the_sums_of_its_day(backend, clock):
    clock[0] = 20_001 * DAY - 10.0
    reservation = take(backend, A, B)
    clock[0] += 60
    backend.get_states([(A, 10**9), (B, 10**9)])
    assert [(each.ending, each.input) for each in backend.sums(0.0, EVER)] == [("expired", 7)]
    clock[0] += 60
    backend.settle(reservation, 0)
    assert list(backend.sums(0.0, EVER)) == []
    assert list(backend.sums(0.0, EVER, 3_600)) == []


def test_the_same_attempt_made_twice_writes_one_row(backend):
    reservation = take(backend)
    verbs = backend._verbs
    verbs._head = lambda: ["", "one-attempt"]  # as when the answer of the first was lost
    for _ in range(2):
        backend.settle(reservation, 5, (), entry(5))
    assert inputs(backend) == [5]


def test_a_server_that_was_emptied_starts_a_new_ledger(backend, server):
    reservation = take(backend)
    for name in server.admin("KEYS", f"{backend._verbs.prefix}:*"):
        server.admin("DEL", name)
    assert inputs(backend) == []
    backend.settle(reservation, 5, (), entry(5))
    assert inputs(backend) == [5]


def test_another_prefix_is_another_ledger(backend, server):
    backend.record([entry()])
    other = RedisBackend(server.url, prefix=backend._verbs.prefix + "x")
    assert inputs(other) == []
    assert list(other.budgets()) == []
    other.close()


def test_of_the_labels_of_a_day_only_those_of_the_calls_are_read_and_once(backend, monkeypatch):
    labels = [GPT.replace("acme", f"tenant-{n}") for n in range(40)]
    for label in labels:
        backend.record([entry(label=label)] * 2)
    asked = []
    ask = backend._verbs.ask
    monkeypatch.setattr(backend._verbs, "ask", lambda slot, *rest: asked.append(rest) or ask(slot, *rest))
    newest = backend.calls(0.0, EVER, newest_first=True)
    assert [next(newest)[1].label for _ in range(4)] == [labels[-1]] * 2 + [labels[-2]] * 2
    assert [row.label for _, row in backend.calls(0.0, EVER)] == [each for each in labels for _ in range(2)]
    assert [name for name, *_ in asked] == ["rows", "labels", "rows"]
    assert sorted(asked[1][2]) == sorted(set(asked[1][2]))
    assert len(asked[1][2]) == 40
