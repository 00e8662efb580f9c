"""What happens at a threshold: when, how often, in which order, in whose thread."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from calls import aspend, block, call, degrade, policy, python, spawn, spend, warn, webhook

from tokencap import (
    ActionKind,
    BudgetExceededError,
    BudgetKey,
    DimensionPolicy,
    Guard,
    Policy,
    Provider,
    Threshold,
)
from tokencap._actions import BEFORE_CALL, HANDLERS
from tokencap._flow import run
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.sqlite import SQLiteBackend

SHARED = {"session": "shared"}


def memory(guard_policy: Policy, **kwargs: Any) -> Guard:
    return Guard(guard_policy, backend=MemoryBackend(), **kwargs)


def test_every_kind_of_action_has_its_one_place() -> None:
    assert set(HANDLERS) | BEFORE_CALL == set(ActionKind)
    assert not set(HANDLERS) & BEFORE_CALL


# -- WARN ------------------------------------------------------------------------------------------------


def test_a_warning_comes_once_with_the_status_after_the_call_that_crossed() -> None:
    seen: list[Any] = []
    with memory(policy(100, (0.8, [warn(seen.append)]))) as guard:
        for _ in range(4):
            spend(guard, 41)
        assert [status.dimensions["session"].used for status in seen] == [82]
        assert f"Warning: {seen[0].dimensions['session'].pct_used:.0%} used" == "Warning: 82% used"


def test_a_warning_comes_again_after_a_reset() -> None:
    seen: list[Any] = []
    with memory(policy(100, (0.8, [warn(seen.append)]))) as guard:
        spend(guard, 90)
        guard.backend.reset(BudgetKey("session", guard.identifiers["session"]))
        spend(guard, 70)
        assert len(seen) == 1
        spend(guard, 20)
        assert [status.dimensions["session"].used for status in seen] == [90, 90]


def test_thresholds_crossed_together_all_fire_in_ascending_order() -> None:
    seen: list[str] = []
    steps = [(at, [warn(lambda status, at=at: seen.append(str(at)))]) for at in (0.9, 0.3, 1.0, 0.6)]
    with memory(policy(100, *steps)) as guard:
        spend(guard, 95)
        assert seen == ["0.3", "0.6", "0.9"]
        spend(guard, 5)
        assert seen == ["0.3", "0.6", "0.9", "1.0"]


def test_thresholds_of_several_dimensions_fire_in_ascending_order() -> None:
    seen: list[str] = []

    def of(name: str, limit: int, *shares: float) -> DimensionPolicy:
        steps = [Threshold(at, [warn(lambda _, at=at: seen.append(f"{name} {at}"))]) for at in shares]
        return DimensionPolicy(limit=limit, thresholds=steps)

    with memory(Policy({"big": of("big", 200, 0.1, 0.5), "small": of("small", 100, 0.2, 0.9)})) as guard:
        spend(guard, 100)
    assert seen == ["big 0.1", "small 0.2", "big 0.5", "small 0.9"]


def test_actions_of_one_threshold_run_warnings_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    actions = [
        block(),
        webhook("http://nowhere.invalid/"),
        warn(lambda _: order.append("WARN")),
        degrade("gpt-4o-mini"),
    ]
    with memory(policy(100, (0.5, actions))) as guard:
        monkeypatch.setattr(
            guard.runtime.webhooks, "post", lambda url, payload, secret: order.append("WEBHOOK")
        )
        spend(guard, 60)
        with pytest.raises(BudgetExceededError):
            spend(guard, 1)
    assert order == ["WARN", "WEBHOOK"]
    kinds = [action.kind for action in guard.runtime.plan_here().budgets[0].actions_at(0.5)]
    assert kinds == ["WARN", "WEBHOOK", "DEGRADE", "BLOCK"]


def test_two_thresholds_at_one_share_both_fire() -> None:
    seen: list[str] = []
    with memory(
        policy(10, (0.5, [warn(lambda _: seen.append("a"))]), (0.5, [warn(lambda _: seen.append("b"))]))
    ) as guard:
        spend(guard, 6)
    assert seen == ["a", "b"]


def test_64_threads_that_cross_together_are_warned_once(tmp_path: Path) -> None:
    seen: list[int] = []
    guard_policy = policy(64_000, (0.8, [warn(lambda s: seen.append(s.dimensions["session"].used))]))
    start = threading.Barrier(64)

    def work(_: int) -> None:
        start.wait()
        for _ in range(4):
            spend(guard, 250)

    with (
        closing(SQLiteBackend(tmp_path / "budget.db", timeout=30)) as backend,
        Guard(guard_policy, SHARED, backend) as guard,
        ThreadPoolExecutor(64) as pool,
    ):
        list(pool.map(work, range(64)))
        state = guard.get_status().dimensions["session"]
    assert (state.used, state.reserved) == (64_000, 0)
    assert len(seen) == 1
    assert seen[0] >= 51_200


def test_200_tasks_that_cross_together_are_warned_once(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def main() -> None:
        await asyncio.gather(*(aspend(guard, 10) for _ in range(200)))

    with (
        closing(SQLiteBackend(tmp_path / "budget.db", timeout=30)) as backend,
        Guard(policy(2_000, (0.8, [warn(seen.append)])), SHARED, backend) as guard,
    ):
        asyncio.run(main())
        assert guard.get_status().dimensions["session"].used == 2_000
    assert len(seen) == 1


ELSEWHERE = """
    import json, sys
    from calls import *
    from tokencap import *
    from tokencap.backends.sqlite import SQLiteBackend
    seen = []
    steps = (0.8, [warn(seen.append)]), (0.9, [degrade("gpt-4o-mini")]), (1.0, [block()])
    guard = Guard(policy(1_000, *steps), {"session": "shared"}, SQLiteBackend(sys.argv[1], timeout=30))
    if len(sys.argv) > 3:
        print("ready", flush=True); input()
    models = []
    for _ in range(int(sys.argv[2])):
        try:
            models.append(spend(guard, 1).get("model", "gpt-4o"))
        except BudgetExceededError:
            models.append("blocked")
    print(json.dumps([len(seen), models]))
"""


def test_two_processes_that_cross_together_are_warned_once_between_them(tmp_path: Path) -> None:
    workers = [spawn(ELSEWHERE, str(tmp_path / "b.db"), "430", "together") for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    found = [json.loads(worker.communicate("go\n", timeout=60)[0]) for worker in workers]
    assert sum(warned for warned, _ in found) == 1
    assert sum(len(models) for _, models in found) == 860


@pytest.mark.parametrize("failure", [ValueError("mine"), BudgetExceededError.__new__(BudgetExceededError)])
def test_a_failing_callback_is_logged_and_breaks_nothing(failure: Exception, caplog: Any) -> None:
    def fail(status: Any) -> None:
        raise failure

    async def afail(status: Any) -> None:
        raise failure

    seen: list[Any] = []
    steps = [(0.1, [warn(fail)]), (0.2, [warn(afail)]), (0.3, [warn(seen.append)])]
    with caplog.at_level(logging.ERROR, "tokencap"):
        with memory(policy(100, *steps)) as guard:
            spend(guard, 50)
        with memory(policy(100, *steps)) as guard:
            asyncio.run(aspend(guard, 50))
            assert guard.get_status().dimensions["session"].used == 50
    assert len(seen) == 2
    assert [r.message for r in caplog.records] == [
        "a WARN callback failed; the call it was fired by is not affected"
    ] * 4


def test_callbacks_run_in_the_thread_of_the_caller() -> None:
    threads: list[Any] = []

    def note(status: Any) -> None:
        threads.append(threading.current_thread())

    async def anote(status: Any) -> None:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())

    both = [(0.1, [warn(note)]), (0.2, [warn(anote)])]
    with memory(policy(100, *both)) as guard:
        spend(guard, 50)
    with memory(policy(100, *both)) as guard:
        asyncio.run(aspend(guard, 50))
    assert set(threads) == {threading.main_thread()}
    assert len(threads) == 4


def test_an_async_callback_of_a_blocking_call_runs_even_inside_of_a_running_loop(caplog: Any) -> None:
    # A notebook always has one.
    seen: list[Any] = []

    async def callback(status: Any) -> None:
        await asyncio.sleep(0)
        seen.append(status)

    async def fail(status: Any) -> None:
        raise ValueError("mine")

    async def main() -> None:
        spend(guard, 50)

    with memory(policy(100, (0.1, [warn(callback)]), (0.2, [warn(fail)]))) as guard:
        asyncio.run(main())
    assert len(seen) == 1
    assert len(caplog.records) == 1


def test_a_callback_may_make_a_call_of_its_own_and_ask_for_the_status(tmp_path: Path) -> None:
    seen: list[int] = []

    def callback(status: Any) -> None:
        spend(guard, 5)
        seen.append(guard.get_status().dimensions["session"].used)

    async def acallback(status: Any) -> None:
        await aspend(guard, 5)
        spend(guard, 5)
        seen.append(guard.get_status().dimensions["session"].used)

    steps = (0.5, [warn(callback)]), (0.6, [warn(acallback)])
    with (
        closing(SQLiteBackend(tmp_path / "b.db")) as backend,
        Guard(policy(100, *steps), backend=backend) as guard,
    ):
        spend(guard, 55)
        assert seen == [70, 70]
        seen.clear()
        guard.reset("session")
        asyncio.run(aspend(guard, 50))
        asyncio.run(aspend(guard, 5))
        assert seen[0] == 55
        assert guard.get_status().dimensions["session"].reserved == 0


def test_callbacks_run_with_no_lock_held(tmp_path: Path) -> None:
    # Another thread can do all of this meanwhile; with a lock held it would never come back.
    def elsewhere(work: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result(timeout=10)

    def callback(status: Any) -> None:
        elsewhere(lambda: spend(guard, 1))
        elsewhere(guard.get_status)
        elsewhere(lambda: Guard(policy(10), backend=guard.backend).get_status())

    with (
        closing(SQLiteBackend(tmp_path / "b.db")) as backend,
        Guard(policy(100, (0.5, [warn(callback)])), backend=backend) as guard,
    ):
        spend(guard, 60)
        assert guard.get_status().dimensions["session"].used == 61


def test_a_call_that_was_refused_or_cost_nothing_fires_nothing_it_did_not_reach() -> None:
    seen: list[Any] = []
    with memory(policy(100, (0.5, [warn(seen.append)]), (1.0, [block()]))) as guard:
        session = call(guard)
        run(session.begin())
        run(session.release())
        with pytest.raises(BudgetExceededError):
            spend(guard, 1, prompt="x" * 2_000)
        assert seen == []


# -- DEGRADE ---------------------------------------------------------------------------------------------


def test_every_call_from_the_threshold_on_is_sent_to_the_cheaper_model() -> None:
    with memory(policy(1_000, (0.9, [degrade("gpt-4o-mini")]))) as guard:
        assert spend(guard, 850) == {}
        assert spend(guard, 60) == {}
        assert [spend(guard, 1) for _ in range(5)] == [{"model": "gpt-4o-mini"}] * 5
        assert spend(guard, 1, model="gpt-4o-mini") == {}


def test_a_call_that_would_cross_the_threshold_by_itself_is_degraded() -> None:
    with memory(policy(1_000, (0.5, [degrade("gpt-4o-mini")]))) as guard:
        assert spend(guard, 1, prompt="word " * 100) == {}
        assert spend(guard, 1, prompt="word " * 2_000) == {"model": "gpt-4o-mini"}


def test_degrading_and_blocking_hold_in_another_process_and_after_a_restart(tmp_path: Path) -> None:
    file = str(tmp_path / "b.db")
    assert json.loads(python(ELSEWHERE, file, "880").stdout) == [1, ["gpt-4o"] * 880]
    warned, models = json.loads(python(ELSEWHERE, file, "120").stdout)
    assert warned == 0
    first, last = models.index("gpt-4o-mini"), models.index("blocked")
    assert first <= 20  # its own estimate counts, so the call that would cross is degraded already
    assert set(models[first:last]) == {"gpt-4o-mini"}
    assert set(models[last:]) == {"blocked"}
    assert json.loads(python(ELSEWHERE, file, "3").stdout) == [0, ["blocked"] * 3]


def test_a_mapping_degrades_both_providers_under_one_guard() -> None:
    cheaper = {"anthropic": "claude-haiku-4-5", "gpt-4o": "gpt-4o-mini"}
    with memory(policy(1_000, (0.1, [degrade(cheaper)]))) as guard:
        spend(guard, 500)
        assert spend(guard, 1) == {"model": "gpt-4o-mini"}
        assert spend(guard, 1, model="claude-opus-4-6", provider=Provider.ANTHROPIC) == {
            "model": "claude-haiku-4-5"
        }
        assert spend(guard, 1, model="gpt-5") == {}


def test_a_model_of_the_other_provider_is_never_sent_and_that_is_said_once(caplog: Any) -> None:
    with memory(policy(1_000, (0.1, [degrade("claude-haiku-4-5")]))) as guard:
        spend(guard, 500)
        assert [spend(guard, 1) for _ in range(3)] == [{}] * 3
    said = [record.message for record in caplog.records if "claude-haiku-4-5" in record.message]
    assert len(said) == 1
    assert "names no model of openai for 'gpt-4o'" in said[0]


# -- BLOCK -----------------------------------------------------------------------------------------------


def test_every_call_after_the_limit_is_refused_and_costs_nothing() -> None:
    with memory(Policy.blocking(100)) as guard:
        spend(guard, 103)
        for _ in range(3):
            with pytest.raises(BudgetExceededError) as caught:
                spend(guard, 1)
            assert caught.value.check_result.violated == ["session"]
        state = guard.get_status().dimensions["session"]
        assert (state.used, state.reserved) == (103, 0)


def test_what_stands_beside_a_block_fires_once_when_it_refuses() -> None:
    seen: list[Any] = []
    posted: list[Any] = []
    actions = [block(), warn(seen.append), webhook("http://nowhere.invalid/")]
    with memory(policy(100, (1.0, actions))) as guard:
        guard.runtime.webhooks.post = lambda url, payload, secret: posted.append(payload)  # type: ignore[method-assign]
        spend(guard, 90)
        assert (seen, posted) == ([], [])
        for _ in range(3):
            with pytest.raises(BudgetExceededError):
                spend(guard, 1, prompt="x" * 500)
        assert (len(seen), len(posted)) == (1, 1)
        assert (posted[0]["at_pct"], posted[0]["used"]) == (1.0, 90)


def test_without_a_block_nothing_is_ever_refused() -> None:
    with memory(policy(100, (0.5, [warn(lambda _: None)]))) as guard:
        for _ in range(5):
            spend(guard, 100)
        assert guard.get_status().dimensions["session"].remaining == -400


def test_a_refusal_names_every_dimension_that_refused_and_shows_all() -> None:
    def of(limit: int) -> DimensionPolicy:
        return DimensionPolicy(limit=limit, thresholds=[Threshold(1.0, [block()])])

    with memory(Policy({"a": of(100), "b": of(1_000), "c": of(50)})) as guard:
        spend(guard, 120)
        with pytest.raises(BudgetExceededError) as caught:
            spend(guard, 1)
    assert caught.value.check_result.violated == ["a", "c"]
    assert {name: state.used for name, state in caught.value.check_result.states.items()} == {
        "a": 120,
        "b": 120,
        "c": 120,
    }
