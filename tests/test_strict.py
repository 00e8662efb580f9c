"""A limit is a limit: what a strict budget serves, whoever calls and however many at once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import anthropic
import openai
import pytest

import fleet
import tokencap
from forked import forks, in_a_fork
from stores import STORES, Store
from tokencap import BudgetExceededError, Guard, Policy
from tokencap._loopback import LoopbackProvider

OUTPUT = 1_000
PROMPT = f"[[output={OUTPUT}]][[hang=0.02]]"

Call = Callable[..., Any]


def messages(client: Any, prompt: str = PROMPT, cap: int = OUTPUT, **more: Any) -> Any:
    return client.messages.create(
        model="claude-sonnet-4-6", max_tokens=cap, messages=[{"role": "user", "content": prompt}], **more
    )


def chat(client: Any, prompt: str = PROMPT, cap: int = OUTPUT, **more: Any) -> Any:
    return client.chat.completions.create(
        model="gpt-4o", max_tokens=cap, messages=[{"role": "user", "content": prompt}], **more
    )


def responses(client: Any, prompt: str = PROMPT, cap: int = OUTPUT, **more: Any) -> Any:
    return client.responses.create(model="gpt-5", max_output_tokens=cap, input=prompt, **more)


WAYS = {
    "messages": (messages, anthropic.Anthropic, anthropic.AsyncAnthropic),
    "chat": (chat, openai.OpenAI, openai.AsyncOpenAI),
    "responses": (responses, openai.OpenAI, openai.AsyncOpenAI),
}


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> tuple[Call, type, type]:
    if request.param == "responses" and not hasattr(openai.OpenAI, "responses"):
        pytest.skip("this version of the openai SDK has no Responses API")
    return WAYS[request.param]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.service)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


def size_of(loopback: LoopbackProvider, call: Call, client: type) -> int:
    """What one call costs, by the provider's own books."""
    with client(max_retries=0) as plain:
        call(plain)
    tokens = loopback.tokens
    loopback.clear()
    return tokens


class Watch:
    """Looks at the books from outside, all the time, for an instant in which the limit is passed."""

    def __init__(self, guard: Guard, store: Store) -> None:
        self._guard, self._backend = guard, store.handle()
        self._stop = threading.Event()
        self.worst = 0
        self._looking = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        keys = [(budget.key, budget.limit) for budget in self._guard.runtime.plan_here().budgets]
        while not self._stop.wait(0.001):
            for state in self._backend.get_states(keys):
                self.worst = max(self.worst, state.used + state.reserved - state.limit)
            self._looking.set()

    def __enter__(self) -> Any:
        self._thread.start()
        assert self._looking.wait(20)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.worst <= 0, f"passed the limit by {self.worst} tokens"


def served(call: Callable[[], Any]) -> int:
    try:
        call()
    except BudgetExceededError:
        return 0
    return 1


def check_books(guard: Guard, loopback: LoopbackProvider) -> None:
    state = guard.get_status().dimensions["session"]
    assert state.used == loopback.tokens <= state.limit
    assert (state.reserved, state.calls) == (0, 0)


def strict(limit: int, store: Store, **more: Any) -> Guard:
    return Guard(Policy.blocking(limit, strict=True), backend=store.handle(), **more)


def test_seven_calls_in_a_row(way: Any, store: Store, loopback: LoopbackProvider) -> None:
    call, client, _ = way
    limit = int(7.5 * size_of(loopback, call, client))
    with strict(limit, store) as guard, Watch(guard, store), guard.wrap(client(max_retries=0)) as wrapped:
        assert sum(served(lambda: call(wrapped)) for _ in range(10)) == 7
        check_books(guard, loopback)


def test_seven_calls_of_forty_threads(way: Any, store: Store, loopback: LoopbackProvider) -> None:
    call, client, _ = way
    limit = int(7.5 * size_of(loopback, call, client))
    with strict(limit, store) as guard, Watch(guard, store), guard.wrap(client(max_retries=0)) as wrapped:
        with ThreadPoolExecutor(40) as pool:
            assert sum(pool.map(lambda _: served(lambda: call(wrapped)), range(40))) == 7
        check_books(guard, loopback)


def test_seven_calls_of_two_hundred_tasks(way: Any, store: Store, loopback: LoopbackProvider) -> None:
    call, client, async_client = way
    limit = int(7.5 * size_of(loopback, call, client))

    async def main(guard: Guard) -> int:
        async with guard.wrap(async_client(max_retries=0)) as wrapped:

            async def one() -> int:
                try:
                    await call(wrapped)
                except BudgetExceededError:
                    return 0
                return 1

            count = sum(await asyncio.gather(*[one() for _ in range(200)]))
        await guard.backend.as_async().aclose()
        return count

    with strict(limit, store) as guard, Watch(guard, store):
        assert asyncio.run(main(guard)) == 7
        check_books(guard, loopback)


@forks
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.service)])
def test_seven_calls_of_eight_processes_with_eight_threads(
    kind: str, tmp_path: Path, loopback: LoopbackProvider
) -> None:
    limit = int(7.5 * size_of(loopback, lambda c: chat(c, "[[output=1000]][[hang=0.05]]"), openai.OpenAI))
    made = STORES[kind](tmp_path)
    handle = made.handle()
    where = str(tmp_path / "tokencap.db")
    if kind == "redis":
        from backends.redis_servers import shared_server

        where = f"{shared_server().url}#{made.opener.args[1]}"  # type: ignore[attr-defined]
    found = in_a_fork(lambda: fleet.spend_together(where, limit, 8, 8), 60)
    assert found == {"served": 7, "refused": 57}
    (state,) = handle.get_states([(tokencap.BudgetKey("session", "fleet"), limit)])
    assert (state.used, state.reserved) == (loopback.tokens, 0)
    made.close()


def test_seven_streams(way: Any, store: Store, loopback: LoopbackProvider) -> None:
    call, client, _ = way
    limit = int(7.5 * size_of(loopback, call, client))
    with strict(limit, store) as guard, Watch(guard, store), guard.wrap(client(max_retries=0)) as wrapped:
        assert sum(served(lambda: list(call(wrapped, stream=True))) for _ in range(10)) == 7
        check_books(guard, loopback)


def test_streams_broken_off_after_one_chunk_cost_what_was_delivered(
    way: Any, store: Store, loopback: LoopbackProvider
) -> None:
    call, client, _ = way
    limit = int(7.5 * size_of(loopback, call, client))
    prompt = "[[output=1000]][[chunks=2]][[delay=0.005]]"

    def first_half(wrapped: Any) -> None:
        seen = 0
        with call(wrapped, prompt, stream=True) as stream:
            for event in stream:
                seen += "word word word" in str(event)
                if seen:
                    break

    with strict(limit, store) as guard, Watch(guard, store), guard.wrap(client(max_retries=0)) as wrapped:
        count = sum(served(lambda: first_half(wrapped)) for _ in range(20))
        state = guard.get_status().dimensions["session"]
    # Half of each reply was delivered in its first chunk.
    assert 7 <= count <= 2 * 7.5
    assert 0 < state.used <= state.limit


def test_seven_calls_after_twenty_that_failed(way: Any, store: Store, loopback: LoopbackProvider) -> None:
    call, client, _ = way
    limit = int(7.5 * size_of(loopback, call, client))
    with strict(limit, store) as guard, Watch(guard, store), guard.wrap(client(max_retries=0)) as wrapped:
        for _ in range(20):
            with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)):
                call(wrapped, "[[status=500]]" + PROMPT)
        assert sum(served(lambda: call(wrapped)) for _ in range(10)) == 7
        check_books(guard, loopback)


def test_seven_embeddings(store: Store, loopback: LoopbackProvider) -> None:
    def embed(client: Any) -> Any:
        return client.embeddings.create(model="text-embedding-3-small", input="e" * 400 + "[[input=400]]")

    limit = int(7.5 * size_of(loopback, embed, openai.OpenAI))
    with strict(limit, store) as guard, guard.wrap(openai.OpenAI(max_retries=0)) as wrapped:
        assert sum(served(lambda: embed(wrapped)) for _ in range(10)) == 7
        check_books(guard, loopback)


def test_a_prompt_of_ten_budgets_is_refused_unsent(
    way: Any, store: Store, loopback: LoopbackProvider
) -> None:
    call, client, _ = way
    with strict(5_000, store) as guard, guard.wrap(client(max_retries=0)) as wrapped:
        with pytest.raises(BudgetExceededError) as error:
            call(wrapped, "a b " * 50_000)
        assert not error.value.contended
        assert loopback.calls == 0
        check_books(guard, loopback)


@pytest.mark.parametrize("seen", [0, 3])
def test_an_output_cap_of_ten_budgets_is_clamped_or_refused(
    way: Any, store: Store, loopback: LoopbackProvider, seen: int
) -> None:
    call, client, _ = way
    with strict(2_000, store) as guard, Watch(guard, store), guard.wrap(client(max_retries=0)) as wrapped:
        for _ in range(seen):
            call(wrapped, "[[output=100]]")
        if served(lambda: call(wrapped, "[[output=60000]]", cap=20_000)):
            entry = loopback.journal[-1]
            assert entry.output_tokens < 2_000
        else:
            # Nothing is known of this model yet, and less than half of what was asked would be no answer.
            assert seen == 0
        check_books(guard, loopback)


@pytest.mark.parametrize("least", [50, 900])
def test_the_stated_minimum_decides_between_clamping_and_refusing(
    store: Store, loopback: LoopbackProvider, least: int
) -> None:
    policy = Policy(
        {"session": tokencap.DimensionPolicy(limit=500, strict=True)}, min_output_tokens=least, name="strict"
    )
    with Guard(policy, backend=store.handle()) as guard, guard.wrap(openai.OpenAI()) as wrapped:
        assert served(lambda: chat(wrapped, "[[output=2000]]", cap=2_000)) == (least == 50)
        check_books(guard, loopback)


def test_a_small_budget_serves_a_call_that_states_no_cap(store: Store, loopback: LoopbackProvider) -> None:
    with strict(400, store) as guard, Watch(guard, store), guard.wrap(openai.OpenAI()) as wrapped:
        prompt = [{"role": "user", "content": "[[output=2000]]"}]
        reply = wrapped.chat.completions.create(model="gpt-4o", messages=prompt)
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens >= 256
        check_books(guard, loopback)


@pytest.mark.parametrize(
    ("model", "stated", "field"),
    [
        ("gpt-5", {}, "max_completion_tokens"),
        ("llama-4", {}, "max_tokens"),
        ("gpt-5", {"max_tokens": 9_000}, "max_tokens"),
        ("llama-4", {"max_completion_tokens": 9_000}, "max_completion_tokens"),
    ],
)
def test_the_cap_is_written_where_the_endpoint_reads_it(
    tmp_path: Path, loopback: LoopbackProvider, model: str, stated: dict[str, int], field: str
) -> None:
    policy = Policy(
        {"session": tokencap.DimensionPolicy(limit=5_000, strict=True)},
        max_output_tokens=600,
        min_output_tokens=100,
    )
    sent: list[dict[str, Any]] = []
    with Guard(policy) as guard, openai.OpenAI() as plain:
        wrapped = guard.wrap(plain)
        original = type(wrapped).request

        def spy(self: Any, cast_to: Any, options: Any, **more: Any) -> Any:
            sent.append(options.json_data)
            return original(self, cast_to, options, **more)

        type(wrapped).request = spy  # type: ignore[method-assign]
        try:
            wrapped.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "[[output=9000]]"}], **stated
            )
        finally:
            type(wrapped).request = original  # type: ignore[method-assign]
        guard.backend.close()
    cap = sent[0][field]
    assert cap == 600 if not stated else 100 <= cap < 5_000
    assert loopback.journal[-1].output_tokens == cap
    assert {"max_tokens", "max_completion_tokens"} & set(sent[0]) == {field}


def test_a_thinking_budget_is_not_cut_into(loopback: LoopbackProvider) -> None:
    policy = Policy({"session": tokencap.DimensionPolicy(limit=3_000, strict=True)}, min_output_tokens=10)
    with Guard(policy) as guard, guard.wrap(anthropic.Anthropic()) as wrapped:
        thinking = {"type": "enabled", "budget_tokens": 4_000}
        assert not served(lambda: messages(wrapped, cap=5_000, thinking=thinking))
        assert loopback.calls == 0
        guard.backend.close()


def test_n_choices_are_held_n_times(store: Store, loopback: LoopbackProvider) -> None:
    with strict(5_500, store) as guard, guard.wrap(openai.OpenAI()) as wrapped:
        chat(wrapped, "[[output=1000]]", n=5)
        assert loopback.journal[-1].output_tokens == 5_000
        check_books(guard, loopback)


@pytest.mark.parametrize(
    ("request_of", "word"),
    [
        ({"input": "x", "previous_response_id": "resp_unknown"}, "resp_unknown"),
        ({"input": "x", "conversation": "conv_1"}, "conv_1"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "web_search"),
        ({"prompt": {"id": "pmpt_1"}}, "stored prompt"),
    ],
)
def test_a_prompt_that_cannot_be_bounded_is_refused_and_the_error_says_why(
    loopback: LoopbackProvider, request_of: dict[str, Any], word: str
) -> None:
    with Guard(Policy.blocking(100_000, strict=True)) as guard, guard.wrap(openai.OpenAI()) as wrapped:
        with pytest.raises(BudgetExceededError, match=word) as error:
            wrapped.responses.create(model="gpt-5", **request_of)
        assert error.value.check_result.violated == ["session"]
        assert loopback.calls == 0
        guard.backend.close()


@pytest.mark.parametrize(
    "asked", [{"fallbacks": [{"model": "claude-y"}]}, {"compaction": {"type": "summarize"}}]
)
def test_what_a_message_costs_beside_its_prompt_and_its_cap_cannot_be_bounded(
    loopback: LoopbackProvider, asked: dict[str, Any]
) -> None:
    with Guard(Policy.blocking(100_000, strict=True)) as guard, guard.wrap(anthropic.Anthropic()) as wrapped:
        with pytest.raises(BudgetExceededError, match=next(iter(asked))):
            wrapped.beta.messages.create(
                model="claude-x",
                max_tokens=10,
                messages=[{"role": "user", "content": "hi"}],
                extra_body=asked,
            )
        assert loopback.calls == 0
        guard.backend.close()


def test_history_at_the_provider_is_bounded_by_its_last_known_size(loopback: LoopbackProvider) -> None:
    with Guard(Policy.blocking(100_000, strict=True)) as guard, guard.wrap(openai.OpenAI()) as wrapped:
        first = responses(wrapped, "[[output=900]]")
        second = responses(wrapped, "go on", previous_response_id=first.id)
        assert second.usage.input_tokens > first.usage.total_tokens
        check_books(guard, loopback)
        guard.backend.close()


def test_a_breach_is_logged_recorded_and_learned(
    loopback: LoopbackProvider, caplog: pytest.LogCaptureFixture
) -> None:
    records: list[tokencap.CallRecord] = []
    with Guard(Policy.blocking(100_000, strict=True)) as guard, guard.wrap(openai.OpenAI()) as wrapped:
        guard.on_call(records.append)
        with caplog.at_level(logging.ERROR, "tokencap"):
            chat(wrapped, "[[input=5000]] hi", cap=10)
        assert "strict budget passed" in caplog.text
        assert records[-1].tokens == 5_010 > records[-1].held
        # The next call of this model holds as much more.
        caplog.clear()
        chat(wrapped, "[[input=5000]] hi", cap=10)
        assert records[-1].tokens == 5_010 <= records[-1].held
        assert not caplog.records
        guard.backend.close()


def test_wrap_and_patch_take_strict(loopback: LoopbackProvider) -> None:
    client = tokencap.wrap(openai.OpenAI(), limit=500, strict=True, quiet=True)
    assert not served(lambda: chat(client, cap=2_000))
    client.close()
    tokencap.teardown()
    tokencap.patch(limit=500, strict=True, quiet=True)
    with openai.OpenAI() as patched:
        assert not served(lambda: chat(patched, cap=2_000))
    assert loopback.calls == 0


def test_strict_needs_a_limit() -> None:
    with pytest.raises(tokencap.ConfigurationError, match="strict"):
        tokencap.wrap(openai.OpenAI(api_key="x"), strict=True)
    with pytest.raises(tokencap.ConfigurationError, match="strict"):
        tokencap.DimensionPolicy(strict=True)
