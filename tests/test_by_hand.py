"""`guard.call()`: the calls that no seam reaches, admitted, degraded and booked as all others are."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Callable

import pytest

import tokencap
from tokencap import (
    Action,
    BackendError,
    BudgetExceededError,
    CallRecord,
    ConfigurationError,
    DimensionPolicy,
    Guard,
    Policy,
    Threshold,
    TokenUsage,
)
from tokencap.backends.aio import InlineAsyncBackend
from tokencap.backends.memory import MemoryBackend


@pytest.fixture(params=["with", "async with"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make one call by hand: enter its block, do `inside(call)`, leave it; return the call."""

    def sync(guard: Guard, inside: Callable[[Any], Any], **asked: Any) -> Any:
        with guard.call(**{**ASKED, **asked}) as call:
            inside(call)
        return call

    async def asynchronous(guard: Guard, inside: Callable[[Any], Any], **asked: Any) -> Any:
        async with guard.call(**{**ASKED, **asked}) as call:
            inside(call)
        return call

    if request.param == "with":
        return sync
    return lambda *args, **kwargs: asyncio.run(asynchronous(*args, **kwargs))


ASKED: dict[str, Any] = {"provider": "openai", "model": "gpt-5", "estimate": 100}


@pytest.fixture
def records() -> list[CallRecord]:
    return []


@pytest.fixture
def guard(records: list[CallRecord]) -> Iterator[Guard]:
    with guard_of(Policy.blocking(1_000)) as guard:
        guard.on_call(records.append)
        yield guard


def guard_of(policy: Policy, **more: Any) -> Guard:
    return Guard(policy, backend=MemoryBackend(), otel_enabled=False, **more)


def books(guard: Guard) -> tuple[int, int]:
    state = guard.get_status().dimensions["session"]
    return state.used, state.reserved


def nothing(call: Any) -> None: ...


def failing(error: BaseException) -> Callable[[Any], None]:
    def fail(call: Any) -> None:
        raise error

    return fail


def test_a_call_holds_its_estimate_and_is_booked_at_what_it_says_it_took(
    make: Any, guard: Guard, records: list[CallRecord]
) -> None:
    def inside(call: Any) -> None:
        assert books(guard) == (0, 100)
        assert (call.model, call.max_output) == ("gpt-5", None)
        call.settle(TokenUsage(120, 30))
        assert books(guard) == (0, 100)

    make(guard, inside)
    assert books(guard) == (150, 0)
    (record,) = records
    assert (record.provider, record.model, record.endpoint) == ("openai", "gpt-5", "by hand")
    assert (record.tokens, record.estimate, record.estimated) == (150, 100, False)
    assert (record.usage, record.ending) == (TokenUsage(120, 30), "ok")


USAGES = [
    ("openai", {"prompt_tokens": 70, "completion_tokens": 7, "total_tokens": 77}, TokenUsage(70, 7)),
    ("openai", {"input_tokens": 70, "output_tokens": 7, "total_tokens": 77}, TokenUsage(70, 7)),
    ("openai", SimpleNamespace(input_tokens=70, output_tokens=7), TokenUsage(70, 7)),
    (
        "anthropic",
        {"input_tokens": 10, "cache_read_input_tokens": 60, "output_tokens": 7},
        TokenUsage(70, 7, cache_read_tokens=60),
    ),
    ("my-gateway", {"prompt_tokens": 70, "completion_tokens": 7}, TokenUsage(70, 7)),
    ("my-gateway", 177, TokenUsage(100, 77)),
    ("my-gateway", 40, TokenUsage(40, 0)),
    ("my-gateway", {"prompt_tokens": 0, "completion_tokens": 0}, TokenUsage()),
    ("my-gateway", 0, TokenUsage()),
]


@pytest.mark.parametrize(("provider", "given", "read"), USAGES)
def test_usage_is_read_as_its_provider_spells_it(
    provider: str, given: Any, read: TokenUsage, make: Any, guard: Guard, records: list[CallRecord]
) -> None:
    make(guard, lambda call: call.settle(given), provider=provider)
    assert records[0].usage == read
    assert books(guard) == (read.total, 0)


def test_the_last_of_several_reports_counts_and_is_booked_once(make: Any, guard: Guard) -> None:
    def inside(call: Any) -> None:
        for total in (120, 140, 160):
            call.settle(total)

    make(guard, inside)
    assert books(guard) == (160, 0)


@pytest.mark.parametrize(
    "usage",
    [-1, True, "120", {"tokens": 5}, SimpleNamespace(), 1.5, 2**53, TokenUsage(-70, 7), TokenUsage(7, 2**63)],
)
def test_what_holds_no_counts_is_refused_and_the_call_keeps_its_estimate(
    usage: Any, make: Any, guard: Guard
) -> None:
    with pytest.raises(ConfigurationError, match="usage is"):
        make(guard, lambda call: call.settle(usage))
    assert books(guard) == (100, 0)


@pytest.mark.parametrize("inside", [nothing, lambda call: call.settle(None)])
def test_a_call_that_reports_nothing_is_charged_its_estimate(
    inside: Any, make: Any, guard: Guard, records: list[CallRecord]
) -> None:
    make(guard, inside)
    assert books(guard) == (100, 0)
    assert records[0].estimated
    assert records[0].ending == "ok"


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (ValueError("what"), "failed"),
        (KeyboardInterrupt(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_a_call_that_raised_is_charged_its_estimate_and_its_error_is_left_alone(
    error: BaseException, ending: str, make: Any, guard: Guard, records: list[CallRecord]
) -> None:
    with pytest.raises(type(error)):
        make(guard, failing(error))
    assert books(guard) == (100, 0)
    assert records[0].ending == ending


def test_a_call_that_was_released_costs_nothing(make: Any, guard: Guard, records: list[CallRecord]) -> None:
    def refused(call: Any) -> None:
        call.release()
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        make(guard, refused)
    make(guard, lambda call: call.release())
    assert books(guard) == (0, 0)
    assert [record.ending for record in records] == ["failed", "ok"]


def test_what_was_reported_is_charged_though_the_call_raised_or_was_released(make: Any, guard: Guard) -> None:
    def inside(call: Any) -> None:
        call.settle(50)
        call.release()
        raise ValueError

    with pytest.raises(ValueError):
        make(guard, inside)
    assert books(guard) == (50, 0)


def test_a_call_is_refused_before_its_block_runs(make: Any, guard: Guard, records: list[CallRecord]) -> None:
    make(guard, lambda call: call.settle(950))
    ran: list[Any] = []
    with pytest.raises(BudgetExceededError) as refused:
        make(guard, ran.append)
    assert refused.value.check_result.violated == ["session"]
    assert (ran, books(guard)) == ([], (950, 0))
    assert records[-1].ending == "blocked"
    make(guard, nothing, estimate=50)
    assert books(guard) == (1_000, 0)


def degrading(to: Any) -> Guard:
    threshold = Threshold(0.5, [Action("DEGRADE", degrade_to=to)])
    return guard_of(Policy({"session": DimensionPolicy(limit=1_000, thresholds=[threshold])}))


@pytest.mark.parametrize(
    ("provider", "model", "to", "sent"),
    [
        ("openai", "gpt-5", "gpt-5-mini", "gpt-5-mini"),
        ("litellm", "openai/gpt-5", "gpt-5-mini", "gpt-5-mini"),
        ("my-gateway", "large", {"my-gateway": "small"}, "small"),
        ("my-gateway", "large", {"large": "small", "my-gateway": "other"}, "small"),
        ("anthropic", "claude-opus-5", "gpt-5-mini", "claude-opus-5"),
    ],
)
def test_a_threshold_tells_the_cheaper_model_to_call(
    provider: str, model: str, to: Any, sent: str, make: Any
) -> None:
    with degrading(to) as guard:
        asked = {"provider": provider, "model": model}
        assert make(guard, lambda call: call.settle(600), **asked).model == model
        assert make(guard, nothing, **asked).model == sent


def test_a_strict_budget_holds_the_output_too_and_lowers_its_cap(make: Any) -> None:
    with guard_of(Policy.blocking(1_000, strict=True)) as guard:

        def inside(call: Any) -> None:
            assert (call.max_output, books(guard)) == (900, (0, 1_000))
            call.settle(TokenUsage(100, 300))

        make(guard, inside, max_output=1_600)
        assert books(guard) == (400, 0)
        make(guard, lambda call: call.settle(100 + call.max_output), max_output=200)
        assert books(guard) == (700, 0)
        with pytest.raises(BudgetExceededError):
            make(guard, nothing, max_output=200, estimate=400)
        make(guard, lambda call: call.settle(100 + call.max_output), max_output=200)
        assert books(guard) == (1_000, 0)


def test_without_a_strict_budget_the_cap_is_what_was_asked(make: Any, guard: Guard) -> None:
    assert make(guard, nothing, max_output=16).max_output == 16
    assert make(guard, nothing, estimate={"prompt": "hi", "max_tokens": 9}).max_output == 9


TEXT = "word " * 200


@pytest.mark.parametrize(
    "estimate",
    [
        TEXT,
        [{"role": "user", "content": TEXT}],
        ({"role": "user", "content": TEXT},),
        {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": TEXT}]},
    ],
    ids=["text", "messages", "tuple", "request"],
)
def test_a_prompt_in_place_of_a_number_is_estimated(estimate: Any, make: Any, guard: Guard) -> None:
    make(guard, nothing, estimate=estimate)
    used, reserved = books(guard)
    assert 200 <= used <= 300
    assert reserved == 0


def test_a_hosted_tool_in_the_request_is_refused_by_a_strict_budget(make: Any) -> None:
    with guard_of(Policy.blocking(100_000, strict=True)) as guard:
        request = {"input": "hi", "tools": [{"type": "web_search"}]}
        with pytest.raises(BudgetExceededError, match="hosted tool"):
            make(guard, nothing, estimate=request)
        assert books(guard) == (0, 0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"provider": ""}, "provider is ''"),
        ({"provider": None}, "provider is None"),
        ({"model": ""}, "model is ''"),
        ({"model": 5}, "model is 5"),
        ({"estimate": 0}, "estimate is 0"),
        ({"estimate": -5}, "estimate is -5"),
        ({"estimate": 1.5}, "estimate is 1.5"),
        ({"estimate": True}, "estimate is True"),
        ({"estimate": None}, "estimate is None; it must be the prompt"),
        ({"estimate": b"text"}, "estimate is b'text'"),
        ({"max_output": 0}, "max_output is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(
    asked: dict[str, Any], message: str, guard: Guard
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        guard.call(**{**ASKED, **asked})


def test_a_call_is_made_once(make: Any, guard: Guard) -> None:
    call = make(guard, lambda call: call.settle(5))
    with pytest.raises(ConfigurationError, match="made once"):
        call.__enter__()
    with pytest.raises(ConfigurationError, match="made once"):
        asyncio.run(call.__aenter__())
    assert books(guard) == (5, 0)


def test_a_closed_guard_makes_no_calls_and_books_what_was_reported_before(records: list[CallRecord]) -> None:
    guard = guard_of(Policy.blocking(1_000))
    guard.on_call(records.append)
    with guard.call(**ASKED) as call:
        call.settle(7)
        guard.teardown()
        assert [record.tokens for record in records] == [7]
    with pytest.raises(ConfigurationError, match="closed"):
        guard.call(**ASKED)
    assert len(records) == 1


def test_calls_by_hand_share_the_budget_of_the_process_wide_guard(make: Any) -> None:
    guard = tokencap.init(Policy.blocking(1_000), backend=MemoryBackend(), otel_enabled=False)
    make(guard, lambda call: call.settle(600))
    assert tokencap.get_status().dimensions["session"].used == 600


def test_a_cancelled_wait_for_admission_leaves_nothing_held() -> None:
    async def scenario() -> None:
        with guard_of(Policy.blocking(150), wait=60.0) as guard:
            async with guard.call(**ASKED):

                async def second() -> None:
                    async with guard.call(**ASKED):
                        raise AssertionError("admitted")

                # In a context of its own, or it would count as part of the first.
                task = contextvars.Context().run(asyncio.ensure_future, second())
                while not guard.runtime.queue.waited_for(guard.runtime.plan_here().keys):  # noqa: ASYNC110
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert books(guard) == (0, 100)
            assert books(guard) == (100, 0)

    asyncio.run(scenario())


class Unanswered(InlineAsyncBackend):
    """Makes each reservation, and never says so."""

    async def reserve(self, *args: Any) -> Any:  # type: ignore[override]
        super().reserve(*args)
        self.made = True
        await asyncio.sleep(3_600)


def test_a_reservation_that_the_end_of_an_event_loop_interrupts_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryBackend()
    unanswered = Unanswered(store)
    monkeypatch.setattr(store, "as_async", lambda: unanswered)
    with Guard(Policy.blocking(1_000), backend=store, otel_enabled=False) as guard:

        async def leave() -> None:
            async def one() -> None:
                async with guard.call(**ASKED):
                    raise AssertionError("admitted")

            task = asyncio.ensure_future(one())
            while not hasattr(unanswered, "made"):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert not task.done()

        asyncio.run(leave())
        assert books(guard) == (0, 0)


class Failing(MemoryBackend):
    broken = False

    def reserve(self, *args: Any) -> Any:
        if self.broken:
            raise BackendError("gone")
        return super().reserve(*args)

    def settle(self, *args: Any) -> Any:
        if self.broken:
            raise BackendError("gone")
        return super().settle(*args)


def test_a_store_that_fails_lets_no_call_by_hand_through(make: Any) -> None:
    store = Failing()
    with Guard(Policy.blocking(1_000), backend=store, otel_enabled=False) as guard:
        store.broken = True
        ran: list[Any] = []
        with pytest.raises(BackendError):
            make(guard, ran.append)
        store.broken = False
        assert (ran, books(guard)) == ([], (0, 0))


def test_a_store_that_fails_at_the_end_loses_nothing_and_raises_nothing(make: Any) -> None:
    store = Failing()
    with Guard(Policy.blocking(1_000), backend=store, otel_enabled=False) as guard:

        def inside(call: Any) -> None:
            store.broken = True
            call.settle(70)

        make(guard, inside)
        store.broken = False
        assert books(guard) == (70, 0)
