"""Holds and their owners: processes that are killed or forked, threads that die, event loops that change.

Each test runs on every store that processes share, on all at once where it has to wait.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from backends.redis_servers import until
from forked import fork, forks, join
from stores import STORES, Store
from tokencap import Action, BudgetExceededError, DimensionPolicy, Guard, Policy, StatusResponse, Threshold
from tokencap._loopback import LoopbackProvider
from tokencap.backends.memory import MemoryBackend
from tokencap.budget import BudgetState

LIMIT = 1_000_000
LEASE = 2.5
BILLED = 50
SHARED = ["sqlite", pytest.param("redis", marks=pytest.mark.service)]


@pytest.fixture(params=SHARED)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = STORES[request.param](tmp_path)
    yield store
    store.close()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[Store]]:
    """All of them."""
    made = [STORES[name](tmp_path) for name in ("sqlite", "redis")]
    yield made
    for store in made:
        store.close()


def guard_on(store: Store, limit: int = LIMIT, lease: float = LEASE) -> Guard:
    return Guard(Policy.blocking(limit), {"session": "s"}, store.handle(), lease_seconds=lease)


def state_of(guard: Guard) -> BudgetState:
    return guard.get_status().dimensions["session"]


def settled(guard: Guard) -> BudgetState:
    """Wait until nothing is held; return the state then."""
    until(lambda: not state_of(guard).calls, seconds=30)
    return state_of(guard)


def ask(client: Any, steer: str = "", **more: Any) -> Any:
    """Make a call of `BILLED` tokens."""
    prompt = f"[[input=30]][[output=20]]{steer}"
    return client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": prompt}], **more
    )


def new_client() -> openai.OpenAI:
    return openai.OpenAI(max_retries=0)


def once(guard: Guard, steer: str = "", **more: Any) -> None:
    """Make one call with a client of its own."""
    with guard.wrap(new_client()) as client:
        ask(client, steer, **more)


@forks
@pytest.mark.service
def test_the_hold_of_a_killed_process_lives_with_it_and_is_charged_once_after_it(
    stores: list[Store], loopback: LoopbackProvider, caplog: pytest.LogCaptureFixture
) -> None:
    def hang(store: Store) -> None:
        with guard_on(store) as guard:
            once(guard, "[[hang=60]]")

    guards = [guard_on(store) for store in stores]
    children = [fork(lambda store=store: hang(store)) for store in stores]  # type: ignore[misc]
    until(lambda: loopback.calls == len(stores), seconds=30)
    time.sleep(1.3 * LEASE)
    for guard in guards:
        held = state_of(guard)
        assert (held.used, held.calls, held.expired) == (0, 1, 0)
        assert held.reserved > 0
    caplog.clear()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for guard in guards:
        charged = settled(guard)
        assert charged.used == charged.expired > 0
        assert charged.reserved == 0
        once(guard)
        assert state_of(guard)[2:6] == (charged.used + BILLED, 0, 0, charged.expired)
        guard.teardown()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [
        f"{charged.expired} tokens were charged to session='s' for calls whose process died; "
        f"{charged.expired} in all"
    ] * len(stores)


@forks
def test_a_fork_leaves_the_calls_under_way_to_the_parent(store: Store, loopback: LoopbackProvider) -> None:
    with guard_on(store) as guard, guard.wrap(new_client()) as client:
        stream = ask(client, stream=True)
        next(stream)

        def child() -> None:
            assert state_of(guard).calls == 1
            # Neither the end of the child's Guard nor that of its copy of the stream ends the call.
            guard.teardown()
            gc.collect()

        join(fork(child))
        assert state_of(guard)[2:6] == (0, state_of(guard).reserved, 1, 0)
        list(stream)
        assert state_of(guard)[2:6] == (BILLED, 0, 0, 0)


@forks
@pytest.mark.service
def test_a_child_looks_after_its_own_calls_with_the_guard_of_its_parent(
    stores: list[Store], loopback: LoopbackProvider
) -> None:
    guards = [guard_on(store) for store in stores]
    for guard in guards:  # so that there are threads and connections not to inherit
        once(guard)
    hang = f"[[hang={1.6 * LEASE}]]"
    children = [fork(lambda guard=guard: once(guard, hang)) for guard in guards]  # type: ignore[misc]
    until(lambda: loopback.calls == 2 * len(guards), seconds=30)
    time.sleep(1.3 * LEASE)
    for guard in guards:
        assert state_of(guard).expired == 0
    join(*children)
    for guard in guards:
        assert state_of(guard)[2:6] == (2 * BILLED, 0, 0, 0)
        guard.teardown()


@forks
def test_a_child_does_not_queue_behind_a_thread_of_its_parent_that_waits(
    store: Store, loopback: LoopbackProvider
) -> None:
    guard = Guard(Policy.blocking(140), {"session": "s"}, store.handle(), wait=60.0)
    with guard, guard.wrap(new_client()) as client:
        ask(client, max_tokens=20)
        stream = ask(client, max_tokens=20, stream=True)
        next(stream)
        other = Guard(Policy.blocking(LIMIT), {"session": "s"}, store.handle())
        waiting = threading.Thread(target=lambda: once(guard, "x" * 200, max_tokens=20))
        waiting.start()
        keys = guard.runtime.plan_here().keys
        until(lambda: guard.runtime.queue.waited_for(keys) or not waiting.is_alive())
        assert guard.runtime.queue.waited_for(keys)

        def child() -> None:
            assert not guard.runtime.queue.waited_for(keys)

        join(fork(child))
        other.set_limit("session", 10_000)
        list(stream)
        waiting.join()
        other.teardown()
        assert settled(guard).used == loopback.tokens


class Renewed(MemoryBackend):
    times = 0

    def renew(self, ids: Collection[str], lease: float) -> set[str]:
        self.times += 1
        return super().renew(ids, lease)


def test_a_callback_that_takes_its_time_costs_no_call_its_hold(loopback: LoopbackProvider) -> None:
    began, may_end = threading.Event(), threading.Event()

    def ask_somebody(status: StatusResponse) -> None:
        began.set()
        may_end.wait(60)

    warn = Threshold(0.00001, [Action(kind="WARN", callback=ask_somebody)])
    store = Renewed()
    guard = Guard(Policy({"session": DimensionPolicy(LIMIT, [warn])}), backend=store, lease_seconds=0.3)
    with guard, guard.wrap(new_client()) as client:
        under_way, dropped = ask(client, stream=True), ask(client, stream=True)
        next(dropped)
        del dropped
        gc.collect()
        assert began.wait(20)
        before = store.times
        try:
            until(lambda: store.times > before + 2)
        finally:
            may_end.set()
        list(under_way)


@forks
def test_preforked_workers_share_a_guard_made_before_them(store: Store, loopback: LoopbackProvider) -> None:
    guard = guard_on(store)
    client = guard.wrap(new_client())

    def serve() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: ask(client), range(6)))
        guard.teardown()

    workers = [fork(serve) for _ in range(4)]
    victim = fork(lambda: ask(client, "[[hang=60]]"))
    until(lambda: loopback.calls == 25, seconds=30)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    join(*workers)
    join(fork(serve))
    found = settled(guard)
    assert found.used - found.expired == 30 * BILLED
    assert found.expired > 0
    guard.teardown()


def work(openers: list[Any]) -> list[int]:
    """Make three calls on each store in another process."""
    used = []
    for opener in openers:
        backend = opener()
        with Guard(Policy.blocking(LIMIT), {"session": "s"}, backend) as guard:
            with guard.wrap(new_client()) as client:
                for _ in range(3):
                    ask(client)
            used.append(guard.get_status().dimensions["session"].used)
        backend.close()
    return used


@pytest.mark.service
@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=forks)])
def test_processes_of_multiprocessing(stores: list[Store], loopback: LoopbackProvider, method: str) -> None:
    guards = [guard_on(store) for store in stores]
    for guard in guards:
        once(guard)
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.map(work, [[store.opener for store in stores]] * 2, chunksize=1)
        pool.close()
        pool.join()
    for n, guard in enumerate(guards):
        assert state_of(guard)[2:6] == (7 * BILLED, 0, 0, 0)
        assert max(used[n] for used in found) == 7 * BILLED
        guard.teardown()


def test_a_thread_that_dies_with_its_stream_leaves_no_hold(store: Store, loopback: LoopbackProvider) -> None:
    with guard_on(store) as guard, guard.wrap(new_client()) as client:

        def die() -> None:
            # Not left to the thread's own hook: pytest's keeps the traceback, and with it the stream.
            with suppress(SystemExit):
                for _ in ask(client, "[[delay=0.05]]", stream=True):
                    sys.exit()

        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
        gc.collect()
        found = settled(guard)
        assert 0 < found.used <= BILLED
        assert (found.reserved, found.expired) == (0, 0)


def test_event_loops_may_be_replaced(store: Store, loopback: LoopbackProvider) -> None:
    with guard_on(store, lease=60.0) as guard:

        async def main(leave: bool) -> None:
            async with guard.wrap(openai.AsyncOpenAI(max_retries=0)) as client:
                await asyncio.gather(*[ask(client) for _ in range(3)])
                if not leave:
                    return
                # Left alone, and cancelled by the end of the loop.
                left = asyncio.ensure_future(ask(client, "[[hang=60]]"))
                calls = loopback.calls
                await asyncio.to_thread(until, lambda: loopback.calls > calls)
                assert not left.done()

        for n in range(1, 4):
            asyncio.run(main(leave=True))
            found = settled(guard)
            assert found.used >= 3 * n * BILLED
            assert found.expired == 0
        # Each one that was left may have been billed.
        estimate, rest = divmod(found.used - 9 * BILLED, 3)
        assert estimate > 0
        assert rest == 0
        threads = [threading.Thread(target=lambda: asyncio.run(main(leave=False))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert settled(guard).used == 18 * BILLED + 3 * estimate


@forks
def test_a_limit_lowered_in_mid_run_holds_for_the_next_call_of_another_process(
    store: Store, loopback: LoopbackProvider
) -> None:
    told, tell = os.pipe()
    heard, say = os.pipe()

    def child() -> None:
        with guard_on(store) as guard, guard.wrap(new_client()) as client:
            ask(client)
            os.write(say, b".")
            assert os.read(told, 1)
            with pytest.raises(BudgetExceededError) as refused:
                ask(client)
            assert refused.value.check_result.states["session"].limit == BILLED
            os.write(say, b".")
            assert os.read(told, 1)
            ask(client)

    with guard_on(store) as guard:
        process = fork(child)
        assert os.read(heard, 1)
        guard.set_limit("session", BILLED)
        os.write(tell, b".")
        assert os.read(heard, 1)
        guard.set_limit("session", None)
        os.write(tell, b".")
        join(process)
        assert state_of(guard)[2:6] == (2 * BILLED, 0, 0, 0)
    assert loopback.calls == 2
    for end in (told, tell, heard, say):
        os.close(end)
