"""Many threads, tasks and processes on one store: sums are exact and limits hold."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from forked import forks
from tokencap.budget import UNLIMITED, BudgetKey, BudgetState, Hold, Mark

KEYS = (BudgetKey("tenant", "acme"), BudgetKey("session", "s"))
LIMIT = 10_000
MARKS = tuple(Mark(key, share, LIMIT) for key in KEYS for share in (0.1, 0.5, 0.8, 1.0))


def spend(backend, calls, *, ceiling=None, passed=None, seed=None):
    """Make `calls` calls on both keys; return the tokens that were settled."""
    chance = random.Random(seed)
    total = 0
    for _ in range(calls):
        holds = [Hold(key, LIMIT, ceiling, 10, 100, ceiling is not None) for key in KEYS]
        grant = backend.reserve(uuid.uuid4().hex, holds, 10, 30.0)
        if grant.reservation is None:
            continue
        tokens = chance.randint(0, grant.reservation.holds[0].amount)
        settlement = backend.settle(grant.reservation, tokens, MARKS)
        total += tokens
        if passed is not None:
            passed.extend(settlement.passed)
    return total


def states(backend):
    return backend.get_states([(key, LIMIT) for key in KEYS])


def together(count, step):
    """Run `step(n)` in `count` threads that start at the same moment; return what they return."""
    barrier = threading.Barrier(count)

    def start(n):
        barrier.wait()
        return step(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def test_what_threads_spend_adds_up(store):
    handles = [store.handle(), store.handle()]
    spent = sum(together(8, lambda n: spend(handles[n % 2], 60)))
    assert states(handles[0]) == tuple(BudgetState(key, LIMIT, spent) for key in KEYS)


def test_threads_never_pass_the_limit_together(store):
    handles = [store.handle(), store.handle()]
    over = []
    done = threading.Event()

    def watch():
        while not done.is_set():
            over.extend(state for state in states(handles[1]) if state.used + state.reserved > LIMIT)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        spent = sum(together(8, lambda n: spend(handles[n % 2], 80, ceiling=1.0)))
    finally:
        done.set()
        watcher.join()
    assert over == []
    assert LIMIT - 10 <= spent <= LIMIT
    assert [state.used for state in states(handles[0])] == [spent, spent]


def test_a_mark_is_passed_by_one_of_many_threads(store):
    handles = [store.handle(), store.handle()]
    passed = []
    together(64, lambda n: spend(handles[n % 2], 5, passed=passed))
    used = states(handles[0])[0].used
    assert Counter(passed) == {mark: 1 for mark in MARKS if used >= mark.at_pct * LIMIT}
    assert passed


def test_a_mark_is_passed_by_hand_by_one_of_many_threads(store):
    handles = [store.handle(), store.handle()]
    assert sorted(sum(together(64, lambda n: handles[n % 2].pass_marks(MARKS)), ())) == sorted(MARKS)


def test_what_tasks_spend_adds_up(store):
    backend = store.handle()
    others = store.handle()
    flavour = backend.as_async()
    done = threading.Event()

    def disturb():
        while not done.is_set():
            others.set_limit(BudgetKey("session", "somebody else's"), 5)

    async def one(n):
        holds = [Hold(key, LIMIT, None, 10, 100) for key in KEYS]
        grant = await flavour.reserve(uuid.uuid4().hex, holds, 10, 30.0)
        await asyncio.sleep(0)
        return len((await flavour.settle(grant.reservation, n, MARKS)).passed)

    async def main():
        try:
            return sum(await asyncio.gather(*[one(n) for n in range(300)]))
        finally:
            await flavour.aclose()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        passed = asyncio.run(main())
    finally:
        done.set()
        disturber.join()
    assert passed == len(MARKS)
    assert states(backend) == tuple(BudgetState(key, LIMIT, sum(range(300))) for key in KEYS)


def a_process(opener, ceiling, seed):
    """Spend in another process; return the tokens and the marks it was the first to pass."""
    backend = opener()
    passed = []
    try:
        spent = together(2, lambda n: spend(backend, 100, ceiling=ceiling, passed=passed, seed=seed + n))
    finally:
        backend.close()
    return sum(spent), passed


@pytest.mark.parametrize(
    ("method", "ceiling"),
    [("spawn", 1.0), pytest.param("fork", None, marks=forks), pytest.param("fork", 1.0, marks=forks)],
)
def test_what_processes_spend_adds_up(store, method, ceiling):
    if not store.shared:
        pytest.skip("this store lives in one process")
    backend = store.handle()
    here = spend(backend, 1)  # so that a fork inherits an open store
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.starmap(a_process, [(store.opener, ceiling, 1), (store.opener, ceiling, 100)])
        pool.close()
        pool.join()
    spent = here + sum(tokens for tokens, _ in results)
    assert states(backend) == tuple(BudgetState(key, LIMIT, spent) for key in KEYS)
    if ceiling:
        assert LIMIT - 10 <= spent <= LIMIT
    passed = Counter(mark for _, marks in results for mark in marks)
    assert passed == {mark: 1 for mark in MARKS if spent >= mark.at_pct * LIMIT}


@forks
def test_a_fork_in_the_middle_of_everything_disturbs_nobody(store):
    backend = store.handle()
    key = BudgetKey("tenant", "acme")
    hold = [Hold(key, UNLIMITED, None, 1, 1)]
    counts = []
    done = threading.Event()

    def hammer():
        count = 0
        while not done.is_set():
            backend.settle(backend.reserve(uuid.uuid4().hex, hold, 1, 30.0).reservation, 1)
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    children = []
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for _ in range(5):
                        backend.settle(backend.reserve(uuid.uuid4().hex, hold, 1, 30.0).reservation, 1)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
    by_children = 50 if store.shared else 0
    (state,) = backend.get_states([(key, UNLIMITED)])
    assert state == BudgetState(key, UNLIMITED, sum(counts) + by_children)
