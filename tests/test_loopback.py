"""The loopback provider through the real SDKs: what they parse is what its journal says."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Annotated, Any, Literal, Optional, Union
from uuid import UUID

import anthropic
import openai
import pytest
from pydantic import BaseModel, Field

from needs import since
from tokencap._loopback import LoopbackProvider, count_prompt, respond
from wire import http_library

HTTP = http_library("openai")

M = "a-model"
HELLO: Any = [{"role": "user", "content": "hello"}]
WAV = ("voice.wav", b"RIFF" + bytes(3_196), "audio/wav")
PNG = ("picture.png", b"\x89PNG\r\n--not-the-boundary\r\n\r\n", "image/png")


class Answer(BaseModel):
    """Structured output with every usual kind of field."""

    class Part(BaseModel):
        weight: float
        kind: Literal["small", "large"]

    name: str
    count: int
    sure: bool
    part: Part
    parts: list[Part]
    note: Optional[str]  # noqa: UP045


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def says(*texts: str) -> Any:
    return [{"role": "user", "content": " ".join(texts)}]


@pytest.fixture(scope="module")
def serving() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def provider(serving: LoopbackProvider) -> LoopbackProvider:
    serving.clear()
    return serving


@pytest.fixture(scope="module")
def claude(serving: LoopbackProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=serving.anthropic_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def gpt(serving: LoopbackProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=serving.openai_url, api_key="none", max_retries=0) as client:
        yield client


Call = Callable[[Any], Any]


@pytest.fixture(params=["sync", "async"])
def perform(
    request: pytest.FixtureRequest, serving: LoopbackProvider, claude: anthropic.Anthropic, gpt: openai.OpenAI
) -> Call:
    """Make a call on a client of the SDK its parameter names; of a stream, return the list of its events."""

    def sync_call(call: Call) -> Any:
        result = call(claude if is_for_anthropic(call) else gpt)
        return list(result) if isinstance(result, (anthropic.Stream, openai.Stream)) else result

    async def async_call(call: Call) -> Any:
        sdk: Any = anthropic.AsyncAnthropic if is_for_anthropic(call) else openai.AsyncOpenAI
        url = serving.anthropic_url if is_for_anthropic(call) else serving.openai_url
        async with sdk(base_url=url, api_key="none", max_retries=0) as client:
            result = await call(client)
            if isinstance(result, (anthropic.AsyncStream, openai.AsyncStream)):
                return [event async for event in result]
            return result

    return sync_call if request.param == "sync" else lambda call: asyncio.run(async_call(call))


def is_for_anthropic(call: Call) -> bool:
    return call.__code__.co_varnames[0] == "anthropic"


def books(usage: Any) -> tuple[int, int, int, int]:
    """Any SDK's usage as (input with caches, output, cache reads, cache writes)."""
    if isinstance(usage, list):
        usage = usage[-1]
    if hasattr(usage, "cache_read_input_tokens"):
        read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
        return usage.input_tokens + read + written, usage.output_tokens, read, written
    if hasattr(usage, "prompt_tokens"):
        details = getattr(usage, "prompt_tokens_details", None)
        read = details.cached_tokens if details else 0
        written = details.cache_write_tokens if details else 0
        return usage.prompt_tokens, usage.total_tokens - usage.prompt_tokens, read, written
    details = getattr(usage, "input_tokens_details", None)
    read, written = getattr(details, "cached_tokens", 0), getattr(details, "cache_write_tokens", 0)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    return usage.input_tokens, usage.output_tokens, read, written


STEER = "[[output=40]] [[cache_read=50]] [[cache_write=20]] [[reasoning=9]]"
ASK_USAGE: Any = {"include_usage": True}
CALLS: dict[str, tuple[Call, Call]] = {
    "messages": (
        lambda anthropic: anthropic.messages.create(model=M, max_tokens=99, messages=says("hi", STEER)),
        lambda reply: reply.usage,
    ),
    "beta messages": (
        lambda anthropic: anthropic.beta.messages.create(model=M, max_tokens=99, messages=says("hi", STEER)),
        lambda reply: reply.usage,
    ),
    "messages, parsed": (
        lambda anthropic: anthropic.messages.parse(
            model=M, max_tokens=99, messages=HELLO, output_format=Answer
        ),
        lambda reply: isinstance(reply.parsed_output, Answer) and reply.usage,
    ),
    "messages, streamed": (
        lambda anthropic: anthropic.messages.create(
            model=M, max_tokens=99, messages=says("hi", STEER), stream=True
        ),
        lambda events: [e.usage for e in events if e.type == "message_delta"],
    ),
    "chat": (
        lambda client: client.chat.completions.create(model=M, messages=says("hi", STEER)),
        lambda reply: reply.usage,
    ),
    "chat, three choices": (
        lambda client: client.chat.completions.create(model=M, messages=says("hi", STEER), n=3),
        lambda reply: len(reply.choices) == 3 and reply.usage,
    ),
    "chat, parsed": (
        lambda client: client.chat.completions.parse(model=M, messages=HELLO, response_format=Answer),
        lambda reply: isinstance(reply.choices[0].message.parsed, Answer) and reply.usage,
    ),
    "chat, streamed": (
        lambda client: client.chat.completions.create(
            model=M, messages=says("hi", STEER), n=2, stream=True, stream_options=ASK_USAGE
        ),
        lambda events: [e.usage for e in events if not e.choices],
    ),
    "responses": (
        lambda client: client.responses.create(model=M, input="hi" + STEER),
        lambda reply: reply.output_text and reply.usage,
    ),
    "responses, parsed": (
        lambda client: client.responses.parse(model=M, input="hi", text_format=Answer),
        lambda reply: isinstance(reply.output_parsed, Answer) and reply.usage,
    ),
    "responses, streamed": (
        lambda client: client.responses.create(model=M, input="hi" + STEER, stream=True),
        lambda events: [e.response.usage for e in events if e.type == "response.completed"],
    ),
    "responses, compacted": (
        lambda client: client.responses.compact(model=M, input="hi" + STEER),
        lambda reply: reply.output[0].type == "compaction" and reply.usage,
    ),
    "completions": (
        lambda client: client.completions.create(model=M, prompt=["a" + STEER, "b"], n=2),
        lambda reply: len(reply.choices) == 4 and reply.usage,
    ),
    "completions, streamed": (
        lambda client: client.completions.create(model=M, prompt="a", stream=True, stream_options=ASK_USAGE),
        lambda events: [e.usage for e in events if e.usage],
    ),
    "embeddings": (
        lambda client: client.embeddings.create(model=M, input=["some", "words"]),
        lambda reply: len(reply.data) == 2 and reply.usage,
    ),
    "embeddings, floats": (
        lambda client: client.embeddings.create(
            model=M, input=[1, 2, 3], encoding_format="float", dimensions=4
        ),
        lambda reply: reply.data[0].embedding == [-0.375, -0.25, -0.125, 0.0] and reply.usage,
    ),
    "images": (
        lambda client: client.images.generate(model="gpt-image-1", prompt="a cat", n=2),
        lambda reply: base64.b64decode(reply.data[1].b64_json).startswith(b"\x89PNG") and reply.usage,
    ),
    "images, edited": (
        lambda client: client.images.edit(model="gpt-image-1", prompt="a cat", image=[PNG, PNG]),
        lambda reply: reply.usage.input_tokens_details.image_tokens == 544 and reply.usage,
    ),
    "images, streamed": (
        lambda client: client.images.generate(model=M, prompt="a cat", stream=True, partial_images=2),
        lambda events: [e.usage for e in events if e.type == "image_generation.completed"],
    ),
    "images, edited and streamed": (
        lambda client: client.images.edit(model=M, prompt="a cat", image=PNG, stream=True),
        lambda events: [e.usage for e in events if e.type == "image_edit.completed"],
    ),
    "transcription": (
        lambda client: client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=WAV, prompt="names"
        ),
        lambda reply: reply.usage.input_token_details.audio_tokens == 32 and reply.text and reply.usage,
    ),
    "transcription, streamed": (
        lambda client: client.audio.transcriptions.create(model="gpt-4o-transcribe", file=WAV, stream=True),
        lambda events: [e.usage for e in events if e.type == "transcript.text.done"],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_usage_an_sdk_parses_is_what_the_journal_bills(
    provider: LoopbackProvider, perform: Call, name: str
) -> None:
    call, usage_of = CALLS[name]
    usage = usage_of(perform(call))
    (entry,) = provider.journal
    assert books(usage) == (entry.input_tokens, entry.output_tokens, entry.cache_read, entry.cache_write)
    assert entry.tokens == provider.tokens > 0
    assert entry.delivered
    assert entry.stream == ("streamed" in name)
    assert provider.calls == 1


FREE: dict[str, tuple[Call, Call]] = {
    "count_tokens": (
        lambda anthropic: anthropic.messages.count_tokens(model=M, messages=HELLO),
        lambda reply: reply.input_tokens == 5,
    ),
    "input_tokens": (
        lambda client: client.responses.input_tokens.count(model=M, input="hello"),
        lambda reply: reply.input_tokens == 5,
    ),
    "anthropic model": (
        lambda anthropic: anthropic.models.retrieve("claude-haiku-4-5"),
        lambda model: model.created_at.year == 2026,
    ),
    "openai model": (lambda client: client.models.retrieve("gpt-5"), lambda model: model.id == "gpt-5"),
    "moderation": (
        lambda client: client.moderations.create(input=["a", "b"]),
        lambda reply: [r.categories.hate_threatening for r in reply.results] == [False, False],
    ),
    "dall-e": (
        lambda client: client.images.generate(model="dall-e-3", prompt="a cat"),
        lambda reply: reply.usage is None and len(reply.data) == 1,
    ),
    "whisper": (
        lambda client: client.audio.transcriptions.create(model="whisper-1", file=WAV),
        lambda reply: reply.usage.type == "duration" and reply.usage.seconds == 0.1,
    ),
    "whisper, verbose": (
        lambda client: client.audio.transcriptions.create(
            model="whisper-1", file=WAV, response_format="verbose_json"
        ),
        lambda reply: reply.duration == reply.usage.seconds == 0.1,
    ),
    "whisper, text": (
        lambda client: client.audio.transcriptions.create(
            model="whisper-1", file=WAV, response_format="text"
        ),
        lambda reply: reply.startswith("the model writes"),
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_what_is_free_is_journaled_at_nothing(provider: LoopbackProvider, perform: Call, name: str) -> None:
    call, right = FREE[name]
    assert right(perform(call))
    assert (provider.calls, provider.tokens) == (1, 0)


@pytest.mark.filterwarnings("ignore:deprecated")
def test_what_is_billed_and_not_reported_is_in_the_journal(provider: LoopbackProvider, perform: Call) -> None:
    speech = perform(lambda client: client.audio.speech.create(model="tts", input="hello", voice="alloy"))
    assert speech.content.startswith(b"ID3")
    perform(lambda client: client.audio.translations.create(model="whisper-1", file=WAV))
    assert [entry.tokens for entry in provider.journal] == [5 + 16, 16]


def test_models_are_listed_in_each_dialect(claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    assert "claude-haiku-4-5" in [model.id for model in claude.models.list()]
    assert "gpt-5" in [model.id for model in gpt.models.list()]


def test_the_messages_helper_streams_every_block(
    provider: LoopbackProvider, claude: anthropic.Anthropic
) -> None:
    with claude.messages.stream(model=M, max_tokens=99, messages=says("[[reasoning=4]]")) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 4
    assert kinds.count("text") == 4
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert provider.tokens == message.usage.input_tokens + message.usage.output_tokens


def test_the_helpers_stream_structured_output(claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    with claude.messages.stream(model=M, max_tokens=99, messages=HELLO, output_format=Answer) as stream:
        assert isinstance(stream.get_final_message().parsed_output, Answer)
    with gpt.chat.completions.stream(model=M, messages=HELLO, response_format=Answer) as chat:
        assert isinstance(chat.get_final_completion().choices[0].message.parsed, Answer)
    with gpt.responses.stream(model=M, input="hello", text_format=Answer) as responses:
        assert isinstance(responses.get_final_response().output_parsed, Answer)


def test_the_async_helpers_stream_too(provider: LoopbackProvider) -> None:
    async def main() -> list[int]:
        async with anthropic.AsyncAnthropic(base_url=provider.anthropic_url, api_key="none") as claude:
            manager = claude.messages.stream(model=M, max_tokens=99, messages=HELLO)
            async with manager as stream:
                message = await stream.get_final_message()
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none") as gpt:
            async with gpt.chat.completions.stream(
                model=M, messages=HELLO, stream_options={"include_usage": True}
            ) as chat:
                completion = await chat.get_final_completion()
            async with gpt.responses.stream(model=M, input="hello") as responses:
                response = await responses.get_final_response()
        assert completion.usage is not None
        assert response.usage is not None
        spent = message.usage.input_tokens + message.usage.output_tokens
        return [spent, completion.usage.total_tokens, response.usage.total_tokens]

    assert asyncio.run(main()) == [entry.tokens for entry in provider.journal] == [21, 21, 21]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_when_the_user_asks(
    claude: anthropic.Anthropic, gpt: openai.OpenAI, stream: bool
) -> None:
    arguments = {"city": "word", "days": 2}
    ask = says("weather? [tool]")
    tools: Any = [{"name": "weather", "input_schema": WEATHER}]
    function = {"name": "weather", "parameters": WEATHER, "strict": True}
    chat_tools: Any = [{"type": "function", "function": function}]
    response_tools: Any = [{"type": "function", **function}]
    if stream:
        with claude.messages.stream(model=M, max_tokens=99, messages=ask, tools=tools) as messages:
            message = messages.get_final_message()
        with gpt.chat.completions.stream(model=M, messages=ask, tools=chat_tools) as chat:
            choice: Any = chat.get_final_completion().choices[0]
        with gpt.responses.stream(model=M, input=ask, tools=response_tools) as responses:
            item: Any = responses.get_final_response().output[0]
    else:
        message = claude.messages.create(model=M, max_tokens=99, messages=ask, tools=tools)  # type: ignore[assignment]
        choice = gpt.chat.completions.parse(model=M, messages=ask, tools=chat_tools).choices[0]
        item = gpt.responses.parse(model=M, input=ask, tools=response_tools).output[0]
    block: Any = message.content[0]
    assert (message.stop_reason, block.name, block.input) == ("tool_use", "weather", arguments)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.parsed_arguments == arguments
    assert (item.type, item.name, item.parsed_arguments) == ("function_call", "weather", arguments)


def test_the_tool_result_is_answered_in_words(claude: anthropic.Anthropic) -> None:
    tools: Any = [{"name": "weather", "input_schema": WEATHER}]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny [tool]"}
    used = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    turns: Any = [
        *says("[tool]"),
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [result]},
    ]
    reply = claude.messages.create(model=M, max_tokens=99, messages=turns, tools=tools)
    assert reply.stop_reason == "end_turn"


def _tools_of(body: dict[str, Any]) -> list[list[str]]:
    """Return the tools called in the replies to a request for `look` and `answer`, per dialect."""
    names = ("look", "answer")
    functions = [{"name": name, "parameters": WEATHER} for name in names]
    tools = {
        "/v1/messages": [{"name": name, "input_schema": WEATHER} for name in names],
        "/v1/chat/completions": [{"type": "function", "function": function} for function in functions],
        "/v1/responses": [{"type": "function", **function} for function in functions],
    }
    called = []
    for path, offered in tools.items():
        field = "input" if path == "/v1/responses" else "messages"
        asked = {"model": M, "max_tokens": 99, field: body["messages"], "tools": offered}
        choice = body.get(path)
        reply = json.loads(
            next(
                iter(
                    respond(
                        "POST",
                        path,
                        {},
                        json.dumps({**asked, **({"tool_choice": choice} if choice else {})}).encode(),
                    ).chunks
                )
            )
        )
        if path == "/v1/messages":
            called.append([block["name"] for block in reply["content"] if block["type"] == "tool_use"])
        elif path == "/v1/responses":
            called.append([item["name"] for item in reply["output"] if item["type"] == "function_call"])
        else:
            calls = reply["choices"][0]["message"].get("tool_calls", ())
            called.append([call["function"]["name"] for call in calls])
    return called


@pytest.mark.parametrize(
    ("choices", "called"),
    [
        (({"type": "any"}, "required", "required"), "look"),
        (
            (
                {"type": "tool", "name": "answer"},
                {"type": "function", "function": {"name": "answer"}},
                {"type": "function", "name": "answer"},
            ),
            "answer",
        ),
        (({"type": "none"}, "none", "none"), ""),
        (({"type": "auto"}, "auto", "auto"), ""),
    ],
)
def test_a_tool_that_the_request_forces_is_called(choices: Any, called: str) -> None:
    paths = ("/v1/messages", "/v1/chat/completions", "/v1/responses")
    body = {"messages": says("hello"), **dict(zip(paths, choices))}
    assert _tools_of(body) == [[called] if called else []] * 3


def test_the_last_message_names_the_tool_to_call_even_if_a_tool_said_it() -> None:
    assert _tools_of({"messages": says("hello [[tool=answer]]")}) == [["answer"]] * 3
    said = [*says("hello"), {"role": "tool", "tool_call_id": "1", "content": "sunny [[tool=answer]]"}]
    assert _tools_of({"messages": said}) == [["answer"]] * 3
    assert _tools_of({"messages": [*said, *says("thanks")]}) == [[]] * 3
    assert _tools_of({"messages": says("[[tool=nothing]]")}) == [[]] * 3


def test_a_tool_runner_finishes(provider: LoopbackProvider, claude: anthropic.Anthropic) -> None:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tell the weather."""
        return f"sunny in {city}"

    message = claude.beta.messages.tool_runner(
        model=M, max_tokens=99, messages=says("[tool]"), tools=[weather]
    ).until_done()
    assert message.stop_reason == "end_turn"
    assert provider.calls == 2


def test_the_cap_ends_the_reply(claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    message = claude.messages.create(model=M, max_tokens=7, messages=HELLO)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 7)
    choice = gpt.chat.completions.create(model=M, max_completion_tokens=7, messages=HELLO).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content is not None
    assert len(choice.message.content.split()) == 7
    response = gpt.responses.create(model=M, input="hello", max_output_tokens=7)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    last = list(gpt.responses.create(model=M, input="hello", max_output_tokens=7, stream=True))[-1]
    assert last.type == "response.incomplete"
    with pytest.raises(openai.LengthFinishReasonError):
        gpt.chat.completions.parse(model=M, messages=HELLO, response_format=Answer, max_tokens=3)


def test_a_chat_stream_reports_usage_only_if_asked(provider: LoopbackProvider, gpt: openai.OpenAI) -> None:
    quiet = list(gpt.chat.completions.create(model=M, messages=HELLO, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in quiet)
    asked = list(gpt.chat.completions.create(model=M, messages=HELLO, stream=True, stream_options=ASK_USAGE))
    assert len(asked) == len(quiet) + 1
    assert [bool(chunk.choices) for chunk in asked] == [True] * len(quiet) + [False]
    first, second = provider.journal
    assert first.tokens == second.tokens == 21
    assert second.request["stream_options"] == {"include_usage": True}


def test_a_background_response_is_billed_when_found_complete(
    provider: LoopbackProvider, gpt: openai.OpenAI
) -> None:
    queued = gpt.responses.create(model=M, input="[[polls=3]]", background=True)
    assert (queued.status, queued.usage) == ("queued", None)
    seen = [gpt.responses.retrieve(queued.id) for _ in range(4)]
    assert [r.status for r in seen] == ["in_progress", "in_progress", "completed", "completed"]
    assert seen[2].usage is not None
    assert [entry.tokens for entry in provider.journal] == [0, 0, 0, seen[2].usage.total_tokens, 0]


def test_a_background_response_can_be_cancelled(provider: LoopbackProvider, gpt: openai.OpenAI) -> None:
    queued = gpt.responses.create(model=M, input="hello", background=True)
    assert gpt.responses.cancel(queued.id).status == "cancelled"
    assert gpt.responses.retrieve(queued.id).status == "cancelled"
    assert provider.tokens == 0
    with pytest.raises(openai.BadRequestError):
        gpt.responses.cancel(gpt.responses.create(model=M, input="hello").id)


def test_a_kept_response_can_be_streamed_again(provider: LoopbackProvider, gpt: openai.OpenAI) -> None:
    response = gpt.responses.create(model=M, input="hello")
    with gpt.responses.stream(response_id=response.id) as stream:
        assert stream.get_final_response().output_text == response.output_text
    assert provider.tokens == 21
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve("resp_none")


def test_history_the_server_holds_is_billed(provider: LoopbackProvider, gpt: openai.OpenAI) -> None:
    first = gpt.responses.create(model=M, input="hello")
    gpt.responses.create(model=M, input="hello", previous_response_id=first.id)
    assert [entry.input_tokens for entry in provider.journal] == [5, 5 + 21]
    with pytest.raises(openai.BadRequestError, match="not found"):
        gpt.responses.create(model=M, input="hello", previous_response_id="resp_none")


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"messages": says("hello")}, 2 + 3),
        ({"system": "be brief", "messages": [*says("hé"), *says("llo")]}, 4 + 6),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}, 2 + 3),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": "A" * 99}}]}]}, 3),
        ({"instructions": "four", "input": "four"}, 2 + 3),
        ({"input": ["four", "four"]}, 2 + 6),
        ({"input": [1, 2, 3]}, 3 + 3),
        ({"input": [[1, 2], [3]]}, 3 + 6),
        ({"prompt": "four"}, 1 + 3),
        ({"messages": [], "tools": [{"name": "a"}]}, 4),
        ({}, 0),
    ],
)
def test_a_prompt_counts_its_bytes_and_its_messages(body: Any, tokens: int) -> None:
    assert count_prompt(body) == tokens


def test_input_output_and_model_directives(provider: LoopbackProvider, gpt: openai.OpenAI) -> None:
    gpt.responses.create(model="m[[output=3]]", input="[[input=900]] [[output=5]]")
    gpt.responses.create(model="m[[output=3]]", input="x")
    assert [(e.input_tokens, e.output_tokens) for e in provider.journal] == [(900, 5), (4, 3)]


def test_compaction_is_billed_beside_the_totals(
    provider: LoopbackProvider, claude: anthropic.Anthropic
) -> None:
    reply = claude.beta.messages.create(model=M, max_tokens=99, messages=says("[[compaction=100]]"))
    assert reply.usage.iterations is not None
    assert [i.type for i in reply.usage.iterations] == ["compaction", "message"]
    events = list(
        claude.beta.messages.create(model=M, max_tokens=99, messages=says("[[compaction=100]]"), stream=True)
    )
    delta = next(event for event in events if event.type == "message_delta")
    assert delta.usage.iterations == reply.usage.iterations
    total = reply.usage.input_tokens + reply.usage.output_tokens + 110
    assert [entry.tokens for entry in provider.journal] == [total, total]


@pytest.mark.parametrize("count", [1, 5, 9])
def test_chunks_sets_the_pieces_of_a_stream(gpt: openai.OpenAI, count: int) -> None:
    events = list(gpt.responses.create(model=M, input=f"[[output=45]] [[chunks={count}]]", stream=True))
    assert sum(event.type == "response.output_text.delta" for event in events) == count


def test_nousage_hides_the_usage_and_bills_it(
    provider: LoopbackProvider, claude: anthropic.Anthropic, gpt: openai.OpenAI
) -> None:
    ask = says("[[nousage]]")
    assert getattr(claude.messages.create(model=M, max_tokens=9, messages=ask), "usage", None) is None
    assert gpt.chat.completions.create(model=M, messages=ask).usage is None
    assert gpt.responses.create(model=M, input="[[nousage]]").usage is None
    chunks = gpt.chat.completions.create(model=M, messages=ask, stream=True, stream_options=ASK_USAGE)
    assert all(chunk.usage is None for chunk in chunks)
    assert all(entry.tokens > 9 for entry in provider.journal)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503, 529])
def test_status_is_the_providers_error_and_costs_nothing(
    provider: LoopbackProvider, claude: anthropic.Anthropic, gpt: openai.OpenAI, status: int
) -> None:
    with pytest.raises(anthropic.APIStatusError) as refused:
        claude.messages.create(model=M, max_tokens=9, messages=says(f"[[status={status}]]"))
    assert refused.value.status_code == status
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["type"] == "error"
    assert refused.value.request_id
    with pytest.raises(openai.APIStatusError) as denied:
        gpt.chat.completions.create(model=M, messages=says(f"[[status={status}]]"), stream=True)
    assert denied.value.status_code == status
    assert str(status) in denied.value.message
    assert [entry.status for entry in provider.journal] == [status, status]
    assert provider.tokens == 0


def test_trouble_can_end_with_the_first_attempts(provider: LoopbackProvider) -> None:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none", max_retries=2) as patient:
        patient.chat.completions.create(model=M, messages=says("[[status=500]] [[attempts=2]]"))
    assert [(e.status, e.request["attempt"]) for e in provider.journal] == [(500, 0), (500, 1), (200, 2)]


def test_stream_options_can_be_refused(gpt: openai.OpenAI) -> None:
    ask = says("[[refuse_stream_options]]")
    assert list(gpt.chat.completions.create(model=M, messages=ask, stream=True))
    with pytest.raises(openai.BadRequestError, match="stream_options"):
        gpt.chat.completions.create(model=M, messages=ask, stream=True, stream_options=ASK_USAGE)


def test_an_unknown_path_is_not_found(claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        claude.post("/v1/nonsense", cast_to=object, body={})
    with pytest.raises(openai.NotFoundError, match="Unknown request URL"):
        gpt.post("/nonsense", cast_to=object, body={})


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
def test_a_body_that_is_no_request_is_refused(content: bytes) -> None:
    reply = respond("POST", "/v1/messages", {"Content-Type": "application/json"}, content)
    assert reply.status == 400
    assert json.loads(b"".join(reply.chunks))["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        {"model": M, "max_tokens": 0, "messages": []},
        {"model": M, "max_tokens": 9, "messages": HELLO, "tools": 5},
        {"model": M, "max_tokens": 9, "messages": HELLO, "output_config": "json"},
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(body: Any) -> None:
    assert respond("POST", "/v1/messages", {}, json.dumps(body).encode()).status == 400


class Tree(BaseModel):
    """A schema with what makes them hard: recursion and bounds."""

    name: Annotated[str, Field(min_length=6, max_length=8)]
    born: date
    at: datetime
    key: UUID
    age: Annotated[int, Field(gt=3, lt=5)]
    share: Annotated[float, Field(gt=0.25, lt=0.75)]
    even: Annotated[int, Field(ge=3, multiple_of=2)]
    small: Annotated[int, Field(le=-3)]
    left: Optional[Tree]  # noqa: UP045
    kind: Literal["only"]
    pair: Annotated[list[int], Field(min_length=2)]
    either: Union[int, str]  # noqa: UP007


def test_json_is_valid_for_the_schema_it_was_asked_by() -> None:
    form = {"type": "json_schema", "name": "tree", "schema": Tree.model_json_schema()}
    body = {"model": M, "input": "hello", "text": {"format": form}}
    reply = json.loads(b"".join(respond("POST", "/v1/responses", {}, json.dumps(body).encode()).chunks))
    Tree.model_validate_json(reply["output"][0]["content"][0]["text"])


def test_hang_and_delay_take_their_time(gpt: openai.OpenAI) -> None:
    began = time.monotonic()
    gpt.responses.create(model=M, input="[[hang=0.1]]")
    assert time.monotonic() - began >= 0.1
    with pytest.raises(openai.APITimeoutError):
        gpt.with_options(timeout=0.05).responses.create(model=M, input="[[hang=1]]")
    arrivals = []
    for _ in gpt.chat.completions.create(model=M, messages=says("[[delay=0.02]]"), stream=True):
        arrivals.append(time.monotonic())  # noqa: PERF401
    assert arrivals[-1] - arrivals[0] >= 0.02 * (len(arrivals) - 1) * 0.9


def test_a_cut_stream_breaks_off_and_bills_what_was_sent(
    provider: LoopbackProvider, claude: anthropic.Anthropic, gpt: openai.OpenAI
) -> None:
    since(openai, 3, "lets the error of its HTTP library through")
    events = []
    with pytest.raises(HTTP.RemoteProtocolError):
        for event in claude.messages.create(model=M, max_tokens=99, messages=says("[[cut=4]]"), stream=True):
            events.append(event.type)  # noqa: PERF401
    assert events == ["message_start", "content_block_start", "content_block_delta", "content_block_delta"]
    chunks = []
    with pytest.raises(openai.APIConnectionError):
        for chunk in gpt.chat.completions.create(model=M, messages=says("[[cut=3]]"), stream=True):
            chunks.append(chunk)  # noqa: PERF402
    assert len(chunks) == 3
    assert [(e.delivered, e.status, e.output_tokens) for e in provider.journal] == [(False, 200, 8)] * 2
    assert provider.tokens == sum(count_prompt({"messages": says(f"[[cut={n}]]")}) + 8 for n in (4, 3))


def test_a_plain_reply_that_is_cut_never_arrives_and_is_billed(
    provider: LoopbackProvider, gpt: openai.OpenAI
) -> None:
    with pytest.raises(openai.APIConnectionError):
        gpt.responses.create(model=M, input="[[cut=1]]")
    (entry,) = provider.journal
    assert (entry.delivered, entry.status, entry.output_tokens) == (False, 200, 16)


def test_an_error_event_ends_the_stream(
    provider: LoopbackProvider, claude: anthropic.Anthropic, gpt: openai.OpenAI
) -> None:
    ask = says("[[error_event=3]]")
    events: list[Any] = []
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        events.extend(
            event.type for event in claude.messages.create(model=M, max_tokens=99, messages=ask, stream=True)
        )
    with pytest.raises(openai.APIError, match="had an error"):
        list(gpt.chat.completions.create(model=M, messages=ask, stream=True))
    last = list(gpt.responses.create(model=M, input="[[error_event=3]]", stream=True))[-1]
    assert (last.type, last.sequence_number) == ("error", 3)
    assert [(e.delivered, e.output_tokens) for e in provider.journal] == [(True, 4), (True, 8), (True, 0)]


def test_a_response_can_fail_with_usage(provider: LoopbackProvider, gpt: openai.OpenAI) -> None:
    last = list(gpt.responses.create(model=M, input="[[failed]]", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == provider.tokens
    assert gpt.responses.create(model=M, input="[[failed]]").status == "failed"


def test_a_client_that_leaves_is_noticed(
    provider: LoopbackProvider, claude: anthropic.Anthropic, capfd: pytest.CaptureFixture[str]
) -> None:
    ask = says("[[delay=0.02]] [[output=400]] [[chunks=100]]")
    stream = claude.messages.create(model=M, max_tokens=999, messages=ask, stream=True)
    for _ in range(5):
        next(stream)
    stream.close()
    time.sleep(0.2)
    (entry,) = provider.journal
    assert not entry.delivered
    assert 12 <= entry.output_tokens < 100
    time.sleep(0.1)
    assert provider.journal == [entry]
    assert capfd.readouterr().err == ""


def test_an_in_memory_transport_serves_the_same_bytes() -> None:
    provider = LoopbackProvider()

    def handle(request: Any) -> Any:
        path = request.url.raw_path.decode()
        reply = provider.respond(request.method, path, dict(request.headers), request.read())
        return HTTP.Response(reply.status, headers=dict(reply.headers), content=b"".join(reply.chunks))

    with openai.OpenAI(
        base_url="http://nowhere/v1",
        api_key="none",
        http_client=HTTP.Client(transport=HTTP.MockTransport(handle)),
    ) as client:
        first = client.responses.create(model=M, input="hello")
        assert client.responses.retrieve(first.id).output_text == first.output_text
        with client.responses.stream(model=M, input="hello") as stream:
            usage = stream.get_final_response().usage
    assert usage is not None
    assert provider.tokens == 2 * usage.total_tokens
    assert provider.calls == 3


def test_azure_paths_are_known(provider: LoopbackProvider) -> None:
    with openai.AzureOpenAI(azure_endpoint=provider.url, api_key="none", api_version="2026-01-01") as client:
        assert client.chat.completions.create(model=M, messages=HELLO).usage is not None
    assert provider.journal[0].path == "/v1/chat/completions"


def test_the_environment_is_enough(provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in provider.environ.items():
        monkeypatch.setenv(name, value)
    with anthropic.Anthropic() as claude, openai.OpenAI() as gpt:
        claude.messages.create(model=M, max_tokens=9, messages=HELLO)
        gpt.responses.create(model=M, input="hello")
    assert provider.calls == 2


def test_it_stops_at_once_with_calls_in_flight() -> None:
    failures: list[BaseException] = []

    def ask(url: str) -> None:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            try:
                client.responses.create(model=M, input="[[hang=30]]")
            except openai.APIConnectionError as error:
                failures.append(error)

    with LoopbackProvider() as provider:
        thread = threading.Thread(target=ask, args=(provider.openai_url,))
        thread.start()
        while not provider.calls:
            time.sleep(0.01)
        began = time.monotonic()
    thread.join(5)
    assert time.monotonic() - began < 1
    assert len(failures) == 1
    with pytest.raises(RuntimeError, match="not serving"):
        _ = provider.url


def test_it_starts_again_on_the_port_it_had() -> None:
    with LoopbackProvider() as provider:
        port = int(provider.url.rpartition(":")[2])
        with pytest.raises(RuntimeError, match="already"):
            provider.__enter__()
    with LoopbackProvider(port) as again, socket.create_connection(("127.0.0.1", port)):
        assert again.url.endswith(str(port))


def test_it_sustains_many_callers(provider: LoopbackProvider) -> None:
    def thread() -> None:
        with openai.OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0) as client:
            for _ in range(25):
                client.post("/responses", cast_to=object, body={"model": M, "input": "hello"})

    async def tasks() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none", max_retries=0) as client:
            body = {"model": M, "messages": HELLO}
            await asyncio.gather(
                *(client.post("/chat/completions", cast_to=object, body=body) for _ in range(200))
            )

    threads = [threading.Thread(target=thread) for _ in range(8)]
    for each in threads:
        each.start()
    asyncio.run(tasks())
    for each in threads:
        each.join()
    assert provider.calls == 400
    assert provider.tokens == 400 * 21
    assert all(entry.delivered for entry in provider.journal)


@pytest.mark.skipif(os.name == "nt", reason="ends on SIGTERM")
def test_it_runs_as_a_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tokencap._loopback"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        environ = dict(process.stdout.readline().strip().split("=", 1) for _ in range(4))
        url = environ["ANTHROPIC_BASE_URL"]
        with openai.OpenAI(base_url=environ["OPENAI_BASE_URL"], api_key="none") as client:
            client.responses.create(model=M, input="hello")
        with urllib.request.urlopen(f"{url}/journal") as reply:
            (entry,) = json.load(reply)
        assert (entry["path"], entry["input_tokens"], entry["delivered"]) == ("/v1/responses", 5, True)
        with urllib.request.urlopen(urllib.request.Request(f"{url}/journal", method="DELETE")) as reply:
            assert json.load(reply) == []
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
