"""What comes into the middle of a step: Ctrl-C, a hook that exits, a finalizer or signal making a call."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from forked import forks, in_a_fork
from stores import STORES, Store
from tokencap import BackendError, BudgetExceededError, Guard, Policy, _waiting
from tokencap._keeper import Keeper
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.budget import BudgetKey, Hold, Settlement
from tokencap.telemetry.record import CallRecord

LIMIT = 1_000_000
STORES_HERE = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.service)]


@pytest.fixture(params=STORES_HERE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = STORES[request.param](tmp_path)
    yield store
    store.close()


def take(guard: Guard, tokens: int) -> int:
    """Make a call by hand; return what it was charged."""
    try:
        with guard.call(provider="gateway", model="m", estimate=tokens) as call:
            call.settle(tokens)
    except (BudgetExceededError, BackendError):
        return 0
    return tokens


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_hook_that_ends_the_program_does_not_lose_what_the_call_took(
    store: Store, end: type[BaseException]
) -> None:
    def leave(record: CallRecord) -> None:
        raise end

    guard = Guard(Policy.blocking(LIMIT), {"session": "s"}, store.handle())
    guard.on_call(leave)
    with pytest.raises(end), guard.call(provider="gateway", model="m", estimate=10) as call:
        call.settle(1_000)
    guard.teardown()
    with Guard(Policy.blocking(LIMIT), {"session": "s"}, store.handle()) as later:
        state = later.get_status().dimensions["session"]
        assert (state.used, state.reserved, later.usage().total.tokens) == (1_000, 0, 1_000)


def test_a_guard_that_is_closed_waits_for_the_settlement_that_is_only_now_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(MemoryBackend):
        pause = 0.0

        def settle(self, *args: Any) -> Settlement:
            time.sleep(self.pause)
            return super().settle(*args)

    def leave(record: CallRecord) -> None:
        backend.pause = 0.2
        raise SystemExit

    def later(keeper: Keeper) -> None:
        begun.set()
        time.sleep(0.1)
        drain_aside(keeper)

    begun, drain_aside = threading.Event(), Keeper._drain_aside
    monkeypatch.setattr(Keeper, "_drain_aside", later)
    backend = Slow()
    guard = Guard(Policy.blocking(LIMIT), {"session": "s"}, backend)
    guard.on_call(leave)
    with pytest.raises(SystemExit), guard.call(provider="gateway", model="m", estimate=10) as call:
        call.settle(1_000)
    assert begun.wait(20)
    guard.teardown()
    assert backend.get_states([(BudgetKey("session", "s"), LIMIT)])[0].used == 1_000


@forks
def test_a_finalizer_may_make_a_call_wherever_it_finds_another(store: Store) -> None:
    """As of an agent that was dropped with a reply half read, and leaves its `with` when it is collected."""

    class Dropped:
        alive = True
        made = 0

        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            if Dropped.alive:
                Dropped()
            Dropped.made += take(guard, 1)

    guard = Guard(Policy.blocking(LIMIT), {"session": "s"}, store.handle())

    def spend() -> list[int]:
        chance = random.Random(1)
        made = 0
        Dropped()
        for _ in range(200):
            gc.set_threshold(chance.randint(1, 12))
            made += take(guard, 1)
        Dropped.alive = False
        gc.set_threshold(20_000)
        while guard.runtime.keeper.kept:
            time.sleep(0.01)
        state = guard.get_status().dimensions["session"]
        return [Dropped.made, Dropped.made + made - state.used, state.reserved]

    made, *off = in_a_fork(spend, 60)
    assert made > 0
    assert off == [0, 0]


@forks
def test_a_signal_handler_may_wait_for_a_budget_wherever_its_thread_waits() -> None:
    guard = Guard(Policy.blocking(100), {"session": "s"}, STORES["memory"](Path()).handle(), wait=0.02)

    def handle(frame: FrameType, *_: object) -> Any:
        if frame.f_code.co_filename in (_waiting.__file__, threading.__file__):
            take_nothing(guard)
        return handle

    def wait() -> int:
        with guard.call(provider="gateway", model="m", estimate=90):
            elsewhere = threading.Thread(target=handled)
            elsewhere.start()
            elsewhere.join()
        return guard.get_status().dimensions["session"].reserved

    def handled() -> None:
        # Between any two lines, as a signal comes.
        sys.settrace(handle)
        take_nothing(guard)

    assert in_a_fork(wait, 30) == 0


def take_nothing(guard: Guard) -> None:
    """Make a call that fits only alone, and is not billed."""
    try:
        with guard.call(provider="gateway", model="m", estimate=90) as call:
            call.release()
    except (BudgetExceededError, BackendError):
        return


class _Interrupt(BaseException):
    pass


@forks
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 14), reason="there an interrupt of `with lock:` can leave any lock taken"
)
def test_an_interrupted_step_does_not_keep_the_file_from_other_threads(tmp_path: Path) -> None:
    key = BudgetKey("session", "s")

    def interrupt(*_: Any) -> None:
        raise _Interrupt

    def step(backend: SQLiteBackend) -> None:
        grant = backend.reserve(uuid.uuid4().hex, [Hold(key, LIMIT, 1.0, 1, 1)], 1, 60.0)
        assert grant.reservation is not None
        backend.settle(grant.reservation, 1)

    def spend() -> int:
        backend = SQLiteBackend(tmp_path / "tokencap.db")
        chance = random.Random(1)
        interrupts = 0
        signal.signal(signal.SIGALRM, interrupt)
        while interrupts < 3_000:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00002, 0.0004))
                while True:
                    step(backend)
            except _Interrupt:
                interrupts += 1
        other = threading.Thread(target=step, args=(backend,), daemon=True)
        other.start()
        other.join(10)
        return int(other.is_alive())

    assert in_a_fork(spend, 60) == 0
