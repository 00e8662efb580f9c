"""Never executed: mypy and pyright read it. What a type checker says of the public face."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Callable, Union

import anthropic
import cohere
import openai
from anthropic.lib.bedrock import AnthropicBedrock
from anthropic.lib.vertex import AnthropicVertex, AsyncAnthropicVertex
from anthropic.resources import AsyncMessages, Messages
from anthropic.types import Message
from google import genai
from mistralai.client import Mistral
from openai.resources import Embeddings
from openai.resources.chat import AsyncCompletions, Completions
from openai.resources.responses import Responses
from openai.types.chat import ChatCompletion
from typing_extensions import assert_type

import tokencap
from tokencap import (
    Action,
    ActionKind,
    BudgetExceededError,
    BudgetState,
    Call,
    CallRecord,
    CheckResult,
    ChildStatus,
    Coverage,
    CoverageRow,
    CoverageStatus,
    DimensionPolicy,
    Guard,
    GuardedAnthropic,
    GuardedAsyncAnthropic,
    GuardedAsyncOpenAI,
    GuardedOpenAI,
    Policy,
    Provider,
    StatusResponse,
    Threshold,
    ThresholdInfo,
    TokenUsage,
    WouldHave,
)
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.protocol import Backend
from tokencap.backends.redis import RedisBackend
from tokencap.backends.sqlite import SQLiteBackend

policy = Policy({"session": DimensionPolicy(limit=50_000)})
guard = Guard(policy)


def wrapping() -> None:
    assert_type(tokencap.wrap(anthropic.Anthropic()), GuardedAnthropic)
    assert_type(tokencap.wrap(anthropic.AsyncAnthropic(), limit=5), GuardedAsyncAnthropic)
    assert_type(tokencap.wrap(openai.OpenAI(), policy=policy), GuardedOpenAI)
    assert_type(tokencap.wrap(openai.OpenAI(), limit=None, policy=policy), GuardedOpenAI)
    assert_type(tokencap.wrap(openai.AsyncOpenAI(), 5, quiet=True), GuardedAsyncOpenAI)
    assert_type(tokencap.wrap(openai.AzureOpenAI(), limit=5), openai.AzureOpenAI)
    assert_type(tokencap.wrap(openai.AsyncAzureOpenAI(), policy=policy), openai.AsyncAzureOpenAI)
    assert_type(tokencap.wrap(AnthropicBedrock(), limit=5), AnthropicBedrock)
    assert_type(tokencap.wrap(AsyncAnthropicVertex(), policy=policy), AsyncAnthropicVertex)
    assert_type(tokencap.wrap(openai.OpenAI(), limit=5, strict=True, wait=2.5), GuardedOpenAI)
    assert_type(tokencap.wrap(genai.Client(), limit=5), genai.Client)
    assert_type(tokencap.wrap(Mistral(), limit=5), Mistral)
    assert_type(tokencap.wrap(cohere.ClientV2(), limit=5), cohere.ClientV2)


def wrapping_by_a_guard() -> None:
    assert_type(guard.wrap(anthropic.Anthropic()), GuardedAnthropic)
    assert_type(guard.wrap(anthropic.AsyncAnthropic()), GuardedAsyncAnthropic)
    assert_type(guard.wrap(openai.OpenAI()), GuardedOpenAI)
    assert_type(guard.wrap(openai.AsyncOpenAI()), GuardedAsyncOpenAI)
    assert_type(guard.wrap(openai.AzureOpenAI()), openai.AzureOpenAI)
    assert_type(guard.wrap(openai.AsyncAzureOpenAI()), openai.AsyncAzureOpenAI)
    assert_type(guard.wrap(AnthropicVertex()), AnthropicVertex)
    assert_type(guard.wrap(genai.Client()), genai.Client)
    assert_type(guard.wrap(Mistral()), Mistral)
    assert_type(guard.wrap(cohere.AsyncClientV2()), cohere.AsyncClientV2)
    assert_type(guard.wrap_anthropic(anthropic.Anthropic()), GuardedAnthropic)
    assert_type(guard.wrap_anthropic(anthropic.AsyncAnthropic()), GuardedAsyncAnthropic)
    assert_type(guard.wrap_anthropic(AnthropicBedrock()), AnthropicBedrock)
    assert_type(guard.wrap_openai(openai.OpenAI()), GuardedOpenAI)
    assert_type(guard.wrap_openai(openai.AsyncOpenAI()), GuardedAsyncOpenAI)
    assert_type(guard.wrap_openai(openai.AzureOpenAI()), openai.AzureOpenAI)
    assert_type(guard.wrap_openai(openai.AsyncAzureOpenAI()), openai.AsyncAzureOpenAI)


def a_wrapped_client_is_the_client_that_went_in(question: str) -> str:
    client = tokencap.wrap(anthropic.Anthropic(), limit=int(os.environ.get("TOKENCAP_LIMIT", "50000")))
    assert_type(client.get_status(), StatusResponse)
    message = client.messages.create(
        model="claude-sonnet-4-6", max_tokens=9, messages=[{"role": "user", "content": question}]
    )
    assert_type(message, Message)
    with client.messages.stream(
        model="claude-sonnet-4-6", max_tokens=9, messages=[{"role": "user", "content": question}]
    ) as stream:
        assert_type(stream.get_final_message().usage.output_tokens, int)
    plain: anthropic.Anthropic = client
    return plain.api_key or ""


async def an_async_client_too() -> None:
    async with tokencap.wrap(openai.AsyncOpenAI()) as client:
        reply = await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hello"}]
        )
        assert_type(reply, ChatCompletion)
        assert_type(client.get_status(), StatusResponse)


def the_process_wide_guard() -> None:
    assert_type(tokencap.init(), Guard)
    assert_type(tokencap.init(policy, {"session": "s"}, RedisBackend("redis://h"), True, True), Guard)
    tokencap.patch()
    tokencap.patch(limit=5, providers=[Provider.ANTHROPIC, "openai"])
    tokencap.patch(policy=policy, providers=("openai",))
    tokencap.unpatch()
    assert_type(tokencap.get_status(), StatusResponse)
    tokencap.teardown()
    assert_type(tokencap.__version__, str)


def status(found: StatusResponse) -> None:
    assert_type(found.timestamp, str)
    assert_type(found.dimensions, dict[str, BudgetState])
    assert_type(found.active_policy, str)
    assert_type(found.next_threshold, Union[ThresholdInfo, None])
    state = found.dimensions["session"]
    assert_type((state.limit, state.used, state.remaining, state.reserved), tuple[int, int, int, int])
    assert_type(state.pct_used, float)


def refusal() -> None:
    try:
        tokencap.wrap(openai.OpenAI()).embeddings.create(model="m", input="text")
    except BudgetExceededError as error:
        assert_type(error.check_result, CheckResult)
        assert_type(error.check_result.violated, list[str])
        assert_type(error.check_result.states, dict[str, BudgetState])
        assert_type(error.contended, bool)


def on_warn(found: StatusResponse) -> None: ...


async def on_warn_async(found: StatusResponse) -> None: ...


def policies(by_provider: Mapping[str, str]) -> None:
    actions = [
        Action(kind=ActionKind.WARN, callback=on_warn),
        Action(kind=ActionKind.WARN, callback=on_warn_async),
        Action(kind="WARN", callback=on_warn),
        Action(kind=ActionKind.DEGRADE, degrade_to="claude-haiku-4-5"),
        Action(kind=ActionKind.DEGRADE, degrade_to=by_provider),
        Action(kind="BLOCK"),
        Action(kind="WEBHOOK", webhook_url="https://your-app.com/alerts"),
    ]
    thresholds = [Threshold(at_pct=0.8, actions=actions), Threshold(at_pct=1, actions=(actions[0],))]
    made = Policy(dimensions={"a": DimensionPolicy(limit=1, thresholds=thresholds)}, name="mine")
    assert_type(made.dimensions, Mapping[str, DimensionPolicy])


def guards() -> None:
    with Guard(policy=policy, identifiers={"session": "s"}, backend=SQLiteBackend(path="x.db")) as mine:
        assert_type(mine, Guard)
        assert_type(mine.get_status(), StatusResponse)
    shared: list[Backend] = [SQLiteBackend("x.db"), MemoryBackend(), RedisBackend("redis://h")]
    hook: Callable[[CallRecord], None] = watched
    Guard(policy, backend=shared[0], otel_enabled=False).on_call(hook)


def watched(record: CallRecord) -> None:
    assert_type(record.usage, Union[TokenUsage, None])
    assert_type(record.tokens, int)


def by_hand(usage: object) -> None:
    with guard.call(provider="litellm", model="m", estimate=1_200) as call:
        assert_type(call, Call)
        assert_type((call.model, call.max_output), tuple[str, Union[int, None]])
        call.settle(TokenUsage(1_000, 200))
        call.settle(1_200)
        call.settle(usage)
        call.release()
    with guard.call(provider=Provider.OPENAI, model="m", estimate=[{"role": "user"}], max_output=64):
        pass


async def by_hand_async() -> None:
    async with guard.call(provider="litellm", model="m", estimate="a prompt") as call:
        assert_type(call, Call)
        assert_type(call.settle(5), None)


def report() -> None:
    found = tokencap.coverage()
    assert_type(found, Coverage)
    assert_type(found.sdks, Mapping[str, str])
    assert_type(found.rows, tuple[CoverageRow, ...])
    assert_type(found.rows[0].status, CoverageStatus)
    assert_type(found.rows[0].methods, tuple[str, ...])
    assert_type(found.rows[0].calls, int)


@tokencap.scope(identifiers={"tenant": "acme"}, tags={"agent": "researcher"})
async def in_a_scope(question: str) -> int:
    return len(question)


async def scopes_and_children() -> None:
    assert_type(await in_a_scope("why?"), int)
    with tokencap.scope({"tenant": "acme"}), guard.scope(tags={"step": "1"}):
        child = guard.child("researcher", limit=5_000)
        assert_type(child, Guard)
        assert_type(child.child("reader", policy=Policy.from_file("tokencap.toml")), Guard)
    guard.set_limit("tenant", 5, identifier="acme")
    found = guard.get_status()
    assert_type((found.direct, found.subtree), tuple[int, int])
    assert_type(found.children["researcher"], ChildStatus)
    assert_type(found.would_have["BLOCK"], int)
    DimensionPolicy(limit={"acme": 5, "*": 1})
    DimensionPolicy(limit=len, required=True)
    DimensionPolicy(limit=1, reset_every="day")


def observed(record: CallRecord) -> None:
    assert_type(record.would_have, tuple[WouldHave, ...])
    assert_type((record.identifiers, record.tags), tuple[Mapping[str, str], Mapping[str, str]])


def the_methods_are_the_sdks_own() -> None:
    claude = tokencap.wrap(anthropic.Anthropic())
    assert_type(claude.messages, Messages)
    assert_type(claude.with_options(max_retries=0), GuardedAnthropic)
    gpt = tokencap.wrap(openai.OpenAI())
    assert_type(gpt.chat.completions, Completions)
    assert_type(gpt.responses, Responses)
    assert_type(gpt.embeddings, Embeddings)
    assert_type(gpt.with_options(max_retries=0), GuardedOpenAI)
    assert_type(tokencap.wrap(openai.AsyncOpenAI()).chat.completions, AsyncCompletions)
    assert_type(tokencap.wrap(anthropic.AsyncAnthropic()).messages, AsyncMessages)
