"""Scopes: whose budgets a call counts on, in every way that Python has of running a function."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from calls import aspend, call, spend, warn

import tokencap
from tokencap import (
    BudgetExceededError,
    CallRecord,
    ConfigurationError,
    DimensionPolicy,
    Guard,
    Policy,
    Threshold,
    TokenUsage,
)
from tokencap._flow import run
from tokencap.backends.memory import MemoryBackend
from tokencap.budget import BudgetKey

TENANTS = Policy({"tenant": DimensionPolicy(limit=1_000_000), "session": DimensionPolicy()})


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard(TENANTS, {"tenant": "house", "session": "s"}, MemoryBackend()) as guard:
        yield guard


def used(guard: Guard, *tenants: str) -> list[int]:
    """Return what each tenant has used."""
    return [s.used for s in guard.backend.get_states([(BudgetKey("tenant", t), 1) for t in tenants])]


def whose(guard: Guard) -> str:
    """Return the tenant a call made here would count on."""
    return guard.get_status().dimensions["tenant"].key.identifier


# -- blocks ------------------------------------------------------------------------------------------------


def test_a_call_counts_on_the_budgets_of_the_scope_it_is_made_in(guard: Guard) -> None:
    with tokencap.scope(identifiers={"tenant": "acme"}):
        spend(guard, 30)
    spend(guard, 4)
    assert used(guard, "acme", "house") == [30, 4]
    assert guard.get_status().dimensions["session"].used == 34


def test_scopes_inside_of_each_other_inherit_and_override(guard: Guard) -> None:
    with tokencap.scope({"tenant": "acme"}, {"agent": "planner", "step": "1"}):
        with tokencap.scope(tags={"agent": "writer"}):
            assert whose(guard) == "acme"
            assert guard.runtime.caller().tags == {"agent": "writer", "step": "1"}
            with guard.scope({"tenant": "globex"}):
                assert whose(guard) == "globex"
            assert whose(guard) == "acme"
        assert guard.runtime.caller().tags == {"agent": "planner", "step": "1"}
    assert whose(guard) == "house"


def test_a_scope_is_left_by_an_error_too(guard: Guard) -> None:
    with pytest.raises(KeyError), tokencap.scope({"tenant": "acme"}):
        raise KeyError
    assert whose(guard) == "house"


def test_the_record_of_a_call_says_whose_it_was_and_has_the_tags(guard: Guard) -> None:
    records: list[CallRecord] = []
    guard.on_call(records.append)
    with guard.scope({"tenant": "acme"}, tags={"agent": "researcher"}):
        spend(guard, 5)
    spend(guard, 5)
    assert [record.identifiers["tenant"] for record in records] == ["acme", "house"]
    assert [record.tags for record in records] == [{"agent": "researcher"}, {}]


def test_a_refused_call_says_whose_budget_it_was(guard: Guard) -> None:
    records: list[CallRecord] = []
    with Guard(Policy.blocking(10), backend=MemoryBackend()) as guard:
        guard.on_call(records.append)
        with guard.scope({"session": "full"}, {"agent": "a"}):
            spend(guard, 10)
            with pytest.raises(BudgetExceededError, match="session=full"):
                spend(guard, 10)
        spend(guard, 10)
    assert [(record.ending, record.identifiers["session"]) for record in records[:2]] == [
        ("ok", "full"),
        ("blocked", "full"),
    ]
    assert records[1].tags == {"agent": "a"}


def test_a_scope_of_one_guard_is_nothing_to_another(guard: Guard) -> None:
    with Guard(TENANTS, {"tenant": "other"}, MemoryBackend()) as other, guard.scope({"tenant": "acme"}):
        assert whose(guard) == "acme"
        assert whose(other) == "other"
        with tokencap.scope({"tenant": "both"}):
            assert whose(guard) == whose(other) == "both"


def test_a_call_keeps_its_budgets_until_it_is_settled(guard: Guard) -> None:
    with tokencap.scope({"tenant": "acme"}):
        session = call(guard)
        run(session.begin())
    with tokencap.scope({"tenant": "globex"}):
        session.tally.usage = TokenUsage(70)
        run(session.settle())
    assert used(guard, "acme", "globex", "house") == [70, 0, 0]


def test_thresholds_are_passed_for_each_identifier_and_tell_its_status() -> None:
    told: list[Any] = []
    half = Threshold(0.5, [warn(lambda status: told.append(status.dimensions["tenant"]))])
    with Guard(Policy({"tenant": DimensionPolicy(100, [half])}), backend=MemoryBackend()) as guard:
        for tenant in ("acme", "globex", "acme"):
            with guard.scope({"tenant": tenant}):
                spend(guard, 60)
    assert [(state.key.identifier, state.used) for state in told] == [("acme", 60), ("globex", 60)]


def test_a_settlement_that_is_kept_for_later_lands_on_the_budget_of_its_call(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = guard.backend.settle

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise tokencap.BackendError("down")

    with guard.scope({"tenant": "acme"}):
        monkeypatch.setattr(guard.backend, "settle", failing)
        spend(guard, 21)
        monkeypatch.setattr(guard.backend, "settle", settle)
    spend(guard, 1)
    assert used(guard, "acme", "house") == [21, 1]


# -- what cannot be ----------------------------------------------------------------------------------------


def test_an_unknown_dimension_is_refused_when_the_scope_of_a_guard_is_entered(guard: Guard) -> None:
    scope = guard.scope({"tennant": "acme"})
    with pytest.raises(ConfigurationError, match=r"'tennant', which the policy does not; .*'tenant'"):
        scope.__enter__()
    assert whose(guard) == "house"


def test_an_unknown_dimension_is_refused_on_entering_when_a_guard_is_active() -> None:
    scope = tokencap.scope({"tenant": "acme"})
    tokencap.init(Policy.tracking(), backend=MemoryBackend())
    with pytest.raises(ConfigurationError, match="'tenant', which the policy does not"), scope:
        pass
    tokencap.teardown()
    with scope:
        pass


def test_an_unknown_dimension_is_otherwise_refused_at_the_call(guard: Guard) -> None:
    with tokencap.scope({"team": "red"}):
        with pytest.raises(ConfigurationError, match="'team', which the policy does not"):
            spend(guard, 5)
        with pytest.raises(ConfigurationError, match="'team'"):
            guard.get_status()
    assert used(guard, "house") == [0]


@pytest.mark.parametrize("given", [{"tenant": ""}, {"tenant": 7}, {"": "a"}, ["acme"], "acme"])
def test_identifiers_and_tags_that_are_no_texts_are_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="identifier"):
        tokencap.scope(given)
    with pytest.raises(ConfigurationError, match="tag"):
        tokencap.scope(tags=given)


def test_a_scope_takes_a_copy_of_what_it_is_given(guard: Guard) -> None:
    identifiers = {"tenant": "acme"}
    scope = tokencap.scope(identifiers)
    identifiers["tenant"] = "globex"
    with scope:
        assert whose(guard) == "acme"


# -- functions ---------------------------------------------------------------------------------------------


def test_a_decorated_function_runs_in_the_scope(guard: Guard) -> None:
    @tokencap.scope({"tenant": "acme"})
    def agent(name: str, *, loud: bool) -> str:
        """Work."""
        return f"{name} {loud} {whose(guard)}"

    assert agent("bob", loud=True) == "bob True acme"
    assert (agent.__name__, agent.__doc__) == ("agent", "Work.")
    assert whose(guard) == "house"


def test_a_decorated_function_may_call_itself(guard: Guard) -> None:
    @guard.scope({"tenant": "acme"})
    def depth(left: int) -> list[str]:
        return [whose(guard), *(depth(left - 1) if left else [])]

    assert depth(3) == ["acme"] * 4
    assert whose(guard) == "house"


def test_a_decorated_coroutine_runs_in_the_scope_and_beside_others(guard: Guard) -> None:
    async def agent(tenant: str, turn: asyncio.Barrier | Any) -> str:
        await asyncio.sleep(0)
        before = whose(guard)
        await aspend(guard, 10)
        await asyncio.sleep(0)
        assert whose(guard) == before
        return before

    async def main() -> list[str]:
        tenants = [f"t{number}" for number in range(20)]
        agents = [tokencap.scope({"tenant": tenant})(agent)(tenant, None) for tenant in tenants]
        assert await asyncio.gather(*agents) == tenants
        assert whose(guard) == "house"
        return tenants

    assert used(guard, *asyncio.run(main())) == [10] * 20


def test_what_a_decorated_function_returns_to_be_awaited_runs_in_the_scope_too(guard: Guard) -> None:
    class Agent:
        async def __call__(self) -> str:
            await asyncio.sleep(0)
            return whose(guard)

    def hidden() -> Any:
        return Agent()()

    async def main() -> None:
        for agent in (Agent(), hidden):
            assert await tokencap.scope({"tenant": "acme"})(agent)() == "acme"
        assert whose(guard) == "house"

    asyncio.run(main())


def test_a_decorated_generator_is_in_the_scope_and_its_consumer_is_not(guard: Guard) -> None:
    @tokencap.scope({"tenant": "acme"})
    def steps(count: int) -> Iterator[str]:
        try:
            for _ in range(count):
                sent = yield whose(guard)
                seen.append((sent, whose(guard)))
        except KeyError:
            yield f"caught as {whose(guard)}"
        finally:
            seen.append(("end", whose(guard)))
        return "result"

    def outer() -> Iterator[str]:
        seen.append((yield from steps(1)))

    seen: list[Any] = []
    generator: Any = steps(3)
    assert next(generator) == "acme"
    assert whose(guard) == "house"
    assert generator.send("hello") == "acme"
    assert generator.throw(KeyError()) == "caught as acme"
    generator.close()
    assert seen == [("hello", "acme"), ("end", "acme")]
    assert whose(guard) == "house"
    seen.clear()
    assert list(outer()) == ["acme"]
    assert seen == [(None, "acme"), ("end", "acme"), "result"]


def test_a_decorated_async_generator_is_in_the_scope_and_its_consumer_is_not(guard: Guard) -> None:
    @tokencap.scope({"tenant": "acme"})
    async def steps(count: int) -> AsyncIterator[str]:
        try:
            for _ in range(count):
                await aspend(guard, 10)
                seen.append((yield whose(guard)))
        except KeyError:
            yield f"caught as {whose(guard)}"
        finally:
            await asyncio.sleep(0)
            seen.append(f"end as {whose(guard)}")

    seen: list[Any] = []

    async def main() -> None:
        async for tenant in steps(2):
            assert tenant == "acme"
            assert whose(guard) == "house"
            await aspend(guard, 1)
        assert seen == [None, None, "end as acme"]
        generator: Any = steps(5)
        assert await generator.asend(None) == "acme"
        assert await generator.asend("hello") == "acme"
        assert await generator.athrow(KeyError()) == "caught as acme"
        await generator.aclose()
        assert seen[3:] == ["hello", "end as acme"]
        # Every step may be made by another task.
        generator = steps(2)
        for _ in range(2):
            assert await asyncio.ensure_future(generator.__anext__()) == "acme"
        await generator.aclose()
        assert whose(guard) == "house"

    asyncio.run(main())
    assert used(guard, "acme", "house") == [60, 2]


def test_frameworks_still_see_what_kind_of_function_was_decorated() -> None:
    import inspect

    scope = tokencap.scope({"tenant": "acme"})

    async def coroutine(a: int) -> int: ...  # type: ignore[empty-body]
    async def agen() -> AsyncIterator[int]:
        yield 1

    def gen() -> Iterator[int]:
        yield 1

    assert inspect.iscoroutinefunction(scope(coroutine))
    assert inspect.isasyncgenfunction(scope(agen))
    assert inspect.isgeneratorfunction(scope(gen))
    assert list(inspect.signature(scope(coroutine)).parameters) == ["a"]


@pytest.mark.parametrize("what", ["a name", type("Agent", (), {})])
def test_a_scope_decorates_functions_and_says_so(what: Any) -> None:
    with pytest.raises(ConfigurationError, match="decorates functions"):
        tokencap.scope({"tenant": "acme"})(what)


# -- tasks, threads, generators ----------------------------------------------------------------------------


def test_a_task_inherits_the_scope_it_was_made_in_and_keeps_it(guard: Guard) -> None:
    async def main() -> tuple[str, str]:
        gate = asyncio.Event()

        async def agent() -> str:
            await gate.wait()
            with tokencap.scope(tags={"late": "yes"}):
                return whose(guard)

        with tokencap.scope({"tenant": "acme"}):
            task = asyncio.ensure_future(agent())
            await asyncio.sleep(0)
        with tokencap.scope({"tenant": "globex"}):
            gate.set()
            return await task, whose(guard)

    assert asyncio.run(main()) == ("acme", "globex")


def test_a_thread_with_a_copied_context_inherits_the_scope_and_a_bare_one_does_not(guard: Guard) -> None:
    found: dict[str, str] = {}

    def look(name: str) -> None:
        found[name] = whose(guard)

    with tokencap.scope({"tenant": "acme"}):
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=context.run, args=(look, "copied")),
            threading.Thread(target=contextvars.Context().run, args=(look, "bare")),
        ]
        for thread in threads:
            thread.start()
            thread.join()
        found["to_thread"] = asyncio.run(asyncio.to_thread(whose, guard))
    assert found == {"copied": "acme", "bare": "house", "to_thread": "acme"}


def test_one_scope_object_serves_many_tasks_and_threads_at_once(guard: Guard) -> None:
    acme = tokencap.scope({"tenant": "acme"})

    async def agent() -> None:
        with acme:
            await asyncio.sleep(0)
            with acme:
                await aspend(guard, 1)
            await aspend(guard, 1)
        await aspend(guard, 1)

    async def main() -> None:
        await asyncio.gather(*[agent() for _ in range(50)])

    def worker(_: int) -> None:
        asyncio.run(main())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(worker, range(4)))
    assert used(guard, "acme", "house") == [400, 200]


def test_a_block_in_a_context_manager_holds_for_what_it_manages(guard: Guard) -> None:
    @contextlib.contextmanager
    def request(tenant: str) -> Iterator[None]:
        with tokencap.scope({"tenant": tenant}):
            yield

    with request("acme"):
        assert whose(guard) == "acme"
    assert whose(guard) == "house"


def test_generators_may_leave_their_scopes_in_any_order(guard: Guard) -> None:
    def block(tenant: str) -> Iterator[None]:
        with tokencap.scope({"tenant": tenant}):
            yield

    first, second = block("first"), block("second")
    next(first)
    next(second)
    first.close()  # type: ignore[attr-defined]
    assert whose(guard) == "second"
    second.close()  # type: ignore[attr-defined]
    assert whose(guard) == "house"


def test_an_async_generator_that_is_dropped_in_its_scope_takes_nobody_with_it(guard: Guard) -> None:
    problems: list[Any] = []
    closed: list[str] = []

    async def block() -> AsyncIterator[str]:
        with tokencap.scope({"tenant": "acme"}):
            try:
                yield whose(guard)
            finally:
                closed.append("closed")

    async def consume() -> None:
        async for tenant in block():
            assert tenant == "acme"
            break

    async def main() -> str:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        # In a task of its own: the loop closes what is left of the generator in another context.
        await asyncio.ensure_future(consume())
        gc.collect()
        for _ in range(10):
            await asyncio.sleep(0)
        return whose(guard)

    assert asyncio.run(main()) == "house"
    assert closed == ["closed"]
    assert problems == []


# -- required ----------------------------------------------------------------------------------------------


def required(**more: Any) -> Guard:
    policy = Policy({"tenant": DimensionPolicy(100, required=True), "session": DimensionPolicy()})
    return Guard(policy, backend=MemoryBackend(), **more)


def test_a_call_without_a_required_identifier_is_refused_and_nothing_is_held() -> None:
    with required() as guard:
        with pytest.raises(
            ConfigurationError, match=r"'tenant' is required .*tokencap\.scope.*Nothing was sent"
        ):
            spend(guard, 5)
        assert list(guard.get_status().dimensions) == ["session"]
        assert guard.get_status().dimensions["session"].used == 0
        with tokencap.scope({"tenant": "acme"}):
            spend(guard, 5)
            assert guard.get_status().dimensions["tenant"].used == 5


def test_a_path_that_is_not_in_the_table_is_not_billed_to_nobody_either() -> None:
    import openai

    from wire import Wire

    wire = Wire()
    with required() as guard, guard.wrap(wire.client("openai", False)) as client:
        with pytest.raises(ConfigurationError, match="'tenant' is required"):
            client.post("/brand/new", cast_to=object, body={})
        assert wire.requests == []
        with pytest.raises(openai.NotFoundError), guard.scope({"tenant": "acme"}):
            client.post("/brand/new", cast_to=object, body={})
        # What costs nothing needs nobody.
        client.models.list()


def test_a_required_identifier_may_be_said_once_for_all() -> None:
    with required(identifiers={"tenant": "acme"}) as guard:
        spend(guard, 5)
        assert guard.get_status().dimensions["tenant"].used == 5


def test_a_budget_that_nobody_named_cannot_be_changed() -> None:
    with required() as guard:
        with pytest.raises(ConfigurationError, match="whose 'tenant' is meant"):
            guard.reset("tenant")
        assert "tenant=(said by scopes)" in guard.startup_lines()[0]


# -- limits by identifier ----------------------------------------------------------------------------------


def limited(limit: Any, **more: Any) -> Guard:
    block = Threshold(1.0, [tokencap.Action("BLOCK")])
    return Guard(Policy({"tenant": DimensionPolicy(limit, [block], **more)}), backend=MemoryBackend())


def limit_of(guard: Guard, tenant: str) -> int:
    with guard.scope({"tenant": tenant}):
        return guard.get_status().dimensions["tenant"].limit


def test_a_limit_by_identifier_has_a_default_for_all_others() -> None:
    with limited({"acme": 1_000, "*": 10}) as guard:
        assert [limit_of(guard, tenant) for tenant in ("acme", "globex")] == [1_000, 10]
        with guard.scope({"tenant": "globex"}):
            spend(guard, 10)
            with pytest.raises(BudgetExceededError, match="globex: 10 of 10"):
                spend(guard, 10)
        with guard.scope({"tenant": "acme"}):
            spend(guard, 10)
            spend(guard, 10)
        assert guard.limit_of("tenant") == "limit=10 tokens (1 with their own)"


def test_a_limit_by_function_is_asked_at_every_call() -> None:
    limits = {"acme": 10}
    with limited(lambda tenant: limits.get(tenant, 5)) as guard:
        assert limit_of(guard, "globex") == 5
        with guard.scope({"tenant": "acme"}):
            spend(guard, 10)
            with pytest.raises(BudgetExceededError):
                spend(guard, 1)
            limits["acme"] = 30
            spend(guard, 10)
            limits["acme"] = 20
            with pytest.raises(BudgetExceededError):
                spend(guard, 1)
        assert guard.limit_of("tenant") == "limit=(by function)"


def test_a_threshold_goes_by_the_limit_of_its_identifier() -> None:
    told: list[str] = []
    half = Threshold(0.5, [warn(lambda status: told.append(status.dimensions["tenant"].key.identifier))])
    policy = Policy({"tenant": DimensionPolicy({"small": 100, "*": 1_000}, [half])})
    with Guard(policy, backend=MemoryBackend()) as guard:
        for tenant in ("big", "small"):
            with guard.scope({"tenant": tenant}):
                spend(guard, 60)
    assert told == ["small"]


def test_a_limit_stored_for_an_identifier_wins_over_the_policy() -> None:
    with limited({"acme": 1_000, "*": 10}) as guard:
        guard.set_limit("tenant", 77, identifier="globex")
        assert [limit_of(guard, tenant) for tenant in ("acme", "globex", "initech")] == [1_000, 77, 10]
        with guard.scope({"tenant": "acme"}):
            guard.set_limit("tenant", 50)
            spend(guard, 50)
            with pytest.raises(BudgetExceededError):
                spend(guard, 1)
        assert limit_of(guard, "acme") == 50
        guard.reset("tenant", identifier="acme")
        assert used(guard, "acme") == [0]
        with pytest.raises(ConfigurationError, match="must be a non-empty string"):
            guard.reset("tenant", identifier="")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"acme": 5}, "needs one for all others"),
        ({}, "needs one for all others"),
        ({"*": 0}, r"the limit of '\*' is 0"),
        ({"*": 5, "acme": "many"}, "the limit of 'acme' is 'many'"),
        ({"*": 5, 7: 5}, "names the identifier 7"),
    ],
)
def test_a_bad_limit_by_identifier_is_refused_when_it_is_given(limit: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DimensionPolicy(limit)


def test_an_async_function_cannot_give_limits() -> None:
    async def limit(tenant: str) -> int:
        return 5

    with pytest.raises(ConfigurationError, match="async"):
        DimensionPolicy(limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, -5, None, 1.5, "5", True, 2**60])
def test_a_function_that_gives_no_limit_stops_the_call_before_it_is_sent(bad: Any) -> None:
    with limited(lambda tenant: bad) as guard, guard.scope({"tenant": "acme"}):
        with pytest.raises(ConfigurationError, match="the limit of 'acme', as its function gives it"):
            spend(guard, 5)
        assert used(guard, "acme") == [0]


def test_a_function_that_fails_stops_the_call_and_its_error_is_the_cause() -> None:
    def limit(tenant: str) -> int:
        raise LookupError("no such tenant")

    with limited(limit) as guard, pytest.raises(ConfigurationError, match="function that gives") as caught:
        spend(guard, 5)
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("limit", [{"*": 1_000}, lambda tenant: 1_000], ids=["mapping", "function"])
def test_an_unknown_identifier_does_not_slip_through_its_first_concurrent_calls(limit: Any) -> None:
    start = threading.Barrier(16)
    with limited(limit, strict=True) as guard:

        @tokencap.scope({"tenant": "brand new"})
        def first(_: int) -> int:
            start.wait()
            session = call(guard)
            session.body = {**session.body, "max_tokens": 100}
            try:
                run(session.begin())
            except BudgetExceededError:
                return 0
            session.tally.usage = TokenUsage(100)
            run(session.settle())
            return 100

        with ThreadPoolExecutor(16) as pool:
            served = sum(pool.map(first, range(16)))
        assert used(guard, "brand new") == [served]
        assert 0 < served <= 1_000


def test_the_plans_of_many_identifiers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokencap import _plans

    monkeypatch.setattr(_plans, "_REMEMBERED", 10)
    with limited({"*": 1_000}) as guard:
        plans = guard.runtime.plans
        first = plans.of({"tenant": "t0"})
        assert plans.of({"tenant": "t0"}) is first
        for number in range(100):
            plans.of({"tenant": f"t{number}"})
        assert len(plans._known) <= 10
        assert plans.of({"tenant": "t0"}) == first
