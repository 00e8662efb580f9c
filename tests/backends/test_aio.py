"""Any store for coroutines."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest

from forked import forks
from tokencap.backends.aio import InlineAsyncBackend, ThreadedAsyncBackend
from tokencap.backends.memory import MemoryBackend
from tokencap.budget import BudgetKey, BudgetState, Hold, Mark
from tokencap.errors import BackendError

KEY = BudgetKey("tenant", "acme")
HOLD = Hold(KEY, 100, 1.0, 10, 20)


class Slow(MemoryBackend):
    """A store made by somebody else, that knows nothing of coroutines."""

    seconds = 0.05

    def reserve(self, *args):
        time.sleep(self.seconds)
        self.thread = threading.current_thread()
        return super().reserve(*args)

    def settle(self, *args):
        raise BackendError("gone")


class Waiting(Slow):
    def __init__(self):
        super().__init__()
        self.may_go_on = threading.Event()

    def reserve(self, *args):
        assert self.may_go_on.wait(20)
        return super().reserve(*args)


async def through_a_call(flavour):
    grant = await flavour.reserve("x", [HOLD], 10, 30.0)
    settlement = await flavour.settle(grant.reservation, 60, [Mark(KEY, 0.5, 100)])
    assert settlement.passed == (Mark(KEY, 0.5, 100),)
    assert await flavour.pass_marks([Mark(KEY, 0.5, 100)]) == ()
    assert await flavour.get_states([(KEY, 100)]) == (BudgetState(KEY, 100, 60),)
    await flavour.aclose()


@pytest.mark.parametrize("adapter", [InlineAsyncBackend, ThreadedAsyncBackend])
def test_every_verb_goes_through(adapter):
    asyncio.run(through_a_call(adapter(MemoryBackend())))


def test_a_slow_store_does_not_hold_up_the_loop():
    store = Waiting()
    flavour = ThreadedAsyncBackend(store)

    async def main():
        step = asyncio.create_task(flavour.reserve("x", [HOLD], 10, 30.0))
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not step.done()
        store.may_go_on.set()
        await step
        await flavour.aclose()

    asyncio.run(main())
    assert store.thread is not threading.current_thread()


def test_an_error_of_the_store_reaches_the_caller():
    store = Slow()
    flavour = ThreadedAsyncBackend(store)

    async def main():
        grant = await flavour.reserve("x", [HOLD], 10, 30.0)
        with pytest.raises(BackendError, match="gone"):
            await flavour.settle(grant.reservation, 1)
        await flavour.aclose()

    asyncio.run(main())


def test_cancelled_steps_are_finished_even_those_in_the_queue():
    store = Slow()
    flavour = ThreadedAsyncBackend(store, threads=1)

    async def main():
        steps = [asyncio.create_task(flavour.reserve(str(n), [HOLD], 10, 30.0)) for n in range(3)]
        await asyncio.sleep(0.01)
        for step in steps:
            step.cancel()
        results = await asyncio.gather(*steps, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await asyncio.sleep(0.3)
        await flavour.aclose()

    asyncio.run(main())
    assert store.get_states([(KEY, 100)])[0].calls == 3


def test_outside_asyncio_the_step_runs_where_it_is():
    store = Slow()
    with pytest.raises(StopIteration) as stop:
        ThreadedAsyncBackend(store).reserve("x", [HOLD], 10, 30.0).send(None)
    assert stop.value.value.reservation.id == "x"
    assert store.thread is threading.current_thread()


def test_it_is_usable_in_one_loop_after_another():
    flavour = ThreadedAsyncBackend(MemoryBackend())
    for n in range(3):
        asyncio.run(flavour.reserve(str(n), [HOLD], 10, 30.0))
    assert len(asyncio.run(flavour.get_states([(KEY, 100)]))) == 1
    asyncio.run(flavour.aclose())
    assert asyncio.run(flavour.get_states([(KEY, 100)]))[0].calls == 3
    asyncio.run(flavour.aclose())


@forks
def test_a_child_has_threads_of_its_own():
    flavour = ThreadedAsyncBackend(MemoryBackend())
    asyncio.run(flavour.reserve("x", [HOLD], 10, 30.0))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(asyncio.wait_for(flavour.reserve("y", [HOLD], 10, 30.0), 5))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(flavour.aclose())


def test_a_finalizer_that_runs_inside_a_verb_is_sent_away():
    """A garbage collection may run any code at any time, in the thread that holds the lock."""
    errors = []

    def clock():
        if store is not None:
            try:
                store.renew(["x"], 1.0)
            except BackendError as error:
                errors.append(str(error))
        return 1000.0

    store = None
    store = MemoryBackend(clock=clock)
    assert store.reserve("x", [HOLD], 10, 30.0).reservation
    assert "in use by this very thread" in errors[0]


ONE_OF_THE_LAST = """
import asyncio, concurrent.futures.thread, threading, time
from tokencap.backends.aio import ThreadedAsyncBackend
from tokencap.backends.memory import MemoryBackend
from tokencap.budget import BudgetKey, Hold

async def call():
    store = ThreadedAsyncBackend(MemoryBackend())
    grant = await store.reserve("x", [Hold(BudgetKey("tenant", "acme"), 100, 1.0, 10, 20)], 10, 30.0)
    print((await store.settle(grant.reservation, 7)).states[0].used)

def go_on():
    while not concurrent.futures.thread._shutdown:
        time.sleep(0.001)
    asyncio.run(call())

threading.Thread(target=go_on).start()
"""


def test_a_loop_that_outlives_the_main_thread_goes_on():
    done = subprocess.run([sys.executable, "-c", ONE_OF_THE_LAST], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("7\n", "")
