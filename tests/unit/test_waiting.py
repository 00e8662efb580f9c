"""Who waits for whom, where `wait=` is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends.redis_servers import until
from tokencap import Action, BudgetExceededError, BudgetKey, DimensionPolicy, Guard, Policy, Threshold
from tokencap._waiting import Queue, Ticket
from tokencap.backends.memory import MemoryBackend

BLOCK = [Threshold(1.0, [Action(kind="BLOCK")])]
ACME, UMBRELLA, ALL = BudgetKey("tenant", "acme"), BudgetKey("tenant", "umbrella"), BudgetKey("team", "all")


@contextmanager
def one_that_waits(guard: Guard) -> Iterator[threading.Thread]:
    """A call of acme's that is open, and another thread with one that waits for it."""

    def wait() -> None:
        with guard.scope({"tenant": "acme"}):
            take(guard, 90)

    with guard.scope({"tenant": "acme"}):
        with guard.call(provider="gateway", model="m", estimate=90) as call:
            waiting = threading.Thread(target=wait)
            waiting.start()
            until(lambda: guard.runtime.queue.waited_for([ACME]))
            yield waiting
            assert waiting.is_alive()
            call.release()
        waiting.join(20)
        assert not waiting.is_alive()


def take(guard: Guard, tokens: int) -> None:
    with guard.call(provider="gateway", model="m", estimate=tokens) as call:
        call.settle(tokens)


def in_a_thread(guard: Guard, tenant: str, tokens: int) -> threading.Thread:
    """Make a call that is not inside another one."""

    def make() -> None:
        with guard.scope({"tenant": tenant}):
            take(guard, tokens)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(20)
    return thread


def test_a_call_does_not_stand_behind_those_that_wait_for_another_budget() -> None:
    policy = Policy({"tenant": DimensionPolicy(100, BLOCK), "team": DimensionPolicy(1_000, BLOCK)})
    with Guard(policy, {"team": "all"}, MemoryBackend(), wait=60.0) as guard:
        with one_that_waits(guard):
            assert not in_a_thread(guard, "umbrella", 100).is_alive()
        assert guard.get_status().dimensions["team"].used == 190


def test_nobody_waits_for_a_budget_that_is_used_up_because_others_wait_for_theirs() -> None:
    policy = Policy({"tenant": DimensionPolicy(100, BLOCK)})
    refused: list[BudgetExceededError] = []

    def ask() -> None:
        with guard.scope({"tenant": "umbrella"}), pytest.raises(BudgetExceededError) as caught:
            take(guard, 1)
        refused.append(caught.value)

    with Guard(policy, backend=MemoryBackend(), wait=60.0) as guard:
        in_a_thread(guard, "umbrella", 100)
        with one_that_waits(guard):
            asking = threading.Thread(target=ask)
            asking.start()
            asking.join(20)
            assert not asking.is_alive()
    assert [error.check_result.contended for error in refused] == [False]


def woken(*tickets: Ticket) -> list[bool]:
    """Return which of them has been woken since it was last asked."""
    return [ticket._gate.acquire(blocking=False) for ticket in tickets]


def test_the_first_in_each_queue_is_woken_when_its_budget_changes() -> None:
    queue = Queue()
    acme, later, umbrella = (queue.join((key, ALL), (key,)) for key in (ACME, ACME, UMBRELLA))
    queue.wake((UMBRELLA, ALL))
    assert woken(acme, later, umbrella) == [False, False, True]
    queue.wake((ACME, ALL))
    assert woken(acme, later, umbrella) == [True, False, False]
    assert [queue.is_first(ticket) for ticket in (acme, later, umbrella)] == [True, False, True]
    queue.leave(acme)
    assert woken(later, umbrella) == [True, False]


def test_one_that_comes_to_wait_for_another_budget_lets_those_behind_it_try() -> None:
    queue = Queue()
    first, second = queue.join((ACME, ALL), (ACME,)), queue.join((ACME,), (ACME,))
    queue.wait_for(first, (ALL,))
    assert woken(first, second) == [False, True]
    assert queue.is_first(second)
    assert queue.waited_for((ALL, UMBRELLA)) == [ALL]


def test_one_that_waits_for_another_budget_tries_when_nobody_stands_before_it_any_more() -> None:
    queue = Queue()
    first, second = queue.join((ACME,), (ACME,)), queue.join((ACME, ALL), (ALL,))
    queue.wake((ALL,))
    assert woken(first, second) == [False, False]
    queue.leave(first)
    assert woken(second) == [True]
