"""The seams of the SDKs that have no `request`: what the matrix does not see of them."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from dataclasses import replace
from typing import Any, Callable, NamedTuple

import pytest

import tokencap
import wire as wires
import wire_cohere
import wire_gemini
import wire_mistral
from tokencap import (
    Action,
    ActionKind,
    BudgetExceededError,
    ConfigurationError,
    DimensionPolicy,
    Guard,
    Policy,
    Threshold,
)
from tokencap._loopback import Reply
from tokencap.backends.memory import MemoryBackend
from wire import Books, Missing, Request, Wire, done, drive, each, entered, is_refusal, listed

pytestmark = pytest.mark.usefixtures("little_to_collect")


class Seam(NamedTuple):
    """How one SDK is called, and where a request says what."""

    provider: str
    model: str
    cheaper: str
    call: Callable[..., Any]
    """(face, text, cap) -> a reply, or an awaitable of one."""
    stream: Callable[..., Any]
    """The same -> events, or an awaitable of them."""
    answer: Callable[[Request, Wire], Reply]
    path: str
    """Where both are posted."""
    cap: Callable[[Request], Any]
    model_of: Callable[[Request], Any] = lambda request: request.body["model"]


def _mistral(model: str, cap: int | None) -> dict[str, Any]:
    return {"model": model, **({} if cap is None else {"max_tokens": cap})}


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _gemini(text: str, cap: int | None) -> dict[str, Any]:
    config = {} if cap is None else {"config": {"max_output_tokens": cap}}
    return {"model": "gemini-2.5-pro", "contents": text, **config}


def _cohere(text: str, cap: int | None) -> dict[str, Any]:
    return {
        "model": "command-a-03-2025",
        "messages": _said(text),
        **({} if cap is None else {"max_tokens": cap}),
    }


SEAMS = {
    "cohere": Seam(
        "cohere",
        "command-a-03-2025",
        "command-r7b-12-2024",
        lambda face, text, cap=None: face.chat(**_cohere(text, cap)),
        lambda face, text, cap=None: face.chat_stream(**_cohere(text, cap)),
        wire_cohere.chat_v2,
        "/cohere/v2/chat",
        lambda request: request.body.get("max_tokens"),
    ),
    "gemini": Seam(
        "gemini",
        "gemini-2.5-pro",
        "gemini-2.5-flash",
        lambda face, text, cap=None: face.models.generate_content(**_gemini(text, cap)),
        lambda face, text, cap=None: face.models.generate_content_stream(**_gemini(text, cap)),
        wire_gemini.generate,
        "/gemini/.*:(streamG|g)enerateContent",
        lambda request: (request.body.get("generationConfig") or {}).get("maxOutputTokens"),
        lambda request: request.path.rpartition("/")[2].partition(":")[0],
    ),
    "mistral": Seam(
        "mistral",
        "mistral-large-latest",
        "mistral-small-latest",
        lambda face, text, cap=None: face.chat.complete(
            messages=_said(text), **_mistral("mistral-large-latest", cap)
        ),
        lambda face, text, cap=None: face.chat.stream(
            messages=_said(text), **_mistral("mistral-large-latest", cap)
        ),
        wire_mistral.chat,
        "/mistral/v1/chat/completions",
        lambda request: request.body.get("max_tokens"),
    ),
}


@pytest.fixture(params=SEAMS)
def seam(request: pytest.FixtureRequest) -> Seam:
    found = SEAMS[request.param]
    try:
        Wire().client(found.provider, False)
    except Missing as missing:
        pytest.skip(str(missing))
    return found


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


@pytest.fixture
def wire() -> Wire:
    return Wire()


def client_of(seam: Seam, wire: Wire, is_async: bool) -> Any:
    return wire.client(seam.provider, is_async)


def face(seam: Seam, client: Any, is_async: bool) -> Any:
    return wires.KINDS[seam.provider].face(client, is_async)


def guarded(seam: Seam, wire: Wire, is_async: bool, books: Books) -> Any:
    return face(seam, books.guard.wrap(client_of(seam, wire, is_async)), is_async)


def answering(seam: Seam, wire: Wire, change: Callable[[Reply], Reply]) -> None:
    """Have the provider's replies changed on their way."""
    changed: Any = {("POST", seam.path): lambda request: change(seam.answer(request, wire))}
    wire.answers = {**changed, **{at: told for at, told in wire.answers.items() if at not in changed}}


# -- the client ------------------------------------------------------------------------------------------


def test_a_wrapped_client_is_of_its_class_and_the_original_stays_plain(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run(books: Books) -> None:
        plain = client_of(seam, wire, is_async)
        await done(seam.call(face(seam, plain, is_async), "before"))
        client = books.guard.wrap(plain)
        assert type(client) is type(plain)
        assert client is not plain
        assert books.guard.wrap(client) is client
        await done(seam.call(face(seam, plain, is_async), "hello"))
        assert (books.used, len(books.calls)) == (0, 0)
        await done(seam.call(face(seam, client, is_async), "hello"))
        assert books.used == wire.entries[-1].tokens
        assert client.get_status().dimensions["session"].used == books.used
        del plain
        gc.collect()
        await done(seam.call(face(seam, client, is_async), "hello"))
        assert len(books.calls) == 2

    with Books(backend) as books:
        drive(run(books), is_async)


def test_a_dropped_copy_leaves_the_connections_of_the_original_open(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run(books: Books) -> None:
        plain = client_of(seam, wire, is_async)
        copy = books.guard.wrap(plain)
        await done(seam.call(face(seam, copy, is_async), "hello"))
        del copy
        gc.collect()
        await done(seam.call(face(seam, plain, is_async), "hello"))

    with Books(backend) as books:
        drive(run(books), is_async)
        assert len(books.calls) == 1


def test_a_second_guard_takes_over_on_its_own_copy(seam: Seam, wire: Wire, is_async: bool) -> None:
    async def run(first: Books, second: Books) -> None:
        one = first.guard.wrap(client_of(seam, wire, is_async))
        two = second.guard.wrap(one)
        await done(seam.call(face(seam, two, is_async), "hello"))
        assert (len(first.calls), len(second.calls)) == (0, 1)
        await done(seam.call(face(seam, one, is_async), "hello"))
        assert (len(first.calls), len(second.calls)) == (1, 1)

    with Books(MemoryBackend()) as first, Books(MemoryBackend()) as second:
        drive(run(first, second), is_async)


def test_a_client_makes_no_call_after_the_teardown_of_its_guard(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run() -> None:
        with Books(backend) as books:
            client = guarded(seam, wire, is_async, books)
        with pytest.raises(ConfigurationError, match="teardown"):
            await done(seam.call(client, "hello"))

    drive(run(), is_async)
    assert wire.requests == []


def test_patch_guards_what_is_asked_for_and_unpatch_leaves_plain_clients(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run() -> None:
        guard = tokencap.init(Policy.blocking(10**9), backend=backend, otel_enabled=False, quiet=True)
        books = Books(backend, guard=guard)
        tokencap.patch()
        await done(seam.call(face(seam, client_of(seam, wire, is_async), is_async), "hello"))
        assert books.calls == [], "only the first two are patched without being asked for"
        tokencap.unpatch()

        tokencap.patch(providers=[seam.provider])
        made = face(seam, client_of(seam, wire, is_async), is_async)
        await done(seam.call(made, "hello"))
        assert books.used == wire.entries[-1].tokens
        tokencap.unpatch()
        await done(seam.call(made, "hello"))
        await done(seam.call(face(seam, client_of(seam, wire, is_async), is_async), "hello"))
        assert len(books.calls) == 1

    drive(run(), is_async)


# -- what is changed on the way out ----------------------------------------------------------------------


def test_a_degraded_call_goes_to_the_cheaper_model(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    degrade = Threshold(0.00001, [Action(kind=ActionKind.DEGRADE, degrade_to=seam.cheaper)])
    policy = Policy({"session": DimensionPolicy(limit=10**5, thresholds=[degrade])})

    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        await done(seam.call(client, "hello"))
        await listed(await done(seam.stream(client, "hello")))

    with Books(backend, policy) as books:
        drive(run(books), is_async)
        assert [seam.model_of(request) for request in wire.sent] == [seam.cheaper] * 2
        assert {(call.model_asked, call.model) for call in books.calls} == {(seam.model, seam.cheaper)}
        assert books.used == wire.tokens


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_a_strict_budget_is_never_passed(
    seam: Seam, streamed: bool, wire: Wire, is_async: bool, backend: Any
) -> None:
    limit = 600

    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        for _ in range(200):
            if streamed:
                await listed(await done(seam.stream(client, "hello")))
            else:
                await done(seam.call(client, "hello"))
            assert books.used <= limit

    policy = replace(Policy.blocking(limit, strict=True), max_output_tokens=64)
    with Books(backend, policy) as books:
        with pytest.raises(BudgetExceededError):
            drive(run(books), is_async)
        assert books.used == wire.tokens <= limit
        caps = [seam.cap(request) for request in wire.requests]
        assert len(caps) > 2
        assert all(isinstance(cap, int) and 0 < cap <= 64 for cap in caps)


def test_a_strict_budget_keeps_a_smaller_cap_and_refuses_what_cannot_fit(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        await done(seam.call(client, "hello", 5))
        assert seam.cap(wire.requests[-1]) == 5
        with pytest.raises(BudgetExceededError):
            await done(seam.call(client, "hello " * 1000, 5))
        assert len(wire.requests) == 1

    with Books(backend, Policy.blocking(1_000, strict=True)) as books:
        drive(run(books), is_async)


# -- endings ---------------------------------------------------------------------------------------------


def test_the_usage_of_a_stream_counts_when_it_passes_and_not_when_it_is_closed(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        expected = await listed(await done(seam.stream(client, "hello")))
        first = books.used
        events = await done(seam.stream(client, "hello"))
        seen = 0
        async for _ in each(events):
            seen += 1
            if seen == len(expected):
                break
        assert books.used == 2 * first
        assert books.reserved == 0

    with Books(backend) as books:
        drive(run(books), is_async)


@pytest.mark.parametrize("way", ["broken out of", "closed", "never iterated"])
def test_a_stream_that_is_left_is_charged_its_prompt_at_least_and_holds_nothing(
    seam: Seam, way: str, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        events = await done(seam.stream(client, "hello"))
        if way == "broken out of":
            async for _ in each(events):
                break
        elif way == "closed":
            await wires.step(events)
            close = getattr(events, "close", None) or events.aclose
            await done(close())
        del events
        gc.collect()
        if is_async:
            await asyncio.sleep(0.01)
        gc.collect()

    with Books(backend) as books:
        drive(run(books), is_async)
        books.settled()
        if wire.requests:
            (call,) = books.calls
            assert call.ending in ("cut", "ok")
            assert books.used >= wire.entries[-1].input_tokens > 0
        else:
            assert books.calls == []


def test_a_stream_that_breaks_is_charged_what_was_delivered(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    answering(seam, wire, lambda reply: replace(reply, chunks=list(reply.chunks)[:2], cut=True))

    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        with pytest.raises(Exception, match="peer closed"):
            await listed(await done(seam.stream(client, "hello")))

    with Books(backend) as books:
        drive(run(books), is_async)
        (call,) = books.calls
        assert call.ending == "cut"
        assert call.estimated
        assert books.used >= call.estimate > 0
        assert books.reserved == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_status_costs_nothing(
    seam: Seam, status: int, streamed: bool, wire: Wire, is_async: bool, backend: Any
) -> None:
    told = {"message": "no", "error": {"code": status, "message": "no", "status": "NO"}}
    answering(seam, wire, lambda reply: wires.reply_json(told, status=status))

    async def run(client: Any) -> str:
        with pytest.raises(Exception) as caught:
            if streamed:
                await listed(await done(seam.stream(client, "hello")))
            else:
                await done(seam.call(client, "hello"))
        return f"{type(caught.value).__name__} {caught.value}"

    expected = drive(run(face(seam, client_of(seam, wire, is_async), is_async)), is_async)
    with Books(backend) as books:
        assert drive(run(guarded(seam, wire, is_async, books)), is_async) == expected
        assert (books.used, books.reserved) == (0, 0)
        assert [call.ending for call in books.calls] == ["failed"]


@pytest.mark.parametrize(("trouble", "charged"), [("ConnectError", False), ("ReadTimeout", True)])
def test_a_call_is_charged_if_it_may_have_been_billed(
    seam: Seam, trouble: str, charged: bool, wire: Wire, is_async: bool, backend: Any
) -> None:
    wire.down = trouble

    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        with pytest.raises(Exception, match="the wire is down"):
            await done(seam.call(client, "hello there, how are you"))

    with Books(backend) as books:
        drive(run(books), is_async)
        assert bool(books.used) is charged
        assert books.reserved == 0


def test_a_time_out_of_a_library_that_has_no_name_of_its_own_for_it_is_charged(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    def silent(reply: wires.Reply) -> wires.Reply:
        raise TimeoutError

    answering(seam, wire, silent)

    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        with pytest.raises(TimeoutError):
            await done(seam.call(client, "hello there, how are you"))

    with Books(backend) as books:
        drive(run(books), is_async)
        assert books.used == books.last.estimate > 0


def test_a_cancelled_call_is_charged_its_prompt(seam: Seam, wire: Wire, backend: Any) -> None:
    answering(seam, wire, lambda reply: replace(reply, hang=4.0))

    async def run(books: Books) -> None:
        client = guarded(seam, wire, True, books)
        task = asyncio.ensure_future(seam.call(client, "hello there, how are you"))
        while not wire.requests:  # noqa: ASYNC110  the wire knows no events
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Books(backend) as books:
        drive(run(books), True)
        (call,) = books.calls
        assert call.ending == "cancelled"
        assert books.used == call.estimate > 0
        assert books.reserved == 0


def test_many_calls_at_once_are_counted_to_the_token(seam: Seam, wire: Wire, backend: Any) -> None:
    async def run(books: Books) -> None:
        client = guarded(seam, wire, True, books)

        async def one(number: int) -> None:
            text = "hello " * number
            if number % 2:
                await done(seam.call(client, text))
            else:
                await listed(await done(seam.stream(client, text)))

        await asyncio.gather(*(one(number) for number in range(40)))

    with Books(backend) as books:
        drive(run(books), True)
        assert books.used == wire.tokens
        assert len(books.calls) == 40


def test_a_refusal_is_our_own_error_and_nothing_was_sent(
    seam: Seam, wire: Wire, is_async: bool, backend: Any
) -> None:
    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        for call in (seam.call, seam.stream):
            with pytest.raises(BudgetExceededError) as caught:
                result = await done(call(client, "hello"))
                async for _ in each(result):
                    pass
            assert is_refusal(caught.value)

    with Books(backend, Policy.blocking(5)) as books:
        books.use_up()
        drive(run(books), is_async)
        assert wire.requests == []


# -- one by one ------------------------------------------------------------------------------------------


def mistral(wire: Wire) -> Any:
    try:
        return wire.client("mistral", False)
    except Missing as missing:
        pytest.skip(str(missing))


def test_a_mistral_client_left_by_with_is_closed(wire: Wire, backend: Any) -> None:
    with Books(backend) as books, books.guard.wrap(mistral(wire)) as client:
        client.chat.complete(model="mistral-small-latest", messages=_said("hello"))
        assert books.used == wire.tokens > 0
    assert client.sdk_configuration.client is None


def test_resources_of_mistral_made_before_wrapping_stay_plain_and_those_of_the_copy_do_not(
    wire: Wire, backend: Any
) -> None:
    plain = mistral(wire)
    chat, nested = plain.chat, plain.beta.conversations
    with Books(backend) as books:
        client = books.guard.wrap(plain)
        assert client.chat is not chat
        assert plain.chat is chat
        assert plain.beta.conversations is nested
        nested.start(model="mistral-small-latest", inputs="hello")
        chat.complete(model="mistral-small-latest", messages=_said("hello"))
        assert books.calls == []
        client.beta.conversations.start(model="mistral-small-latest", inputs="hello")
        client.chat.complete(model="mistral-small-latest", messages=_said("hello"))
        assert len(books.calls) == 2


def test_a_mistral_call_of_an_agent_is_not_sent_to_another_model(wire: Wire, backend: Any) -> None:
    degrade = Threshold(0.0001, [Action(kind=ActionKind.DEGRADE, degrade_to="mistral-small-latest")])
    policy = Policy({"session": DimensionPolicy(limit=10**5, thresholds=[degrade])})
    plain = mistral(wire)
    with Books(backend, policy) as books:
        client = books.guard.wrap(plain)
        client.agents.complete(agent_id="ag_1", messages=_said("hello"))
        client.beta.conversations.start(agent_id="ag_1", inputs="hello")
        client.beta.conversations.start(model="mistral-large-latest", inputs="hello")
        sent = [request.body.get("model") for request in wire.requests]
        assert sent == [None, None, "mistral-small-latest"]


def test_a_strict_budget_caps_a_mistral_conversation_and_knows_its_history(wire: Wire, backend: Any) -> None:
    plain = mistral(wire)
    with Books(backend, Policy.blocking(5_000, strict=True)) as books:
        conversations = books.guard.wrap(plain).beta.conversations
        made = conversations.start(model="mistral-small-latest", inputs="hello")
        name = made.conversation_id
        assert 0 < wire.requests[-1].body["completion_args"]["max_tokens"] < 5_000
        conversations.append(conversation_id=name, inputs="more")
        assert 0 < wire.requests[-1].body["completion_args"]["max_tokens"] < 5_000
        assert books.used == wire.tokens
        with pytest.raises(BudgetExceededError, match="has not seen"):
            conversations.append(conversation_id="conv_of_another", inputs="more")
        with pytest.raises(BudgetExceededError, match="stored agent"):
            conversations.start(agent_id="ag_1", inputs="hello")
        with pytest.raises(BudgetExceededError, match="web_search"):
            conversations.start(model="mistral-small-latest", inputs="hi", tools=[{"type": "web_search"}])
        assert len(wire.requests) == 2


def test_only_a_guard_is_taken_for_a_guard() -> None:
    with pytest.raises(ConfigurationError, match="Supported are the clients of the anthropic SDK"):
        Guard(Policy.tracking(), backend=MemoryBackend()).wrap(object())  # type: ignore[call-overload,unused-ignore]


def test_entered_streams_are_closed_by_leaving(seam: Seam, wire: Wire, is_async: bool, backend: Any) -> None:
    async def run(books: Books) -> None:
        client = guarded(seam, wire, is_async, books)
        events = await done(seam.stream(client, "hello"))
        if not (hasattr(events, "__enter__") or hasattr(events, "__aenter__")):
            pytest.skip("streams of this SDK are plain generators")
        async with entered(events):
            await wires.step(events)
        assert books.reserved == 0
        assert books.used >= wire.entries[-1].input_tokens > 0

    with Books(backend) as books:
        drive(run(books), is_async)


def gemini(wire: Wire) -> Any:
    try:
        return wire.client("gemini", False)
    except Missing as missing:
        pytest.skip(str(missing))


def test_near_a_threshold_gemini_counts_the_prompt_for_nothing(
    wire: Wire, is_async: bool, backend: Any
) -> None:
    plain = gemini(wire)

    async def run(books: Books) -> None:
        client = wires.KINDS["gemini"].face(books.guard.wrap(plain), is_async)
        await done(client.models.generate_content(**_gemini("hello " * 40, None)))

    # By its length the prompt might be too long, and by the provider's count it is not.
    with Books(backend, Policy.blocking(200)) as books:
        drive(run(books), is_async)
        assert [request.path.rpartition(":")[2] for request in wire.requests] == [
            "countTokens",
            "generateContent",
        ]
        assert books.used == wire.tokens
        (call,) = books.calls
        assert call.estimate == wire.entries[-1].input_tokens


def test_a_function_call_of_gemini_is_stopped_between_its_rounds(wire: Wire, backend: Any) -> None:
    def look(place: str) -> str:
        """Look around."""
        return place * 2_000

    # Older versions of the SDK read no annotations that are strings.
    look.__annotations__ = {"place": str, "return": str}
    plain = gemini(wire)
    with Books(backend, Policy.blocking(1_500)) as books:
        client = books.guard.wrap(plain)
        with pytest.raises(BudgetExceededError):
            client.models.generate_content(
                model="gemini-2.5-pro", contents="[tool]", config={"tools": [look]}
            )
        assert [request.path.rpartition(":")[2] for request in wire.sent] == ["generateContent"]
        assert books.used == wire.tokens > 0


def test_a_strict_budget_caps_gemini_also_where_the_body_is_laid_over(wire: Wire, backend: Any) -> None:
    plain = gemini(wire)
    policy = replace(Policy.blocking(2_000, strict=True), min_output_tokens=64)
    capped = {"maxOutputTokens": 5_000, "topK": 3}
    over = {"extra_body": {"generationConfig": capped, "labels": {"a": "b"}}}
    with Books(backend, policy) as books:
        client = books.guard.wrap(plain)
        client.models.generate_content(
            model="gemini-2.5-pro", contents="hello", config={"temperature": 0.5, "http_options": over}
        )
        sent = wire.requests[-1].body
        assert 0 < sent["generationConfig"].pop("maxOutputTokens") < 2_000
        assert (sent["generationConfig"], sent["labels"]) == ({"temperature": 0.5, "topK": 3}, {"a": "b"})
        assert capped == {"maxOutputTokens": 5_000, "topK": 3}
        for config in ({"tools": [{"google_search": {}}]}, {"cached_content": "cachedContents/of_another"}):
            with pytest.raises(BudgetExceededError, match="cannot bound"):
                client.models.generate_content(model="gemini-2.5-pro", contents="hello", config=config)
        assert len(wire.sent) == 1


def test_media_of_gemini_are_not_counted_as_text(wire: Wire, backend: Any) -> None:
    plain = gemini(wire)
    picture = {"inline_data": {"mime_type": "image/png", "data": b"x" * 10**6}}
    with Books(backend, Policy.blocking(30_000)) as books:
        books.guard.wrap(plain).models.generate_content(
            model="gemini-2.5-pro", contents=[{"role": "user", "parts": [{"text": "what is it?"}, picture]}]
        )
        (call,) = books.calls
        assert call.estimate < 20_000


def test_a_gemini_copy_closes_the_connections_when_it_is_told_to(wire: Wire, backend: Any) -> None:
    try:
        from google import genai
    except ImportError:
        pytest.skip("google.genai is not installed")
    with Books(backend) as books:
        plain = genai.Client(api_key="none")
        http = plain._api_client._httpx_client
        copy = books.guard.wrap(plain)
        del copy
        gc.collect()
        assert not http.is_closed
        with books.guard.wrap(plain):
            assert not http.is_closed
        assert http.is_closed


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("models/old:generateContent", "models/new:generateContent"),
        ("tunedModels/mine:generateContent", "models/new:generateContent"),
        (
            "publishers/google/models/old:streamGenerateContent?alt=sse",
            "publishers/google/models/new:streamGenerateContent?alt=sse",
        ),
        ("projects/p/endpoints/7:generateContent", "projects/p/publishers/google/models/new:generateContent"),
    ],
)
def test_the_model_of_gemini_is_changed_in_its_path(path: str, sent: str) -> None:
    from tokencap.clients.gemini import path_to

    assert path_to("new", path) == sent


def cohere_v1(wire: Wire) -> Any:
    try:
        return wire.client("cohere-v1", False)
    except Missing as missing:
        pytest.skip(str(missing))


def test_the_checks_of_a_cohere_client_work_on_its_copy(wire: Wire, backend: Any) -> None:
    plain = cohere_v1(wire)
    with Books(backend) as books:
        client = books.guard.wrap(plain)
        with pytest.raises(ValueError, match="chat_stream"):
            client.chat(message="hello", stream=True)
        with books.guard.wrap(plain) as entered_client:
            entered_client.chat(message="hello")
        assert books.used == wire.tokens


def test_a_call_cohere_repeats_is_one_call(wire: Wire, is_async: bool, backend: Any) -> None:
    cohere_v1(wire)
    answer = wire_cohere.chat_v2
    answers = [lambda request: wires.reply_json({}, status=500, **{"retry-after-ms": "1"})] * 2
    answers.append(lambda request: answer(request, wire))
    told: Any = {("POST", "/cohere/v2/chat"): lambda request: answers.pop(0)(request)}
    wire.answers = {**told, **{at: one for at, one in wire.answers.items() if at not in told}}

    async def run(books: Books) -> None:
        client = books.guard.wrap(wire.client("cohere", is_async))
        options = {"max_retries": 2}
        await done(client.chat(**_cohere("hello", None), request_options=options))

    with Books(backend) as books:
        drive(run(books), is_async)
        assert len(wire.requests) == 3
        assert len(books.calls) == 1
        assert books.used == wire.entries[-1].tokens


def test_the_batches_of_cohere_are_billed_to_the_scope_they_are_made_in(wire: Wire, backend: Any) -> None:
    policy = Policy({"tenant": DimensionPolicy(limit=10**6)})
    plain = cohere_v1(wire)
    with Books(backend, guard=Guard(policy, {"tenant": "nobody"}, backend, otel_enabled=False)) as books:
        client = books.guard.wrap(plain)
        with books.guard.scope(identifiers={"tenant": "acme"}):
            client.embed(texts=["hello"] * 200, model="embed-english-v3.0", input_type="search_query")
        assert [call.identifiers["tenant"] for call in books.calls] == ["acme"] * 3
        assert sum(call.tokens for call in books.calls) == wire.tokens


def test_a_strict_budget_caps_cohere_also_where_the_body_is_laid_over(wire: Wire, backend: Any) -> None:
    cohere_v1(wire)
    policy = replace(Policy.blocking(2_000, strict=True), min_output_tokens=64)
    more = {"max_tokens": 5_000, "k": 3}
    with Books(backend, policy) as books:
        client = books.guard.wrap(wire.client("cohere", False))
        client.chat(**_cohere("hello", None), request_options={"additional_body_parameters": more})
        assert 0 < wire.requests[-1].body["max_tokens"] < 2_000
        assert wire.requests[-1].body["k"] == 3
        assert more == {"max_tokens": 5_000, "k": 3}
        old = books.guard.wrap(wire.client("cohere-v1", False))
        with pytest.raises(BudgetExceededError, match="connector"):
            old.chat(message="hello", connectors=[{"id": "web-search"}])


def test_a_stream_of_cohere_that_is_dropped_settles_in_another_thread(wire: Wire, backend: Any) -> None:
    """A finalizer may run while this thread is inside of the store."""
    cohere_v1(wire)
    seen: queue.Queue[str] = queue.Queue()
    with Books(backend) as books:
        books.guard.on_call(lambda record: seen.put(threading.current_thread().name))
        client = books.guard.wrap(wire.client("cohere", False))
        for _ in client.chat_stream(**_cohere("hello", None)):
            break
        gc.collect()
        # Asked for the status, this thread would settle it by itself.
        assert seen.get(timeout=30) != threading.current_thread().name
        books.settled()
        assert seen.empty()
