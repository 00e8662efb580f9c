"""Agents under agents: a child's tokens count in its budget and in its parent's, once each."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

import tokencap
from stores import Store
from tokencap import (
    Action,
    BudgetExceededError,
    CallRecord,
    ConfigurationError,
    DimensionPolicy,
    Guard,
    Policy,
    Threshold,
)
from tokencap._loopback import LoopbackProvider
from tokencap.backends.memory import MemoryBackend
from tokencap.budget import BudgetKey


def root(limit: int = 10_000, **more: Any) -> Guard:
    return Guard(Policy.blocking(limit), backend=MemoryBackend(), **more)


def spend(guard: Guard, tokens: int) -> None:
    """Make a call by hand that takes so many tokens."""
    with guard.call(provider="openai", model="gpt-x", estimate=1) as call:
        call.settle(tokens)


def used(guard: Guard) -> dict[str, int]:
    return {name: state.used for name, state in guard.get_status().dimensions.items()}


def totals(status: Any) -> Any:
    """Return direct and subtree totals of a status, and of those under it."""
    return status.direct, status.subtree, {name: totals(one) for name, one in status.children.items()}


# -- counting ----------------------------------------------------------------------------------------------


def test_tokens_count_once_in_every_budget_on_the_way_up() -> None:
    with root() as guard:
        researcher = guard.child("researcher", limit=1_000)
        reader = researcher.child("reader", limit=500)
        spend(guard, 1)
        spend(researcher, 20)
        spend(reader, 300)
        assert used(guard) == {"session": 321}
        assert used(researcher) == {"session": 321, "researcher": 320}
        assert used(reader) == {"session": 321, "researcher": 320, "researcher/reader": 300}


def test_the_status_has_direct_and_subtree_totals() -> None:
    with root() as guard:
        researcher, writer = guard.child("researcher", limit=1_000), guard.child("writer")
        reader = researcher.child("reader")
        for child, tokens in ((guard, 1), (researcher, 20), (reader, 300), (writer, 4_000)):
            spend(child, tokens)
        below = (20, 320, {"reader": (300, 300, {})})
        assert totals(guard.get_status()) == (1, 4_321, {"researcher": below, "writer": (4_000, 4_000, {})})
        assert totals(researcher.get_status()) == below
        assert totals(reader.get_status()) == (300, 300, {})


def test_children_of_one_name_are_told_together_and_keep_their_totals_when_closed() -> None:
    with root() as guard:
        for tokens in (10, 20):
            with guard.child("worker", limit=50) as worker:
                spend(worker, tokens)
                assert worker.get_status().direct == tokens
                assert guard.get_status().children["worker"].open == 1
        last = guard.child("worker")
        spend(last.child("helper"), 5)
        status = guard.get_status().children["worker"]
        assert (status.direct, status.subtree, status.open) == (30, 35, 1)
        assert totals(last.get_status()) == (0, 5, {"helper": (5, 5, {})})


def test_many_names_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokencap import _tree

    monkeypatch.setattr(_tree, "_NAMES", 3)
    with root() as guard:
        for number in range(20):
            with guard.child(f"agent {number}") as agent:
                spend(agent, 1)
        status = guard.get_status()
        assert status.subtree == sum(child.subtree for child in status.children.values()) == 20
        assert len(status.children) == 4


def test_children_that_are_dropped_are_not_kept_alive() -> None:
    with root() as guard:
        guard.child("worker")
        gc.collect()
        assert len(guard._children) == 0


# -- limits ------------------------------------------------------------------------------------------------


def test_a_child_is_stopped_by_its_own_limit_and_the_others_go_on() -> None:
    with root() as guard:
        small, other = guard.child("small", limit=100), guard.child("other", limit=100)
        spend(small, 100)
        with pytest.raises(BudgetExceededError) as caught:
            spend(small, 1)
        assert caught.value.check_result.violated == ["small"]
        spend(other, 10)
        spend(guard, 10)


def test_a_child_never_outlives_its_parents_limit() -> None:
    with root(100) as guard:
        child = guard.child("child", limit=1_000_000)
        grandchild = child.child("grandchild", limit=1_000_000)
        spend(grandchild, 100)
        for one in (child, grandchild):
            with pytest.raises(BudgetExceededError) as caught:
                spend(one, 1)
            assert caught.value.check_result.violated == ["session"]
        assert used(grandchild) == {"session": 100, "child": 100, "child/grandchild": 100}


def test_a_refused_call_of_a_child_holds_nothing_anywhere() -> None:
    with root() as guard:
        child = guard.child("child", limit=10)
        spend(child, 10)
        with pytest.raises(BudgetExceededError):
            spend(child, 10)
        states = child.get_status().dimensions.values()
        assert [state.reserved for state in states] == [0, 0]


def test_the_policy_of_a_child_has_names_of_its_own() -> None:
    told: list[Any] = []
    policy = Policy(
        {
            "session": DimensionPolicy(100, [Threshold(0.5, [Action("WARN", callback=told.append)])]),
            "tools": DimensionPolicy(),
        },
        name="strict one",
    )
    with root() as guard:
        child = guard.child("child", policy=policy, identifiers={"tools": "shared"})
        spend(child, 60)
        assert used(child) == {"session": 60, "child/session": 60, "child/tools": 60}
        assert child.identifiers["child/tools"] == "shared"
        assert child.get_status().active_policy == "strict one"
        assert [status.dimensions["child/session"].used for status in told] == [60]


def test_the_ceilings_of_both_policies_hold() -> None:
    outer = Policy({"session": DimensionPolicy()}, max_prompt_tokens=50, max_output_tokens=100)
    inner = Policy({"own": DimensionPolicy()}, max_output_tokens=200)
    with Guard(outer, backend=MemoryBackend()) as guard:
        child = guard.child("child", policy=inner)
        with child.call(provider="openai", model="gpt-x", estimate=1) as call:
            assert call.max_output == 100
        with pytest.raises(BudgetExceededError, match="max_prompt_tokens is 50"):
            spend_much = child.call(provider="openai", model="gpt-x", estimate=60)
            spend_much.__enter__()


def test_a_child_may_be_observed_under_a_parent_that_is_enforced() -> None:
    inner = Policy({"own": Policy.blocking(10).dimensions["session"]}, enforce=False)
    with root(100) as guard:
        child = guard.child("child", policy=inner)
        spend(child, 60)
        spend(child, 60)
        assert child.get_status().would_have == guard.get_status().would_have == {"BLOCK": 1}
        with pytest.raises(BudgetExceededError):
            spend(child, 1)


def test_a_strict_child_is_never_passed_under_any_concurrency(
    store: Store, loopback: LoopbackProvider
) -> None:
    with Guard(Policy.blocking(1_000_000), backend=store.handle()) as guard:
        children = [guard.child("strict", limit=1_000, strict=True), guard.child("open", limit=5_000)]
        clients = [child.wrap(openai.OpenAI(max_retries=0)) for child in children]

        def ask(number: int) -> None:
            try:
                clients[number % 2].chat.completions.create(
                    model="gpt-4o",
                    max_tokens=200,
                    messages=[{"role": "user", "content": "[[output=200]]"}],
                )
            except BudgetExceededError:
                return

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(24)))
        strict, open_ = used(children[0])["strict"], used(children[1])["open"]
        assert 0 < strict <= 1_000
        assert used(guard)["session"] == strict + open_ == loopback.tokens
        status = guard.get_status()
        assert (status.direct, status.subtree) == (0, loopback.tokens)
        for client in clients:
            client.close()


# -- whose it is -------------------------------------------------------------------------------------------


def test_a_scope_of_the_parent_says_whose_budget_a_child_spends() -> None:
    policy = Policy({"tenant": DimensionPolicy()})
    with Guard(policy, {"tenant": "house"}, MemoryBackend()) as guard:
        child = guard.child("child", limit=1_000)
        with guard.scope({"tenant": "acme"}, {"step": "1"}):
            spend(child, 10)
            made_inside = guard.child("inside")
        with tokencap.scope({"tenant": "globex"}):
            spend(child, 20)
        spend(child, 40)
        records: list[CallRecord] = []
        made_inside.on_call(records.append)
        # A child stays in the scope it was made in, whoever calls it.
        spend(made_inside, 100)
        with guard.scope({"tenant": "initech"}):
            spend(made_inside, 200)
        keys = [(BudgetKey("tenant", name), 1) for name in ("acme", "globex", "house", "initech")]
        assert [state.used for state in guard.backend.get_states(keys)] == [110, 20, 40, 200]
        assert used(child)["child"] == 70
        assert [record.tags for record in records] == [{"step": "1"}] * 2


def test_inside_the_scope_of_a_child_its_parents_clients_are_its_own(loopback: LoopbackProvider) -> None:
    tokencap.init(Policy.blocking(10_000), backend=MemoryBackend(), quiet=True)
    tokencap.patch(providers=["openai"])
    guard = tokencap._default._process.guard
    assert guard is not None
    child = guard.child("researcher", limit=1_000)
    client = openai.OpenAI(max_retries=0)

    def ask() -> None:
        client.responses.create(model="gpt-5", input="hello")

    ask()
    with child.scope(tags={"agent": "researcher"}):
        ask()
        with child.child("reader").scope():
            ask()
        with guard.scope(tags={"more": "yes"}):
            ask()
    each = loopback.tokens // 4
    assert used(child) == {"session": 4 * each, "researcher": 3 * each}
    below = (2 * each, 3 * each, {"reader": (each, each, {})})
    assert totals(guard.get_status()) == (each, 4 * each, {"researcher": below})
    with child.scope():
        child.teardown()
        with pytest.raises(ConfigurationError, match="child that was closed"):
            ask()
    assert loopback.calls == 4
    client.close()


def test_hooks_see_the_calls_of_children_once() -> None:
    with root() as guard:
        child = guard.child("child")
        seen: list[tuple[str, int]] = []
        guard.on_call(lambda record: seen.append(("root", record.tokens)))
        child.on_call(lambda record: seen.append(("child", record.tokens)))
        spend(guard, 1)
        spend(child, 2)
        assert sorted(seen) == [("child", 2), ("root", 1), ("root", 2)]


def test_a_child_whose_budget_is_named_finds_it_again() -> None:
    backend = MemoryBackend()
    for total in (10, 20):
        with Guard(Policy.tracking(), {"session": "s"}, backend) as guard:
            child = guard.child("child", limit=100, identifiers={"child": "run-7"})
            spend(child, 10)
            assert used(child) == {"session": total, "child": total}


def test_budgets_of_a_child_can_be_changed_by_name() -> None:
    with root() as guard:
        child = guard.child("child", limit=10)
        spend(child, 10)
        child.set_limit("child", 1_000)
        spend(child, 10)
        child.reset("child")
        assert used(child) == {"session": 20, "child": 0}
        with pytest.raises(ConfigurationError, match="no dimension 'child'"):
            guard.reset("child")


# -- closing -----------------------------------------------------------------------------------------------


def test_closing_the_parent_closes_its_children(loopback: LoopbackProvider) -> None:
    guard = root()
    child = guard.child("child")
    grandchild = child.child("grandchild")
    with openai.OpenAI() as plain:
        client = grandchild.wrap(plain)
        guard.teardown()
        assert child.closed
        assert grandchild.closed
        with pytest.raises(ConfigurationError, match="closed by teardown"):
            client.responses.create(model="gpt-5", input="hello")
    with pytest.raises(ConfigurationError, match="closed by teardown"):
        child.child("late")
    assert loopback.calls == 0


def test_closing_a_child_settles_its_own_calls_and_leaves_the_others(loopback: LoopbackProvider) -> None:
    with root() as guard, openai.OpenAI() as plain:
        child = guard.child("child")
        streams = [
            one.wrap(plain).responses.create(model="gpt-5", input="hello", stream=True)
            for one in (guard, child.child("grandchild"))
        ]
        for stream in streams:
            next(iter(stream))
        child.teardown()
        child.teardown()
        assert guard.get_status().dimensions["session"].calls == 1
        assert guard.get_status().children["child"].open == 0
        spend(guard, 1)
        for stream in streams:
            stream.close()


def test_children_may_be_made_and_used_by_many_threads_at_once() -> None:
    start = threading.Barrier(8)
    with root(1_000_000) as guard:

        def agent(number: int) -> None:
            start.wait()
            for _ in range(10):
                with guard.child(f"agent {number % 2}", limit=100) as child, child.child("tool") as tool:
                    spend(child, 1)
                    spend(tool, 2)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(agent, range(8)))
        below = (40, 120, {"tool": (80, 80, {})})
        assert totals(guard.get_status()) == (0, 240, {"agent 0": below, "agent 1": below})
        assert used(guard) == {"session": 240}


@pytest.mark.parametrize("name", ["", " ", "a/b", None, 7])
def test_a_bad_name_is_refused(name: Any) -> None:
    with root() as guard, pytest.raises(ConfigurationError, match="a child is named"):
        guard.child(name)


def test_what_a_child_cannot_be_given_is_refused() -> None:
    with root() as guard:
        with pytest.raises(ConfigurationError, match="'session' already"):
            guard.child("session", limit=5)
        with pytest.raises(ConfigurationError, match="mutually exclusive"):
            guard.child("child", limit=5, policy=Policy.tracking())
        with pytest.raises(ConfigurationError, match="'tenant', which the policy of the child does not"):
            guard.child("child", limit=5, identifiers={"tenant": "acme"})
        assert guard.get_status().children == {}
