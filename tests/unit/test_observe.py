"""`enforce=False`: everything is counted, what would have been done is reported, and nothing is done."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from calls import aspend, block, call, degrade, spend, warn, webhook
from typing_extensions import Self

from tokencap import (
    BackendError,
    BudgetExceededError,
    CallRecord,
    DimensionPolicy,
    Guard,
    Policy,
    Threshold,
    TokenUsage,
)
from tokencap._flow import arun, run
from tokencap.backends.memory import MemoryBackend
from tokencap.policy import ActionKind


def never(status: Any) -> None:
    raise AssertionError("a policy that is only observed calls nobody")


STEPS = [
    Threshold(0.5, [warn(never), webhook("http://127.0.0.1:9/never")]),
    Threshold(0.8, [degrade("gpt-4o-mini")]),
    Threshold(1.0, [block()]),
]


def observing(limit: Any = 100, *, enforce: bool = False, **more: Any) -> Policy:
    return Policy({"session": DimensionPolicy(limit, STEPS, **more)}, enforce=enforce)


class Trial:
    """A Guard of a policy that is only observed, and its records."""

    def __init__(self, policy: Policy, **more: Any) -> None:
        self.guard = Guard(policy, backend=MemoryBackend(), **more)
        self.records: list[CallRecord] = []
        self.guard.on_call(self.records.append)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.guard.teardown()

    @property
    def told(self) -> list[list[tuple[str, float | None]]]:
        return [[(one.kind.value, one.at_pct) for one in record.would_have] for record in self.records]


def test_what_would_have_been_done_is_in_the_record_of_each_call_and_nothing_is_done() -> None:
    with Trial(observing()) as trial:
        changes = [spend(trial.guard, tokens) for tokens in (40, 20, 25, 20, 5)]
        assert changes == [{}] * 5
        assert trial.told == [
            [],
            [("WARN", 0.5), ("WEBHOOK", 0.5)],
            [],
            [("DEGRADE", 0.8)],
            [("BLOCK", 1.0)],
        ]
        status = trial.guard.get_status()
        assert status.dimensions["session"].used == 110
        assert status.would_have == {"WARN": 1, "WEBHOOK": 1, "DEGRADE": 1, "BLOCK": 1}
        assert [record.ending for record in trial.records] == ["ok"] * 5


async def _async_calls(guard: Guard) -> None:
    for _ in range(3):
        await aspend(guard, 60)


def test_async_calls_are_observed_just_the_same() -> None:
    import asyncio

    with Trial(observing()) as trial:
        asyncio.run(_async_calls(trial.guard))
        assert trial.told == [[("WARN", 0.5), ("WEBHOOK", 0.5)], [], [("BLOCK", 1.0)]]


def test_each_thing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tokencap")
    with Trial(observing(), identifiers={"session": "s"}) as trial:
        for _ in range(5):
            spend(trial.guard, 60)
    lines = [record.message for record in caplog.records]
    assert lines == [
        "observe only: WARN of session=s at 50% would have been due",
        "observe only: WEBHOOK of session=s at 50% would have been due",
        "observe only: BLOCK of session=s at 100% would have been due",
    ]


def test_a_strict_dimension_writes_no_cap_and_says_what_it_would_have_refused() -> None:
    policy = Policy({"session": DimensionPolicy(200, strict=True)}, enforce=False)
    with Trial(policy) as trial:
        assert spend(trial.guard, 10) == {}
        session = call(trial.guard)
        session.body = {**session.body, "tools": [{"type": "web_search"}]}
        assert run(session.begin()) == {}
        session.tally.usage = TokenUsage(1)
        run(session.settle())
        # Without a cap of its own, a call would have been held more than that.
        assert trial.told == [[("BLOCK", 1.0)], [("BLOCK", 1.0)]]


def test_the_ceilings_of_a_call_are_observed() -> None:
    policy = Policy({"session": DimensionPolicy()}, enforce=False, max_prompt_tokens=20, max_output_tokens=9)
    with Trial(policy) as trial:
        assert spend(trial.guard, 10) == {}
        assert spend(trial.guard, 10, prompt="a long story " * 50) == {}
        assert trial.told == [[], [("BLOCK", None)]]
        assert trial.records[1].would_have[0].dimension == ""


def test_a_missing_identifier_and_a_failing_limit_are_observed_too() -> None:
    def limit(tenant: str) -> int:
        raise LookupError(tenant)

    policy = Policy(
        {
            "tenant": DimensionPolicy(100, required=True),
            "team": DimensionPolicy(limit),
            "session": DimensionPolicy(),
        },
        enforce=False,
    )
    with Trial(policy) as trial:
        spend(trial.guard, 10)
        assert [one.dimension for one in trial.records[0].would_have] == ["tenant", "team"]
        assert list(trial.records[0].identifiers) == ["session"]
        assert trial.guard.get_status().dimensions["session"].used == 10


def test_a_store_that_fails_does_not_stop_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise BackendError("down")

    for policy, stopped in ((observing(), False), (observing(enforce=True), True)):
        with Trial(policy) as trial:
            reserve = trial.guard.backend.reserve
            monkeypatch.setattr(trial.guard.backend, "reserve", failing)
            if stopped:
                with pytest.raises(BackendError):
                    spend(trial.guard, 10)
            else:
                spend(trial.guard, 10)
            monkeypatch.setattr(trial.guard.backend, "reserve", reserve)
            assert trial.guard.get_status().dimensions["session"].used == (0 if stopped else 10)


def test_no_prompt_is_counted_at_the_provider_for_a_policy_that_is_only_observed() -> None:
    with Trial(observing()) as trial:
        session = call(trial.guard)
        session._exact = never  # type: ignore[assignment]
        run(session.begin())
        run(session.release())


def test_a_budget_observed_first_and_then_enforced_warns_then() -> None:
    told: list[Any] = []
    backend = MemoryBackend()
    for enforce in (False, True):
        policy = Policy(
            {"session": DimensionPolicy(100, [Threshold(0.5, [warn(told.append)])])}, enforce=enforce
        )
        with Guard(policy, {"session": "s"}, backend) as guard:
            spend(guard, 60)
        assert len(told) == enforce


def test_an_enforced_policy_reports_nothing_of_the_kind() -> None:
    with Trial(Policy.blocking(100)) as trial:
        spend(trial.guard, 100)
        with pytest.raises(BudgetExceededError):
            spend(trial.guard, 10)
        assert trial.guard.get_status().would_have == {}
        assert [record.would_have for record in trial.records] == [(), ()]


def test_a_cancelled_call_is_observed_without_harm() -> None:
    import asyncio

    async def main(guard: Guard) -> None:
        session = call(guard)
        await arun(session.begin())
        await arun(session.release(billed=True))

    with Trial(observing(5)) as trial:
        asyncio.run(main(trial.guard))
        assert ActionKind.BLOCK in [one.kind for one in trial.records[0].would_have]


def test_the_start_up_line_says_so() -> None:
    with Trial(observing()) as trial:
        assert trial.guard.startup_lines()[0].endswith("limit=100 tokens (observe only)")
