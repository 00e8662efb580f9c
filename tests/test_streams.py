"""Every way a stream can end: settled once, at what is known of it, and the caller sees no difference."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from needs import since
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.clients import bodies, counting, options
from tokencap.clients.streams import guarded_stream_class
from wire import (
    Books,
    Missing,
    Wire,
    at,
    done,
    drive,
    each,
    entered,
    http_library,
    listed,
    plain,
    reply_events,
    reply_json,
    sse,
    step,
)

TOLD = "hello [[output=40]] [[chunks=8]]"


class Dialect(NamedTuple):
    """One format of streams: how one is opened, and how its events are read."""

    sdk: str
    method: str
    arguments: Any
    final: str
    """The event after which nothing more is reported."""

    def open(self, client: Any, told: str = TOLD, **more: Any) -> Any:
        return at(client, self.method)(**self.arguments(told), stream=True, **more)


def _of_messages(told: str) -> Any:
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": told}]}


def _of_chat(told: str) -> Any:
    return {"model": "gpt-x", "messages": [{"role": "user", "content": told}]}


def _of_responses(told: str) -> Any:
    return {"model": "gpt-x", "input": told}


def _of_completions(told: str) -> Any:
    return {"model": "gpt-x", "prompt": told}


DIALECTS = {
    "messages": Dialect("anthropic", "messages.create", _of_messages, "message_delta"),
    "chat": Dialect("openai", "chat.completions.create", _of_chat, "finish"),
    "completions": Dialect("openai", "completions.create", _of_completions, "finish"),
    "responses": Dialect("openai", "responses.create", _of_responses, "response.completed"),
}


def text_of(event: Any) -> str:
    """The text an event of any dialect delivers."""
    delta = getattr(event, "delta", None)
    if isinstance(delta, str):
        return delta
    if isinstance(getattr(delta, "text", None), str):
        return str(delta.text)
    text = ""
    for choice in getattr(event, "choices", None) or ():
        made = getattr(choice, "text", None) or getattr(getattr(choice, "delta", None), "content", None)
        text += made or ""
    return text


def kind_of(event: Any) -> str:
    choices = getattr(event, "choices", None)
    if choices is None:
        return str(event.type)
    return "finish" if choices and choices[0].finish_reason else "chunk"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteBackend]:
    folder: Path = tmp_path_factory.mktemp("streams")
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


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


def client_of(books: Books, wire: Wire, dialect: Dialect, is_async: bool) -> Any:
    client = books.guard.wrap(wire.client(dialect.sdk, is_async))
    try:
        at(client, dialect.method)
    except Missing as missing:
        pytest.skip(str(missing))
    return client


def owed(books: Books, wire: Wire, dialect: Dialect, text: str, started: bool = True) -> int:
    """The rule for a stream that ended early: the last report and what was delivered since."""
    delivered = -(-len(text) // 4)
    if dialect.sdk == "anthropic" and started:
        # `message_start` reports the prompt to the token, and the first token of the reply.
        return wire.entries[-1].input_tokens + 1 + delivered
    return books.last.estimate + delivered


def assert_settled_early(books: Books, wire: Wire, dialect: Dialect, text: str, ending: str = "cut") -> None:
    assert books.reserved == 0
    assert len(books.calls) == 1
    assert books.used == owed(books, wire, dialect, text) == books.last.tokens
    prompt = wire.entries[-1].input_tokens if dialect.sdk == "anthropic" else books.last.estimate
    assert books.used >= prompt > 0
    assert (books.last.ending, books.last.estimated) == (ending, True)


async def taken(stream: Any, text_events: int) -> str:
    """Read a stream until so many of its events delivered text; return the text."""
    text, found = "", 0
    while found < text_events:
        part = text_of(await step(stream))
        text += part
        found += bool(part)
    return text


# -- read to the end ---------------------------------------------------------------------------------------


def test_an_exhausted_stream_is_counted_to_the_token(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        stream = await done(dialect.open(client_of(books, wire, dialect, is_async)))
        assert (books.used, books.state.calls) == (0, 1)
        await listed(stream)
        assert (books.used, books.reserved, len(books.calls)) == (wire.tokens, 0, 1)
        assert (books.last.ending, books.last.estimated) == ("ok", False)
        await done(stream.close())
        assert (books.used, len(books.calls)) == (wire.tokens, 1)

    drive(run(), is_async)


def test_a_consumer_that_stops_at_the_last_event_leaves_nothing_behind(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    """And so it can be told from the counter at once, before the next call."""

    async def run() -> None:
        stream = await done(dialect.open(client_of(books, wire, dialect, is_async)))
        while kind_of(await step(stream)) != dialect.final:
            pass
        assert (books.used, books.reserved) == (wire.tokens, 0)
        assert wire.tokens > 40
        await done(stream.close())

    drive(run(), is_async)


# -- ended early -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [1, 3])
def test_a_closed_stream_is_charged_what_was_delivered(
    read: int, dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        stream = await done(dialect.open(client_of(books, wire, dialect, is_async)))
        text = await taken(stream, read)
        await done(stream.close())
        assert_settled_early(books, wire, dialect, text)
        await done(stream.close())
        assert len(books.calls) == 1

    drive(run(), is_async)


def test_a_stream_left_by_with_is_charged_what_was_delivered(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        async with entered(await done(dialect.open(client_of(books, wire, dialect, is_async)))) as stream:
            text = await taken(stream, 2)
        assert_settled_early(books, wire, dialect, text)

    drive(run(), is_async)


def test_a_stream_broken_out_of_is_settled_when_it_is_dropped(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> str:
        stream = await done(dialect.open(client_of(books, wire, dialect, is_async)))
        text = ""
        if is_async:
            async for event in stream:
                text += text_of(event)
                if text:
                    break
        else:
            for event in stream:
                text += text_of(event)
                if text:
                    break
        assert books.state.calls == 1
        assert books.calls == []
        return text

    text = drive(run(), is_async)
    books.settled()
    assert_settled_early(books, wire, dialect, text)


def test_an_exception_in_the_loop_body_is_the_callers_and_the_stream_is_settled(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    class OwnError(Exception):
        pass

    texts = []

    async def run() -> None:
        async with entered(await done(dialect.open(client_of(books, wire, dialect, is_async)))) as stream:
            async for event in each(stream):
                texts.append(text_of(event))
                if texts[-1]:
                    raise OwnError

    with pytest.raises(OwnError):
        drive(run(), is_async)
    assert_settled_early(books, wire, dialect, "".join(texts))


def test_an_exception_in_a_loop_without_with_is_settled_when_the_stream_is_dropped(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        stream = await done(dialect.open(client_of(books, wire, dialect, is_async)))
        if is_async:
            async for event in stream:
                if text_of(event):
                    raise ZeroDivisionError(text_of(event))
        for event in stream:
            if text_of(event):
                raise ZeroDivisionError(text_of(event))

    with pytest.raises(ZeroDivisionError) as caught:
        drive(run(), is_async)
    text = str(caught.value)
    caught.value.__traceback__ = None
    del caught
    books.settled()
    assert_settled_early(books, wire, dialect, text)


@pytest.mark.parametrize("trouble", ["[[error_event=5]]", "[[cut=5]]"])
def test_an_error_of_the_provider_in_mid_stream_is_the_sdks_own_and_charges_what_was_delivered(
    trouble: str, dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run(client: Any) -> tuple[str, Any]:
        text = ""
        stream = await done(dialect.open(client, f"{TOLD} {trouble}"))
        try:
            async for event in each(stream):
                text += text_of(event)
        except Exception as error:
            return text, error
        return text, None

    expected_text, expected = drive(run(Wire().client(dialect.sdk, is_async)), is_async)
    text, error = drive(run(client_of(books, wire, dialect, is_async)), is_async)

    assert (text, type(error), str(error)) == (expected_text, type(expected), str(expected))
    # Of a failing response the SDK makes an event like any other.
    assert (error is None) == (dialect.method == "responses.create" and "error" in trouble)
    assert_settled_early(books, wire, dialect, text, "ok" if error is None else "cut")


def test_a_cancelled_task_is_charged_what_was_delivered(dialect: Dialect, books: Books, wire: Wire) -> None:
    text = []

    async def read(client: Any) -> None:
        async for event in await dialect.open(client, f"{TOLD} [[delay=0.005]]"):
            text.append(text_of(event))  # noqa: PERF401

    async def run() -> None:
        task = asyncio.ensure_future(read(client_of(books, wire, dialect, True)))
        while not any(text):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_settled_early(books, wire, dialect, "".join(text), "cancelled")

    asyncio.run(run())


def test_an_interruption_while_the_usage_is_awaited_reaches_a_consumer_who_stops_at_the_event_before(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    last = re.compile(rb'"finish_reason": ?"|"type": ?"(message_delta|response.output_item.done)"')
    library = http_library(dialect.sdk)

    class Body(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self.inner:
                yield chunk
                if last.search(chunk):
                    raise KeyboardInterrupt

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self.inner:
                yield chunk
                if last.search(chunk):
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(0)

    def interrupt(response: Any) -> None:
        response.stream = Body(response.stream)

    async def ainterrupt(response: Any) -> None:
        interrupt(response)

    async def run() -> None:
        client = client_of(books, wire, dialect, is_async)
        client._client.event_hooks = {"response": [ainterrupt if is_async else interrupt]}
        async with entered(await done(dialect.open(client))) as stream:
            while kind_of(await step(stream)) != dialect.final:
                pass

    interruption = asyncio.CancelledError if is_async else KeyboardInterrupt
    with pytest.raises(interruption):
        drive(run(), is_async)
    assert (books.reserved, len(books.calls), books.last.ending) == (0, 1, "cancelled")


def test_a_stream_never_iterated_is_charged_its_prompt_when_it_is_dropped(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        await done(dialect.open(client_of(books, wire, dialect, is_async)))

    drive(run(), is_async)
    books.settled()
    assert books.used == books.last.estimate > 0
    assert (len(books.calls), books.last.ending) == (1, "cut")


def test_a_stream_never_iterated_is_charged_its_prompt_when_it_is_closed(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        stream = await done(dialect.open(client_of(books, wire, dialect, is_async)))
        await done(stream.close())
        assert books.used == books.last.estimate > 0
        assert (books.reserved, len(books.calls)) == (0, 1)

    drive(run(), is_async)


def test_a_stream_dropped_in_a_cycle_is_settled_when_it_is_collected(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    class Owner:
        def __init__(self, stream: Any) -> None:
            self.stream, self.me = stream, self

    gc.disable()
    try:

        async def run() -> str:
            owner = Owner(await done(dialect.open(client_of(books, wire, dialect, is_async))))
            text = await taken(owner.stream, 2)
            assert books.state.calls == 1
            return text

        text = drive(run(), is_async)
    finally:
        gc.enable()
    books.settled()
    assert_settled_early(books, wire, dialect, text)


def test_a_stream_held_on_to_keeps_its_hold(dialect: Dialect, books: Books, wire: Wire) -> None:
    stream = dialect.open(client_of(books, wire, dialect, False))
    next(iter(stream))
    gc.collect()
    assert books.state.calls == 1
    assert books.reserved > 0
    stream.close()
    assert books.reserved == 0


def test_the_books_are_right_after_teardown_though_a_stream_is_still_open(
    dialect: Dialect, store: SQLiteBackend, wire: Wire
) -> None:
    books = Books(store)
    stream = dialect.open(client_of(books, wire, dialect, False))
    text = drive(taken(stream, 2), False)
    books.guard.teardown()
    assert books.last.tokens == owed(books, wire, dialect, text)
    assert len(books.calls) == 1
    stream.close()
    assert len(books.calls) == 1


def test_a_stream_may_be_read_and_closed_in_another_thread(
    dialect: Dialect, books: Books, wire: Wire
) -> None:
    stream = dialect.open(client_of(books, wire, dialect, False))
    thread = threading.Thread(target=list, args=(stream,))
    thread.start()
    thread.join()
    assert (books.used, books.reserved, len(books.calls)) == (wire.tokens, 0, 1)


# -- helpers -----------------------------------------------------------------------------------------------

HELPERS = {
    "messages.stream": ("anthropic", _of_messages),
    "beta.messages.stream": ("anthropic", _of_messages),
    "chat.completions.stream": ("openai", _of_chat),
    "responses.stream": ("openai", _of_responses),
}


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_left_early_is_settled_at_what_was_delivered(
    name: str, is_async: bool, books: Books, wire: Wire
) -> None:
    sdk, arguments = HELPERS[name]

    async def run() -> None:
        client = books.guard.wrap(wire.client(sdk, is_async))
        try:
            manager = at(client, name)(**arguments(TOLD))
        except Missing as missing:
            pytest.skip(str(missing))
        async with entered(manager) as stream:
            for _ in range(4):
                await step(stream)
        assert (books.reserved, len(books.calls)) == (0, 1)
        assert wire.entries[-1].input_tokens <= books.used < wire.entries[-1].input_tokens + 40
        assert books.last.estimated

    drive(run(), is_async)


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_that_is_never_entered_spends_nothing(name: str, books: Books, wire: Wire) -> None:
    sdk, arguments = HELPERS[name]
    client = books.guard.wrap(wire.client(sdk, False))
    try:
        at(client, name)
    except Missing as missing:
        pytest.skip(str(missing))
    if sdk == "anthropic":
        at(client, name)(**arguments(TOLD))
        assert (books.used, books.reserved, wire.requests) == (0, 0, [])


# -- replies whose bytes the caller reads ------------------------------------------------------------------


def _raw(client: Any, dialect: Dialect, accessor: str, **arguments: Any) -> Any:
    parent, _, name = dialect.method.rpartition(".")
    return at(client, f"{parent}.{accessor}.{name}")(**{**dialect.arguments(TOLD), **arguments})


def test_lines_of_a_stream_read_in_part_are_charged_for_what_they_say(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = client_of(books, wire, dialect, is_async)
        async with entered(_raw(client, dialect, "with_streaming_response", stream=True)) as reply:
            iterator = reply.iter_lines()
            while "the model" not in await step(iterator):
                pass
            if is_async:
                await iterator.aclose()
        assert (books.reserved, len(books.calls)) == (0, 1)
        assert owed(books, wire, dialect, "the model") <= books.used < 60
        assert (books.last.ending, books.last.estimated) == ("cut", True)

    drive(run(), is_async)


@pytest.mark.parametrize("stream", [False, True])
def test_a_streaming_response_left_unread_is_charged_its_prompt(
    stream: bool, dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = client_of(books, wire, dialect, is_async)
        more = {"stream": True} if stream else {}
        async with entered(_raw(client, dialect, "with_streaming_response", **more)) as reply:
            assert reply.status_code == 200
        assert books.used == books.last.estimate > 0
        assert (books.reserved, len(books.calls), books.last.ending) == (0, 1, "cut")

    drive(run(), is_async)


def test_a_raw_stream_that_is_parsed_and_closed_early_is_charged_what_was_delivered(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = client_of(books, wire, dialect, is_async)
        reply = await done(_raw(client, dialect, "with_raw_response", stream=True))
        stream = await done(reply.parse())
        text = await taken(stream, 2)
        await done(stream.close())
        assert_settled_early(books, wire, dialect, text)

    drive(run(), is_async)


def test_a_raw_reply_that_is_dropped_unread_is_settled(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        await done(_raw(client_of(books, wire, dialect, is_async), dialect, "with_raw_response", stream=True))

    drive(run(), is_async)
    books.settled()
    assert books.used == books.last.estimate > 0
    assert len(books.calls) == 1


# -- usage that was not asked for --------------------------------------------------------------------------

CHATS = {name: DIALECTS[name] for name in ("chat", "completions")}


@pytest.fixture(params=CHATS)
def chat(request: pytest.FixtureRequest) -> Dialect:
    return CHATS[request.param]


def test_usage_is_asked_for_and_not_shown_to_a_caller_who_did_not(
    chat: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> list[Any]:
        return await listed(await done(chat.open(client_of(books, wire, chat, is_async))))

    events = drive(run(), is_async)
    assert wire.requests[-1].body["stream_options"] == {"include_usage": True}
    assert all(event.choices for event in events)
    assert not any("usage" in event.model_fields_set for event in events)
    assert books.used == wire.tokens


@pytest.mark.parametrize("asked", [True, False])
def test_a_caller_who_said_whether_to_include_usage_sees_what_was_asked(
    asked: bool, chat: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    options = {"include_usage": asked}

    async def run(client: Any) -> list[Any]:
        return await listed(await done(chat.open(client, stream_options=options)))

    bare = drive(run(Wire().client("openai", is_async)), is_async)
    events = drive(run(client_of(books, wire, chat, is_async)), is_async)
    assert plain(events) == plain(bare)
    assert bool(events[-1].choices) is not asked
    assert options == {"include_usage": asked}
    assert books.used == wire.tokens


def test_other_stream_options_of_the_caller_are_kept(books: Books, wire: Wire) -> None:
    dialect = DIALECTS["chat"]
    client = client_of(books, wire, dialect, False)
    list(dialect.open(client, stream_options={"include_obfuscation": False}))
    assert wire.requests[-1].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_a_server_that_refuses_stream_options_is_called_without_once_and_for_all(
    chat: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    told = f"{TOLD} [[refuse_stream_options]]"

    async def run(client: Any) -> list[Any]:
        return [
            *await listed(await done(chat.open(client, told))),
            *await listed(await done(chat.open(client, told))),
        ]

    bare = drive(run(Wire().client("openai", is_async)), is_async)
    events = drive(run(client_of(books, wire, chat, is_async)), is_async)
    assert [text_of(event) for event in events] == [text_of(event) for event in bare]
    assert not any("usage" in event.model_fields_set for event in events)
    assert [("stream_options" in request.body) for request in wire.requests] == [True, False, False]
    assert len(books.calls) == 2
    text = "".join(text_of(event) for event in events)
    assert books.used == sum(record.tokens for record in books.calls)
    assert books.used == sum(r.estimate for r in books.calls) + 2 * -(-len(text) // 2 // 4)
    assert {record.ending for record in books.calls} == {"ok"}
    assert books.reserved == 0


def test_a_caller_who_asks_for_what_the_server_refuses_is_told_so(
    chat: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        client = client_of(books, wire, chat, is_async)
        told = f"{TOLD} [[refuse_stream_options]]"
        await done(chat.open(client, told, stream_options={"include_usage": True}))

    with pytest.raises(openai.BadRequestError):
        drive(run(), is_async)
    assert (len(wire.requests), books.used, books.reserved) == (1, 0, 0)


def test_a_bad_request_for_another_reason_is_not_sent_again(
    chat: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    async def run() -> None:
        await done(chat.open(client_of(books, wire, chat, is_async), f"{TOLD} [[status=400]]"))

    with pytest.raises(openai.BadRequestError):
        drive(run(), is_async)
    assert (len(wire.requests), books.used, books.reserved) == (1, 0, 0)


def test_a_bad_request_that_reads_like_a_refusal_of_usage_does_not_end_the_counting(
    is_async: bool, books: Books, wire: Wire
) -> None:
    chat = DIALECTS["chat"]
    error = {"message": "Unknown parameter: 'foo'.", "param": "foo", "code": "unknown_parameter"}

    async def run() -> None:
        client = client_of(books, wire, chat, is_async)
        wire.answers["POST", ".*"] = lambda request: reply_json({"error": error}, status=400)
        with pytest.raises(openai.BadRequestError, match="foo"):
            await done(chat.open(client, extra_body={"foo": 1}))
        wire.answers.clear()
        await listed(await done(chat.open(client)))

    drive(run(), is_async)
    assert (books.used, books.reserved, books.last.estimated) == (wire.tokens, 0, False)


def test_a_chunk_without_choices_and_without_usage_is_shown(books: Books, wire: Wire) -> None:
    """Azure's first chunk holds the verdict on the prompt."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        sse({**head, "choices": [], "prompt_filter_results": []}),
        sse({**head, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}),
        sse({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        sse(
            {**head, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}
        ),
        b"data: [DONE]\n\n",
    ]
    wire.answers["POST", "/v1/chat/completions"] = lambda request: reply_events(chunks, tokens=(3, 1))
    events = list(DIALECTS["chat"].open(client_of(books, wire, DIALECTS["chat"], False)))
    assert [len(event.choices) for event in events] == [0, 1, 1]
    assert books.used == 4


def test_a_usage_chunk_of_zeros_is_not_shown_to_a_caller_who_did_not_ask(books: Books, wire: Wire) -> None:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    chunks = [
        sse({**head, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}),
        sse({**head, "choices": [], "usage": zeros}),
        b"data: [DONE]\n\n",
    ]
    wire.answers["POST", "/v1/chat/completions"] = lambda request: reply_events(chunks)
    events = list(DIALECTS["chat"].open(client_of(books, wire, DIALECTS["chat"], False)))
    assert [len(event.choices) for event in events] == [1]
    assert books.used == books.last.estimate + 1


@pytest.mark.parametrize("shape", ["in every chunk", "in the last chunk with choices"])
def test_cumulative_usage_of_compatible_servers_is_not_added_up(shape: str, books: Books, wire: Wire) -> None:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def usage(made: int) -> Any:
        return {"usage": {"prompt_tokens": 30, "completion_tokens": made, "total_tokens": 30 + made}}

    chunks = []
    for made in (1, 2, 3):
        last = made == 3
        choice = {"index": 0, "delta": {"content": " word"}, "finish_reason": "stop" if last else None}
        shown = usage(made) if last or shape == "in every chunk" else {}
        chunks.append(sse({**head, "choices": [choice], **shown}))
    chunks.append(b"data: [DONE]\n\n")
    wire.answers["POST", "/v1/chat/completions"] = lambda request: reply_events(chunks, tokens=(30, 3))
    events = list(DIALECTS["chat"].open(client_of(books, wire, DIALECTS["chat"], False)))
    assert len(events) == 3
    assert (books.used, books.reserved, len(books.calls)) == (33, 0, 1)


# -- the stream stays what it was --------------------------------------------------------------------------


def test_a_guarded_stream_is_the_sdks_own_stream(
    dialect: Dialect, is_async: bool, books: Books, wire: Wire
) -> None:
    sdk = {"anthropic": anthropic, "openai": openai}[dialect.sdk]
    cls = sdk.AsyncStream if is_async else sdk.Stream

    async def run(client: Any) -> Any:
        async with entered(await done(dialect.open(client))) as stream:
            assert isinstance(stream, cls)
            assert type(stream).__name__ == cls.__name__
            events = await listed(stream)
            return plain(events), stream.response.elapsed is not None, stream.response.is_closed

    bare = drive(run(Wire().client(dialect.sdk, is_async)), is_async)
    assert drive(run(client_of(books, wire, dialect, is_async)), is_async) == bare


def test_the_sdks_own_spans_are_the_same_under_a_guard(is_async: bool, books: Books, wire: Wire) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    since(anthropic, 2, "traces nothing by itself")
    dialect = DIALECTS["messages"]

    async def run(wire: Wire, guarded: bool) -> Any:
        exporter = memory.InMemorySpanExporter()
        provider = trace.TracerProvider()
        provider.add_span_processor(export.SimpleSpanProcessor(exporter))
        options = {"open_telemetry": {"tracer_provider": provider, "traces": True}}
        client = wire.client("anthropic", is_async, **options)
        client = books.guard.wrap(client) if guarded else client
        await listed(await done(dialect.open(client)))
        async with entered(await done(dialect.open(client))) as stream:
            await step(stream)
        timed = ("gen_ai.response.time_to_first_chunk",)
        return [
            (span.name, span.status.status_code, {k: v for k, v in span.attributes.items() if k not in timed})
            for span in exporter.get_finished_spans()
        ]

    bare = drive(run(Wire(), False), is_async)
    assert len(bare) == 2
    assert drive(run(wire, True), is_async) == bare


def test_a_thousand_chunks_are_one_call(dialect: Dialect, books: Books, wire: Wire) -> None:
    told = "[[output=2000]] [[chunks=1000]]"
    client = client_of(books, wire, dialect, False)
    arguments = dialect.arguments(told)
    if "max_tokens" in arguments:
        arguments["max_tokens"] = 4_000
    events = list(at(client, dialect.method)(**arguments, stream=True))
    assert len(events) >= 1_000
    assert (books.used, len(books.calls), books.reserved) == (wire.tokens, 1, 0)


def test_no_event_asks_the_body_for_what_it_lacks(
    books: Books, wire: Wire, dialect: Dialect, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = bodies._Watched.__getattr__
    monkeypatch.setattr(
        bodies._Watched, "__getattr__", lambda body, name: asked.append(name) or original(body, name)
    )
    client = client_of(books, wire, dialect, is_async)

    async def run() -> None:
        text = await taken(await done(dialect.open(client)), 8)
        assert text

    drive(run(), is_async)
    assert len(asked) < 8, asked


def test_a_class_that_a_tracing_library_makes_of_a_guarded_stream_stays_what_it_is(wire: Wire) -> None:
    base = guarded_stream_class(openai.Stream, False)

    class Traced(base):  # type: ignore[misc,valid-type]
        def __stream__(self) -> Iterator[Any]:
            yield from super().__stream__()

    response = http_library("openai").Response(200, content=b"data: 1\n\ndata: [DONE]\n\n")
    stream = Traced(cast_to=int, response=response, client=wire.client("openai", False))
    assert type(stream) is Traced
    assert list(stream) == [1]
