"""Budgets that start anew, from the client's side: real SDKs, and a store whose clock the test sets."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import tokencap
from stores import CLOCKED, STORES
from tokencap import (
    Action,
    BudgetExceededError,
    ConfigurationError,
    DimensionPolicy,
    Guard,
    Policy,
    ResetPeriod,
    Threshold,
)
from tokencap._loopback import LoopbackProvider

BLOCK = Threshold(1.0, [Action("BLOCK")])


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 28, 22, 30, tzinfo=timezone.utc).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=CLOCKED)
def backend(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Any:
    store = STORES[request.param](tmp_path, clock=clock)
    yield store.handle()
    store.close()


@pytest.fixture
def claude(loopback: LoopbackProvider) -> Any:
    with anthropic.Anthropic(max_retries=0) as client:
        yield client


def ask(client: Any, words: int = 30) -> Any:
    messages: Any = [{"role": "user", "content": "word " * words}]
    return client.messages.create(model="claude-sonnet-4-6", max_tokens=40, messages=messages)


def until_refused(client: Any) -> BudgetExceededError:
    with pytest.raises(BudgetExceededError) as caught:
        for _ in range(50):
            ask(client)
    return caught.value


def test_what_is_refused_today_is_sent_tomorrow(
    backend: Any, clock: Clock, claude: Any, loopback: LoopbackProvider
) -> None:
    warned: list[int] = []
    warn = Action("WARN", callback=lambda status: warned.append(status.dimensions["tenant"].used))
    policy = DimensionPolicy(
        limit=300,
        thresholds=[Threshold(0.5, [warn]), BLOCK],
        reset_every=ResetPeriod.DAY,
        timezone="Europe/Berlin",
    )
    tokencap.init(Policy({"tenant": policy}), identifiers={"tenant": "acme"}, backend=backend, quiet=True)
    client = tokencap.wrap(claude, quiet=True)
    spent: list[int] = []
    # The second of these days has 23 hours.
    for midnight in ("2026-03-28T23:00", "2026-03-29T22:00", "2026-03-30T22:00"):
        error = until_refused(client)
        state = client.get_status().dimensions["tenant"]
        end = datetime.fromisoformat(midnight + "+00:00")
        assert state.resets_at == end.timestamp()
        assert f"until {end:%Y-%m-%d %H:%M} UTC" in str(error)
        assert state.previous_used == (spent[-1] if spent else 0)
        spent.append(state.used)
        assert sum(spent) == loopback.tokens
        assert len(warned) == len(spent)
        assert 150 <= warned[-1] <= 300
        clock.now = end.timestamp() - 1
        until_refused(client)
        clock.now = end.timestamp()
    assert client.get_status().dimensions["tenant"].used == 0


def test_a_rolling_budget_lets_calls_through_as_older_ones_leave_it(
    backend: Any, clock: Clock, claude: Any, loopback: LoopbackProvider
) -> None:
    policy = Policy(
        {"tenant": DimensionPolicy(limit=300, thresholds=[BLOCK], window=timedelta(hours=1), strict=True)},
        max_output_tokens=40,
        min_output_tokens=40,
    )
    with Guard(policy, {"tenant": "acme"}, backend) as guard:
        client = guard.wrap(claude)
        sent: list[tuple[float, int]] = []
        refused = 0
        for _ in range(60):
            before = loopback.tokens
            try:
                ask(client, 5)
            except BudgetExceededError:
                refused += 1
            sent.append((clock.now, loopback.tokens - before))
            hour = [tokens for at, tokens in sent if at > clock.now - 3600]
            assert sum(hour) <= 300
            clock.now += 250
        assert refused
        assert sum(1 for _, tokens in sent[30:] if tokens) > 3


def test_a_stream_that_ends_in_the_next_window_is_charged_to_its_own(
    backend: Any, clock: Clock, claude: Any, loopback: LoopbackProvider
) -> None:
    policy = Policy({"tenant": DimensionPolicy(limit=300, thresholds=[BLOCK], reset_every=ResetPeriod.HOUR)})
    with Guard(policy, {"tenant": "acme"}, backend) as guard:
        client = guard.wrap(claude)
        messages: Any = [{"role": "user", "content": "hello"}]
        with client.messages.stream(model="claude-sonnet-4-6", max_tokens=40, messages=messages) as stream:
            next(iter(stream))
            clock.now += 1800
            stream.until_done()
        state = client.get_status().dimensions["tenant"]
        assert (state.used, state.previous_used, state.reserved) == (0, loopback.tokens, 0)


def test_coroutines_too(backend: Any, clock: Clock, loopback: LoopbackProvider) -> None:
    policy = Policy(
        {"tenant": DimensionPolicy(limit=100, thresholds=[BLOCK], reset_every=ResetPeriod.MINUTE)}
    )

    async def main() -> None:
        with Guard(policy, {"tenant": "acme"}, backend) as guard:
            async with openai.AsyncOpenAI(max_retries=0) as plain:
                client = guard.wrap(plain)
                messages: Any = [{"role": "user", "content": "hello"}]
                for _ in range(2):
                    with pytest.raises(BudgetExceededError):
                        for _ in range(50):
                            await client.chat.completions.create(model="gpt-4o", messages=messages)
                    clock.now += 60
            await backend.as_async().aclose()

    asyncio.run(main())


# -- grants ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
def test_a_grant_is_for_one_identifier_and_one_window(
    backend: Any, clock: Clock, claude: Any, strict: bool
) -> None:
    policy = Policy(
        {
            "tenant": DimensionPolicy(
                limit=300, thresholds=[BLOCK], reset_every=ResetPeriod.HOUR, strict=strict
            )
        }
    )
    with Guard(policy, {"tenant": "acme"}, backend) as acme, Guard(policy, {"tenant": "b"}, backend) as other:
        client = acme.wrap(claude)
        until_refused(client)
        first = client.get_status().dimensions["tenant"].used
        other.grant("tenant", "acme", 50_000)
        state = client.get_status().dimensions["tenant"]
        assert (state.limit, state.granted, state.remaining) == (50_300, 50_000, 50_300 - first)
        for _ in range(10):
            ask(client)
        assert client.get_status().dimensions["tenant"].used > 300
        assert other.get_status().dimensions["tenant"].limit == 300
        clock.now += 1800
        assert client.get_status().dimensions["tenant"].limit == 300
        assert until_refused(client).check_result.states["tenant"].limit == 300


def test_a_grant_that_makes_no_sense_is_refused(backend: Any) -> None:
    with Guard(Policy.blocking(10), {"session": "s"}, backend) as guard:
        for given, said in [
            (("tenant", "acme", 1), "no dimension 'tenant'"),
            (("session", "", 1), "non-empty string"),
            (("session", 7, 1), "non-empty string"),
            (("session", "s", 0), "at least 1"),
            (("session", "s", 1.5), "whole number"),
        ]:
            with pytest.raises(ConfigurationError, match=said):
                guard.grant(*given)  # type: ignore[arg-type]
        guard.grant("session", "s", 5)
        assert guard.get_status().dimensions["session"].limit == 15
    with pytest.raises(ConfigurationError, match="closed"):
        guard.grant("session", "s", 5)


# -- what is printed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "printed"),
    [
        ({"reset_every": "day"}, "limit=50 tokens per day"),
        ({"window": timedelta(hours=1)}, "limit=50 tokens in any 1:00:00"),
        ({}, "limit=50 tokens"),
    ],
)
def test_the_start_up_line_says_how_long_the_limit_is_for(period: Any, printed: str) -> None:
    policy = Policy({"session": DimensionPolicy(limit=50, thresholds=[BLOCK], **period)})
    with Guard(policy) as guard:
        assert guard.startup_lines()[0].endswith(f" {printed}")
