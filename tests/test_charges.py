"""What a call is charged, by how it went: the rules of account, through the real SDKs, on SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokencap import (
    Action,
    ActionKind,
    BudgetExceededError,
    ConfigurationError,
    DimensionPolicy,
    Policy,
    Threshold,
)
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.clients import counting, options
from wire import (
    OPENAI_URL,
    Books,
    Missing,
    Wire,
    at,
    done,
    drive,
    entered,
    http_library,
    importable,
    listed,
    reply_events,
    reply_json,
    require_content,
    sse,
    step,
)

CALLS = {
    "messages": ("anthropic", "messages.create", "POST /v1/messages"),
    "beta messages": ("anthropic", "beta.messages.create", "POST /v1/messages"),
    "chat": ("openai", "chat.completions.create", "POST /v1/chat/completions"),
    "responses": ("openai", "responses.create", "POST /v1/responses"),
}


def arguments(name: str, told: str) -> dict[str, Any]:
    said = [{"role": "user", "content": told}]
    if "messages" in name:
        return {"model": "claude-x", "max_tokens": 1000, "messages": said}
    return {"model": "gpt-x", "messages": said} if name == "chat" else {"model": "gpt-x", "input": told}


async def call(client: Any, name: str, told: str = "hello", **more: Any) -> Any:
    result = await done(at(client, CALLS[name][1])(**arguments(name, told), **more))
    return await listed(result) if more.get("stream") else result


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteBackend]:
    folder: Path = tmp_path_factory.mktemp("charges")
    backend = SQLiteBackend(str(folder / "tokencap.db"))
    yield backend
    backend.close()


@pytest.fixture
def books(store: SQLiteBackend) -> Iterator[Books]:
    with Books(store) as books:
        yield books


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    yield
    options._refuses_usage.clear()
    counting._failed_at.clear()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


@pytest.fixture(params=CALLS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "stream"])
def stream(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"stream": True} if request.param else {}


def guarded(books: Books, wire: Wire, name: str, is_async: bool, **options: Any) -> Any:
    """A guarded client for a call of this name."""
    return books.guard.wrap(wire.client(CALLS[name][0], is_async, **options))


def make(books: Books, wire: Wire, name: str, is_async: bool, told: str = "hello", **more: Any) -> Any:
    return drive(call(guarded(books, wire, name, is_async), name, told, **more), is_async)


# -- usage that is reported --------------------------------------------------------------------------------


def test_a_cached_and_an_uncached_run_of_a_conversation_debit_the_same(
    name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    make(books, wire, name, is_async, "[[input=500]]", **stream)
    uncached = books.used
    make(books, wire, name, is_async, "[[input=500]] [[cache_read=300]] [[cache_write=150]]", **stream)
    assert books.used - uncached == uncached == 516
    usage = books.last.usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (500, 300, 150)


@pytest.mark.parametrize("beside", ["compaction", "advisor", "declined"])
@pytest.mark.parametrize("name", ["messages", "beta messages"])
def test_iterations_that_the_totals_leave_out_are_charged(
    beside: str, name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    make(books, wire, name, is_async, f"[[input=500]] [[{beside}=2000]]", **stream)
    assert books.used == wire.tokens == 500 + 16 + 2000 + 200


def test_pictures_that_the_model_had_made_are_charged_beside_its_own_tokens(
    stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    make(books, wire, "responses", is_async, "[[input=500]] [[drawn=2000]]", **stream)
    assert books.used == wire.tokens == 500 + 16 + 2000 + 200


@pytest.mark.parametrize("path", ["/responses", "/images/generations"])
def test_the_drawing_of_an_svg_is_charged_beside_the_rest(path: str, books: Books, wire: Wire) -> None:
    svg = {"model": "gpt-x", "input_tokens": 70, "output_tokens": 7, "total_tokens": 77}
    usage = {"input_tokens": 500, "output_tokens": 16, "total_tokens": 516}
    item = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "svg_usage": svg}
    reply = {"id": "resp_1", "created": 1, "status": "completed", "output": [item], "usage": usage}
    wire.answers["POST", f"/v1{path}"] = lambda request: reply_json(
        reply if path == "/responses" else {"created": 1, "usage": usage, "svg_usage": svg}
    )
    client = guarded(books, wire, "responses", False)
    client.post(path, cast_to=object, body={"model": "gpt-x"})
    assert books.used == 516 + 77


def test_reasoning_is_a_part_of_the_output(
    name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    make(books, wire, name, is_async, "[[input=500]] [[output=60]] [[reasoning=30]]", **stream)
    assert books.used == wire.tokens == 560
    assert books.last.usage is not None
    assert books.last.usage.reasoning_tokens == 30


@pytest.mark.parametrize(("told", "tokens"), [("[[input=90000]]", 90_016), ("[[input=1]] [[output=1]]", 2)])
def test_what_is_reported_counts_above_and_below_the_estimate(
    told: str, tokens: int, name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    make(books, wire, name, is_async, told, **stream)
    assert (books.used, books.reserved) == (tokens, 0)
    assert books.last.tokens != books.last.estimate


def test_a_lone_call_may_overrun_and_the_next_is_refused(store: SQLiteBackend, name: str, wire: Wire) -> None:
    with Books(store, 1_000) as books:
        make(books, wire, name, False, "[[input=5000]]")
        assert books.used == 5_016
        with pytest.raises(BudgetExceededError) as refused:
            make(books, wire, name, False)
        assert refused.value.check_result.violated == ["session"]
        assert len(wire.sent) == 1


def test_a_reply_without_usage_is_charged_its_prompt_and_its_text(
    name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    make(books, wire, name, is_async, "[[nousage]] [[output=50]]", **stream)
    words = ["the", "model", "writes", "one", "short", "plain", "word", "for", "each", "token", "it", "bills"]
    text = " ".join((words * 5)[:50])
    assert books.used == books.last.estimate + -(-len(text) // 4)
    assert (books.last.estimated, books.last.ending, books.reserved) == (True, "ok", 0)


class Answer(pydantic.BaseModel):
    word: str


@pytest.mark.parametrize(
    ("kind", "method", "form"),
    [
        ("anthropic", "messages.parse", "output_format"),
        ("openai", "chat.completions.parse", "response_format"),
        ("openai", "responses.parse", "text_format"),
    ],
)
def test_a_parsed_reply_without_usage_is_charged_its_text_once(
    kind: str, method: str, form: str, is_async: bool, books: Books, wire: Wire
) -> None:
    client = books.guard.wrap(wire.client(kind, is_async))
    try:
        ask = at(client, method)
    except AttributeError:
        pytest.skip("not in this version")
    told = arguments(method.split(".")[0], "[[nousage]] [[output=50]]")
    drive(done(ask(**told, **{form: Answer})), is_async)
    charged = books.used - books.last.estimate
    text = len('{"word": "word"}') + 46  # spaces, to be 50 tokens
    assert text / 4 <= charged < text / 3


def test_a_reply_that_reports_nonsense_is_charged_an_estimate(
    name: str, is_async: bool, books: Books, wire: Wire
) -> None:
    method, _, path = CALLS[name][2].partition(" ")
    odd = {"input_tokens": None, "output_tokens": "many", "prompt_tokens": -5, "total_tokens": True}
    wire.answers[method, path] = lambda request: reply_json({"id": "x", "object": "y", "usage": odd})
    make(books, wire, name, is_async)
    assert books.used == books.last.estimate > 0
    assert books.last.estimated


# -- calls that fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 429, 500, 503, 529])
def test_an_error_status_costs_nothing(
    status: int, name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    with pytest.raises(sdk.APIStatusError) as error:
        make(books, wire, name, is_async, f"[[status={status}]]", **stream)
    assert error.value.status_code == status
    assert (books.used, books.reserved, len(wire.requests)) == (0, 0, 1)
    assert (books.last.ending, books.last.tokens) == ("failed", 0)


@pytest.mark.parametrize("trouble", ["ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"])
def test_a_connection_never_made_costs_nothing(
    trouble: str, name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    wire.down = trouble
    with pytest.raises(sdk.APIConnectionError):
        make(books, wire, name, is_async, **stream)
    assert (books.used, books.reserved, len(books.calls)) == (0, 0, 1)


@pytest.mark.parametrize("trouble", ["ReadTimeout", "ReadError", "RemoteProtocolError", "WriteError"])
def test_a_connection_lost_after_sending_is_charged_the_prompt(
    trouble: str, name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    wire.down = trouble
    with pytest.raises(sdk.APIConnectionError):
        make(books, wire, name, is_async, **stream)
    assert books.used == books.last.estimate > 0
    assert (books.reserved, books.last.ending, books.last.estimated) == (0, "failed", True)


@pytest.mark.parametrize(
    ("trouble", "charged"),
    [("ServerDisconnectedError", True), ("ClientOSError", True), ("ClientConnectorError", False)],
)
def test_with_aiohttp_below_the_sdk_a_lost_connection_is_told_from_one_never_made(
    trouble: str, charged: bool, name: str, is_async: bool, books: Books, wire: Wire
) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    below = type(trouble, (OSError,), {"__module__": "aiohttp.client_exceptions"})

    def lose(request: Any) -> Any:
        raise http_library(CALLS[name][0]).ConnectTimeout("as the SDKs have it") from below()

    method, _, path = CALLS[name][2].partition(" ")
    wire.answers[method, path] = lose
    with pytest.raises(sdk.APITimeoutError):
        make(books, wire, name, is_async)
    assert books.used == books.last.estimate * charged
    assert books.last.estimate > 0


def test_why_another_call_failed_before_says_nothing_of_this_one(
    name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    client = guarded(books, wire, name, is_async)

    async def fall_back() -> None:
        wire.down = "ConnectError"
        try:
            await call(client, name, **stream)
        except sdk.APIConnectionError:
            wire.down = "ReadTimeout"
            await call(client, name, **stream)

    with pytest.raises(sdk.APITimeoutError):
        drive(fall_back(), is_async)
    assert [record.tokens > 0 for record in books.calls] == [False, True]


def test_a_reply_that_does_not_come_in_time_is_charged_the_prompt(
    name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    with pytest.raises(sdk.APITimeoutError):
        make(books, wire, name, is_async, "[[hang=5]]", timeout=0.05, **stream)
    assert books.used == books.last.estimate > 0
    assert books.reserved == 0


def test_a_task_cancelled_after_sending_is_charged_the_prompt(
    name: str, stream: dict[str, Any], books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = guarded(books, wire, name, True)
        task = asyncio.ensure_future(call(client, name, "[[hang=5]]", **stream))
        while not wire.requests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert books.used == books.last.estimate > 0
    assert (books.reserved, books.last.ending) == (0, "cancelled")


def test_a_task_that_times_out_is_charged_the_prompt(name: str, books: Books, wire: Wire) -> None:
    async def run() -> None:
        await asyncio.wait_for(call(guarded(books, wire, name, True), name, "[[hang=5]]"), 0.02)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(run())
    assert books.used == books.last.estimate > 0
    assert books.reserved == 0


def test_a_missing_api_key_costs_nothing(
    is_async: bool, books: Books, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    client = wire.client("anthropic", is_async)
    client.api_key = None
    client = books.guard.wrap(client)
    client.api_key = None
    with pytest.raises((TypeError, anthropic.AnthropicError)):
        drive(call(client, "messages"), is_async)
    assert (books.used, books.reserved, wire.requests) == (0, 0, [])


def test_a_body_that_is_no_json_costs_nothing(name: str, is_async: bool, books: Books, wire: Wire) -> None:
    with pytest.raises(TypeError):
        make(books, wire, name, is_async, metadata={"x": object()})
    assert (books.used, books.reserved, wire.requests) == (0, 0, [])


def test_a_call_the_sdk_repeats_is_one_call(
    name: str, stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    client = guarded(books, wire, name, is_async, max_retries=2)
    drive(call(client, name, "[[status=500]] [[attempts=2]]", **stream), is_async)
    assert len(wire.requests) == 3
    assert (books.used, len(books.calls), books.reserved) == (wire.tokens, 1, 0)


def test_a_call_repeated_in_vain_costs_nothing(name: str, is_async: bool, books: Books, wire: Wire) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    client = guarded(books, wire, name, is_async, max_retries=1)
    with pytest.raises(sdk.APIStatusError):
        drive(call(client, name, "[[status=429]]"), is_async)
    assert len(wire.requests) == 2
    assert (books.used, len(books.calls), books.reserved) == (0, 1, 0)


# -- paid replies the SDK makes an error of ----------------------------------------------------------------


def parse(client: Any, name: str, **more: Any) -> Any:
    told = arguments(name, "hello")
    if name == "chat":
        return at(client, "chat.completions.parse")(**told, response_format=Answer, **more)
    if name == "responses":
        return at(client, "responses.parse")(**told, text_format=Answer, **more)
    return at(client, "messages.parse")(**told, output_format=Answer, **more)


def test_a_reply_too_short_to_be_parsed_is_charged(is_async: bool, books: Books, wire: Wire) -> None:
    async def run() -> None:
        await done(parse(guarded(books, wire, "chat", is_async), "chat", max_completion_tokens=1))

    with pytest.raises(openai.LengthFinishReasonError):
        drive(run(), is_async)
    assert (books.used, books.reserved, len(books.calls)) == (wire.tokens, 0, 1)
    assert wire.tokens > 0


@pytest.mark.parametrize("name", ["chat", "responses", "messages"])
def test_a_reply_that_does_not_fit_its_schema_is_charged(
    name: str, is_async: bool, books: Books, wire: Wire
) -> None:
    method, _, path = CALLS[name][2].partition(" ")
    said = "this is no JSON"
    usage = {
        "input_tokens": 70,
        "output_tokens": 7,
        "prompt_tokens": 70,
        "completion_tokens": 7,
        "total_tokens": 77,
    }
    reply = {
        "id": "x",
        "object": "chat.completion" if name == "chat" else "response",
        "created": 1,
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "usage": usage,
        "type": "message",
        "role": "assistant",
        "stop_reason": "end_turn",
        "content": [{"type": "text", "text": said}],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
        "output": [
            {
                "type": "message",
                "id": "m",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": said, "annotations": []}],
            }
        ],
    }
    if name == "messages":
        reply["usage"] = {"input_tokens": 70, "output_tokens": 7}
    wire.answers[method, path] = lambda request: reply_json(reply, tokens=(70, 7))

    async def run() -> None:
        try:
            await done(parse(guarded(books, wire, name, is_async), name))
        except Missing as missing:
            pytest.skip(str(missing))

    with pytest.raises(pydantic.ValidationError):
        drive(run(), is_async)
    assert (books.used, books.reserved, len(books.calls)) == (77, 0, 1)


def test_a_streamed_reply_too_short_to_be_parsed_is_charged(is_async: bool, books: Books, wire: Wire) -> None:
    async def run() -> None:
        client = guarded(books, wire, "chat", is_async)
        try:
            helper = at(client, "chat.completions.stream")
        except Missing:
            helper = at(client, "beta.chat.completions.stream")
        told = {**arguments("chat", "hello"), "max_completion_tokens": 1, "response_format": Answer}
        async with entered(helper(**told)) as events:
            await listed(events)

    with pytest.raises(openai.LengthFinishReasonError):
        drive(run(), is_async)
    assert (books.used, books.reserved, len(books.calls)) == (wire.tokens, 0, 1)


def test_a_reply_that_fails_strict_validation_is_charged(
    name: str, is_async: bool, books: Books, wire: Wire
) -> None:
    sdk: Any = {"anthropic": anthropic, "openai": openai}[CALLS[name][0]]
    method, _, path = CALLS[name][2].partition(" ")
    usage = {"input_tokens": 70, "output_tokens": 7, "total_tokens": 77}
    wire.answers[method, path] = lambda request: reply_json({"id": 5, "usage": usage}, tokens=(70, 7))
    client = guarded(books, wire, name, is_async, _strict_response_validation=True)
    with pytest.raises(sdk.APIResponseValidationError):
        drive(call(client, name), is_async)
    assert (books.used, books.reserved, len(books.calls)) == (77, 0, 1)


def test_a_reply_that_is_no_json_is_charged_the_prompt(
    name: str, is_async: bool, books: Books, wire: Wire
) -> None:
    method, _, path = CALLS[name][2].partition(" ")
    broken = reply_json({})
    wire.answers[method, path] = lambda request: type(broken)(
        200, {"content-type": "application/json"}, [b'{"id": "x", '], broken.entry
    )
    with pytest.raises(ValueError):
        make(books, wire, name, is_async)
    assert books.used == books.last.estimate > 0
    assert books.reserved == 0


# -- work that goes on at the provider ---------------------------------------------------------------------


def test_a_background_response_holds_until_a_retrieval_reports_it(
    is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = guarded(books, wire, "responses", is_async)
        made = await call(client, "responses", "hello [[polls=3]]", background=True)
        for _ in range(2):
            assert (books.used, books.state.calls) == (0, 1)
            assert books.reserved > 0
            await done(client.responses.retrieve(made.id))
        await done(client.responses.retrieve(made.id))
        assert (books.used, books.reserved, len(books.calls)) == (wire.tokens, 0, 1)
        assert wire.tokens > 0
        await done(client.responses.retrieve(made.id))
        assert (books.used, len(books.calls)) == (wire.tokens, 1)

    drive(run(), is_async)


def test_a_background_response_that_is_cancelled_is_charged_its_prompt(
    is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = guarded(books, wire, "responses", is_async)
        made = await call(client, "responses", background=True)
        await done(client.responses.cancel(made.id))
        assert books.used == books.last.estimate > 0
        assert books.reserved == 0

    drive(run(), is_async)


def test_a_retrieval_that_fails_or_is_refused_by_no_budget_leaves_the_response_open(
    is_async: bool, store: SQLiteBackend, wire: Wire
) -> None:
    async def run(books: Books) -> None:
        client = guarded(books, wire, "responses", is_async)
        made = await call(client, "responses", "hello [[polls=1]]", background=True)
        books.use_up()
        wire.down = "ReadError"
        with pytest.raises(openai.APIConnectionError):
            await done(client.responses.retrieve(made.id))
        wire.down = None
        assert books.state.calls == 1
        await done(client.responses.retrieve(made.id))
        assert (books.used, books.reserved) == (1_000_000 + wire.tokens, 0)

    with Books(store, 1_000_000) as books:
        drive(run(books), is_async)


def test_a_background_stream_is_counted_in_the_stream_itself(
    is_async: bool, books: Books, wire: Wire
) -> None:
    make(books, wire, "responses", is_async, background=True, stream=True)
    assert (books.used, books.reserved, len(books.calls)) == (wire.tokens, 0, 1)


def test_a_background_stream_left_early_is_settled_by_a_later_retrieval(
    is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = guarded(books, wire, "responses", is_async)
        told = arguments("responses", "hello [[output=40]]")
        stream = await done(client.responses.create(**told, background=True, stream=True))
        async with entered(stream):
            first = await (stream.__anext__() if is_async else done(next(stream)))
        assert books.state.calls == 1
        await done(client.responses.retrieve(first.response.id))
        assert (books.reserved, len(books.calls)) == (0, 1)
        assert books.last.usage is not None
        assert books.used == books.last.usage.total > 40

    drive(run(), is_async)


@pytest.mark.parametrize("stream", [True, False])
def test_a_background_stream_that_is_left_open_is_settled_by_a_later_retrieval(
    stream: bool, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = guarded(books, wire, "responses", is_async)
        told = arguments("responses", "hello [[output=40]] [[polls=1]]")
        begun = await done(client.responses.create(**told, background=True, stream=True))
        first = await step(begun)
        retrieved = await done(client.responses.retrieve(first.response.id, stream=stream))
        if stream:
            await listed(retrieved)
        assert (books.reserved, len(books.calls)) == (0, 1)
        assert books.last.usage is not None
        assert books.used == books.last.usage.total > 40
        await done(begun.close())
        assert (books.reserved, len(books.calls)) == (0, 1)

    drive(run(), is_async)


def test_a_response_of_somebody_else_is_retrieved_for_nothing(
    is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        bare = wire.client("openai", is_async)
        made = await call(bare, "responses")
        retrieved = await done(guarded(books, wire, "responses", is_async).responses.retrieve(made.id))
        assert retrieved.usage.total_tokens > 0
        assert (books.used, books.calls) == (0, [])

    drive(run(), is_async)


def test_teardown_charges_a_background_response_that_nobody_retrieved(
    store: SQLiteBackend, wire: Wire
) -> None:
    books = Books(store)
    make(books, wire, "responses", False, background=True)
    key = books.state.key
    books.guard.teardown()
    assert books.last.tokens == books.last.estimate > 0
    (state,) = store.get_states([(key, 10)])
    assert (state.used, state.reserved) == (books.last.estimate, 0)


# -- history the provider holds ----------------------------------------------------------------------------


def test_the_history_behind_a_previous_response_is_a_part_of_the_estimate(
    is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = guarded(books, wire, "responses", is_async)
        first = await call(client, "responses", "[[input=4000]]")
        await call(client, "responses", "more", previous_response_id=first.id)
        assert 4_016 < books.records[1].estimate < 4_016 + 30
        assert books.used == wire.tokens

    drive(run(), is_async)


@pytest.mark.parametrize("given_as", ["conv_1", {"id": "conv_1"}])
def test_the_history_of_a_conversation_is_a_part_of_the_estimate(
    given_as: Any, books: Books, wire: Wire
) -> None:
    client = guarded(books, wire, "responses", False)
    for told in ("[[input=4000]]", "more"):
        drive(call(client, "responses", told, conversation=given_as), False)
    assert books.records[0].estimate < 100
    assert 4_016 < books.records[1].estimate < 4_016 + 30


def test_the_history_of_a_message_thread_is_a_part_of_the_estimate(books: Books, wire: Wire) -> None:
    client = guarded(books, wire, "messages", False)
    body = arguments("messages", "[[input=4000]]")
    first: Any = client.post("/v1/messages", cast_to=object, body={**body, "thread": {"type": "create"}})
    more = arguments("messages", "more")
    thread = {"type": "continue", "previous_message_id": first["id"]}
    client.post("/v1/messages", cast_to=object, body={**more, "thread": thread})
    assert 4_016 < books.records[1].estimate < 4_016 + 40


# -- paths in no table -------------------------------------------------------------------------------------

REPORTED = {"id": "x", "usage": {"input_tokens": 70, "output_tokens": 7, "total_tokens": 77}}


@pytest.mark.parametrize("sdk", ["anthropic", "openai"])
def test_a_path_in_no_table_whose_reply_reports_tokens_is_counted_and_said_once(
    sdk: str, is_async: bool, books: Books, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.answers["POST", "/v1/brand/new"] = lambda request: reply_json(REPORTED, tokens=(70, 7))
    path = "/v1/brand/new" if sdk == "anthropic" else "/brand/new"

    async def run() -> None:
        client = books.guard.wrap(wire.client(sdk, is_async))
        for _ in range(3):
            assert await done(client.post(path, cast_to=object, body={"model": "m"})) == REPORTED

    with caplog.at_level(logging.WARNING, "tokencap"):
        drive(run(), is_async)
    assert (books.used, books.reserved, len(books.calls)) == (3 * 77, 0, 3)
    assert [record for record in caplog.records if "not in the table" in record.message][1:] == []
    assert "not in the table" in caplog.text


@pytest.mark.parametrize("sdk", ["anthropic", "openai"])
def test_a_stream_from_a_path_in_no_table_is_counted(
    sdk: str, is_async: bool, books: Books, wire: Wire
) -> None:
    events = [sse({"type": "start"}, "start"), sse({"type": "end", **REPORTED}, "end")]
    wire.answers["POST", "/v1/brand/new"] = lambda request: reply_events(events, tokens=(70, 7))
    path = "/v1/brand/new" if sdk == "anthropic" else "/brand/new"

    async def run(client: Any) -> Any:
        stream_class = client._default_stream_cls[object]
        arguments = {"cast_to": object, "body": {}, "stream": True, "stream_cls": stream_class}
        return await listed(await done(client.post(path, **arguments)))

    # Older SDKs drop events that they do not know.
    bare = drive(run(wire.client(sdk, is_async)), is_async)
    assert drive(run(books.guard.wrap(wire.client(sdk, is_async))), is_async) == bare
    assert (books.used, books.reserved, len(books.calls)) == (77, 0, 1)


def test_a_path_in_no_table_that_reports_nothing_or_fails_costs_nothing(
    is_async: bool, books: Books, wire: Wire
) -> None:
    wire.answers["POST", "/v1/brand/new"] = lambda request: reply_json({"id": "x", "text": "long " * 99})
    wire.answers["POST", "/v1/brand/bad"] = lambda request: reply_json(REPORTED, status=500)

    async def run() -> None:
        client = books.guard.wrap(wire.client("openai", is_async))
        await done(client.post("/brand/new", cast_to=object, body={}))
        with pytest.raises(openai.APIStatusError):
            await done(client.post("/brand/bad", cast_to=object, body={}))

    drive(run(), is_async)
    assert (books.used, books.reserved, books.calls) == (0, 0, [])


# -- what the caller gave ----------------------------------------------------------------------------------

DEGRADED = Policy(
    {
        "session": DimensionPolicy(
            limit=1_000_000,
            thresholds=[
                Threshold(
                    at_pct=0.000001,
                    actions=[
                        Action(
                            kind=ActionKind.DEGRADE,
                            degrade_to={"anthropic": "claude-cheap", "openai": "gpt-cheap"},
                        )
                    ],
                )
            ],
        )
    }
)
CHEAP = {"anthropic": "claude-cheap", "openai": "gpt-cheap"}


@pytest.fixture
def degrading(store: SQLiteBackend) -> Iterator[Books]:
    with Books(store, DEGRADED) as books:
        yield books


def test_the_callers_arguments_are_never_changed(
    name: str, stream: dict[str, Any], is_async: bool, degrading: Books, wire: Wire
) -> None:
    given_arguments = {
        **arguments(name, "hello"),
        "metadata": {"user_id": "u"},
        "extra_body": {"model": "another"},
        "extra_headers": {"x-own": "1"},
    }
    if name == "chat" and stream:
        given_arguments["stream_options"] = {"include_usage": False}
    before = copy.deepcopy(given_arguments)

    async def run() -> None:
        client = guarded(degrading, wire, name, is_async)
        result = await done(at(client, CALLS[name][1])(**given_arguments, **stream))
        if stream:
            await listed(result)

    drive(run(), is_async)
    assert given_arguments == before
    assert wire.requests[-1].body["model"] == CHEAP[CALLS[name][0]]
    assert wire.requests[-1].headers["x-own"] == "1"


@pytest.mark.parametrize("make_iterable", [iter, lambda items: (item for item in items)])
@pytest.mark.parametrize("name", ["messages", "beta messages", "chat"])
def test_messages_that_can_be_read_once_behave_as_in_the_bare_sdk(
    name: str, make_iterable: Any, is_async: bool, books: Books, wire: Wire
) -> None:
    said = [{"role": "user", "content": "hello"}, {"role": "user", "content": "there"}]

    async def run(client: Any) -> Any:
        given_arguments = {**arguments(name, ""), "messages": make_iterable(list(said))}
        return await done(at(client, CALLS[name][1])(**given_arguments))

    bare = Wire()
    drive(run(bare.client(CALLS[name][0], is_async)), is_async)
    drive(run(guarded(books, wire, name, is_async)), is_async)
    assert wire.requests[-1].body == bare.requests[-1].body
    if name != "beta messages":
        # There the SDK itself reads them twice, and sends nothing.
        assert wire.requests[-1].body["messages"] == said
    assert books.used == wire.tokens


@pytest.mark.parametrize("messages", [None, "not a list", 5, [None], [[]], {}])
@pytest.mark.parametrize("name", ["messages", "chat"])
def test_messages_that_make_no_sense_fail_as_in_the_bare_sdk(
    name: str, messages: Any, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run(client: Any) -> Any:
        try:
            return await done(at(client, CALLS[name][1])(**{**arguments(name, ""), "messages": messages}))
        except Exception as error:
            return type(error), str(error)

    expected = drive(run(Wire().client(CALLS[name][0], is_async)), is_async)
    found = drive(run(guarded(books, wire, name, is_async)), is_async)
    if isinstance(expected, tuple):
        assert found == expected
    assert (books.used, books.reserved) == (wire.tokens, 0)


def test_pydantic_objects_in_messages_are_estimated_and_sent(
    books: Books, wire: Wire, is_async: bool
) -> None:
    async def run() -> None:
        client = guarded(books, wire, "messages", is_async)
        first = await call(client, "messages", "hello " * 100)
        said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": first.content}]
        told = {**arguments("messages", ""), "messages": [*said, {"role": "user", "content": "more"}]}
        await done(client.messages.create(**told))
        assert books.last.estimate > 20

    drive(run(), is_async)
    assert books.used == wire.tokens


# -- the model that is sent --------------------------------------------------------------------------------


def model_on_the_wire(wire: Wire) -> str:
    return str(wire.sent[-1].body["model"])


@pytest.mark.parametrize(
    "way", ["plain", "stream", "raw", "raw stream", "streaming response", "copy", "post"]
)
def test_a_degraded_call_is_sent_to_the_cheaper_model_every_way(
    way: str, name: str, is_async: bool, degrading: Books, wire: Wire
) -> None:
    sdk, method, row = CALLS[name]
    parent, _, last = method.rpartition(".")
    told = arguments(name, "hello")

    async def run() -> None:
        client = guarded(degrading, wire, name, is_async)
        if way == "copy":
            client = client.with_options(timeout=9).copy()
        if way == "post":
            path = row.split(" ")[1] if sdk == "anthropic" else row.split("/v1")[1]
            await done(client.post(path, cast_to=object, body=told))
        elif way == "streaming response":
            raw = at(client, f"{parent}.with_streaming_response.{last}")
            async with entered(raw(**told)) as reply:
                await done(reply.parse())
        elif way.startswith("raw"):
            more = {"stream": True} if "stream" in way else {}
            reply = await done(at(client, f"{parent}.with_raw_response.{last}")(**told, **more))
            parsed = await done(reply.parse())
            if more:
                await listed(parsed)
        else:
            await call(client, name, stream=way == "stream")

    drive(run(), is_async)
    assert model_on_the_wire(wire) == CHEAP[sdk] == degrading.last.model
    assert degrading.last.model_asked in ("claude-x", "gpt-x")
    assert (degrading.used, degrading.reserved) == (wire.tokens, 0)


@pytest.mark.parametrize("kind", ["azure", "vertex", "bedrock", "foundry"])
def test_a_degraded_call_is_rerouted_on_platforms_that_have_the_model_in_the_url(
    kind: str, is_async: bool, degrading: Books, wire: Wire
) -> None:
    try:
        client = wire.client(kind, is_async)
    except Missing as missing:
        pytest.skip(str(missing))
    name = "chat" if kind == "azure" else "messages"
    drive(call(degrading.guard.wrap(client), name), is_async)
    assert model_on_the_wire(wire) == CHEAP[CALLS[name][0]]


@pytest.mark.parametrize("extra", [{"model": "dear"}, {"model": "dear", "top_k": 3}, {"top_k": 3}])
def test_a_model_in_extra_body_is_degraded_where_it_is(
    extra: dict[str, Any], name: str, is_async: bool, degrading: Books, wire: Wire
) -> None:
    make(degrading, wire, name, is_async, extra_body=extra)
    body = wire.sent[-1].body
    assert body["model"] == CHEAP[CALLS[name][0]]
    assert body.get("top_k") == extra.get("top_k")
    assert degrading.last.model_asked == extra.get("model", arguments(name, "")["model"])


def test_a_body_given_as_bytes_is_estimated_and_degraded(
    is_async: bool, degrading: Books, wire: Wire
) -> None:
    client = guarded(degrading, wire, "chat", is_async)
    try:
        require_content(client)
    except Missing as missing:
        pytest.skip(str(missing))
    body = arguments("chat", "hello " * 300)
    options = {"headers": {"content-type": "application/json"}}

    async def run() -> None:
        content = json.dumps(body).encode()
        await done(client.post("/chat/completions", cast_to=object, content=content, options=options))

    drive(run(), is_async)
    assert model_on_the_wire(wire) == "gpt-cheap"
    assert degrading.last.estimate > 300
    assert degrading.used == wire.tokens


def test_embeddings_images_and_sounds_are_never_degraded(
    is_async: bool, degrading: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = degrading.guard.wrap(wire.client("openai", is_async))
        await done(client.embeddings.create(model="text-embedding-x", input="hello"))
        await done(client.images.generate(model="gpt-image-1", prompt="a cat"))
        await done(client.audio.speech.create(model="tts-1", voice="alloy", input="hello"))
        sound = ("voice.wav", b"RIFF" + bytes(100), "audio/wav")
        await done(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound))

    drive(run(), is_async)
    assert [entry.model for entry in wire.entries] == [
        "text-embedding-x",
        "gpt-image-1",
        "tts-1",
        "gpt-4o-transcribe",
    ]


# -- counting beforehand -----------------------------------------------------------------------------------


def test_near_a_threshold_the_provider_counts_the_prompt_for_nothing(
    store: SQLiteBackend, is_async: bool, wire: Wire
) -> None:
    with Books(store, 2_000) as books:
        make(books, wire, "messages", is_async, "[[input=1500]] " + "word " * 500)
        assert "/v1/messages/count_tokens" in [request.path for request in wire.requests]
        assert books.last.estimate == 1_500
        assert (books.used, books.reserved, len(books.calls)) == (1_516, 0, 1)


@pytest.mark.parametrize("trouble", ["status", "hang"])
def test_a_counter_that_fails_is_left_alone_and_the_call_goes_on(
    trouble: str, store: SQLiteBackend, is_async: bool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_TIMEOUT", 0.02)
    odd = reply_json({"error": {"message": "no"}}, status=500)
    hung = type(odd)(200, odd.headers, odd.chunks, odd.entry, hang=5)
    wire.answers["POST", "/v1/messages/count_tokens"] = lambda r: odd if trouble == "status" else hung
    with Books(store, 2_000) as books:
        for _ in range(2):
            make(books, wire, "messages", is_async, "[[input=500]] " + "word " * 500)
        assert books.used == wire.tokens == 1_032
    assert sum("count_tokens" in request.path for request in wire.requests) == 1


def test_far_from_every_threshold_nobody_is_asked_to_count(name: str, books: Books, wire: Wire) -> None:
    make(books, wire, name, False, "word " * 3000)
    assert len(wire.requests) == 1


# -- who counts --------------------------------------------------------------------------------------------


def test_a_call_under_two_guards_is_counted_once(store: SQLiteBackend, name: str, wire: Wire) -> None:
    with Books(store) as first, Books(store) as second:
        one = first.guard.wrap(wire.client(CALLS[name][0], False))
        two = second.guard.wrap(one)
        assert first.guard.wrap(one) is one
        drive(call(two, name), False)
        assert (first.used, second.used) == (0, wire.tokens)
        drive(call(one, name), False)
        assert first.used == second.used


@pytest.mark.skipif(
    not hasattr(anthropic, "APIRequest") and not importable("anthropic._middleware"), reason="none"
)
def test_middleware_of_the_sdk_is_inside_the_guard(books: Books, wire: Wire) -> None:
    seen = []

    def watch(request: Any, call_next: Any) -> Any:
        seen.append(request)
        return call_next(request)

    def refuse(request: Any, call_next: Any) -> Any:
        raise ZeroDivisionError

    client = guarded(books, wire, "messages", False)
    drive(call(client.with_middleware(watch), "messages"), False)
    assert len(seen) == 1
    assert books.used == wire.tokens > 0
    used = books.used
    with pytest.raises(ZeroDivisionError):
        drive(call(client.with_middleware(refuse), "messages"), False)
    assert (books.used, books.reserved) == (used, 0)


def _refusing(request: Any) -> Any:
    """A model that refuses, and one that answers; the first event of a stream tells the prompt."""
    told = request.body
    refuses = told["model"] == "claude-x"
    usage = {"input_tokens": 100 if refuses else 110, "output_tokens": 5 if refuses else 20}
    details = {"type": "refusal", "category": "cyber", "explanation": "no", "fallback_credit_token": "t"}
    end = {"stop_reason": "refusal" if refuses else "end_turn", "stop_sequence": None}
    end |= {"stop_details": details if refuses else None}
    message = {"id": told["model"], "type": "message", "role": "assistant", "model": told["model"]}
    tokens = (usage["input_tokens"], usage["output_tokens"])
    if not told.get("stream"):
        return reply_json({**message, "content": [], **end, "usage": usage}, tokens=tokens)
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events = [
        {"type": "message_start", "message": start},
        {"type": "message_delta", "delta": end, "usage": usage},
        {"type": "message_stop"},
    ]
    return reply_events([sse(event, str(event["type"])) for event in events], tokens=tokens)


def test_a_call_that_a_middleware_repeats_with_another_model_is_charged_what_both_took(
    stream: dict[str, Any], is_async: bool, books: Books, wire: Wire
) -> None:
    fallbacks = pytest.importorskip("anthropic.lib.middleware")
    middleware = fallbacks.BetaRefusalFallbackMiddleware([{"model": "claude-y"}])
    wire.answers["POST", "/v1/messages"] = _refusing
    with fallbacks.BetaFallbackState():
        client = books.guard.wrap(wire.client("anthropic", is_async, middleware=[middleware]))
        drive(call(client, "beta messages", **stream), is_async)
    assert [request.body["model"] for request in wire.requests] == ["claude-x", "claude-y"]
    assert books.used == wire.tokens == 105 + 130


# -- any sequence ------------------------------------------------------------------------------------------

_DIRECTIVES = st.lists(
    st.one_of(
        st.integers(1, 5_000).map("[[input={}]]".format),
        st.integers(1, 60).map("[[output={}]]".format),
        st.integers(0, 40).map("[[reasoning={}]]".format),
        st.integers(0, 900).map("[[cache_read={}]]".format),
        st.integers(0, 900).map("[[cache_write={}]]".format),
        st.integers(1, 9).map("[[chunks={}]]".format),
        st.sampled_from(["[[status=400]]", "[[status=500]]", "[[status=429]] [[attempts=1]]", "[[failed]]"]),
        st.text(max_size=30),
    ),
    max_size=4,
).map(" ".join)
_ONE_CALL = st.tuples(st.sampled_from(sorted(CALLS)), st.booleans(), st.booleans(), _DIRECTIVES)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(_ONE_CALL, min_size=1, max_size=6))
def test_for_any_sequence_of_calls_what_is_used_is_the_providers_own_sum(
    store: SQLiteBackend, calls: list[tuple[str, bool, bool, str]]
) -> None:
    wire = Wire()
    with Books(store) as books:
        for name, streamed, is_async, told in calls:
            client = guarded(books, wire, name, is_async, max_retries=1)
            more = {"stream": True} if streamed else {}
            with contextlib.suppress(anthropic.APIStatusError, openai.APIStatusError):
                drive(call(client, name, "hi " + told, **more), is_async)
            assert (books.used, books.reserved) == (wire.tokens, 0)
        assert len(books.calls) == len(calls)


def test_the_openai_url_of_the_wire_is_the_one_that_is_remembered() -> None:
    """Servers that refuse `stream_options` are remembered by their URL."""
    assert Wire().client("openai", False).base_url == f"{OPENAI_URL}/"


class OwnClient(openai.OpenAI):
    """A subclass whose constructor takes nothing of its base's."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(
            api_key="none", base_url=OPENAI_URL, http_client=wire.http_client("openai", False), max_retries=0
        )


def test_a_client_that_cannot_be_copied_is_refused_with_what_to_do(books: Books, wire: Wire) -> None:
    with pytest.raises(ConfigurationError, match=r"OwnClient cannot be copied .*patch\(\)"):
        books.guard.wrap(OwnClient(wire))
