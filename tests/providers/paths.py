"""Every way into the SDKs, by endpoint row: what the matrix runs.

A `Method` is a method of the SDK and the arguments it is called with; the `WAYS` are the variants in
which every method can be called. What is special to one method stands alone, as a `@variant`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Mapping
from typing import Any, Callable, NamedTuple

import openai
import pydantic

from tokencap import Provider
from tokencap.providers import PROVIDERS
from wire import KINDS, Missing, at, done, each, entered, listed, require_content

__all__ = ["ROWS", "VARIANTS", "Variant"]

Run = Callable[[Any], Awaitable[Any]]
"""Makes the call on a client, and returns all that the caller sees of the reply."""


class Variant(NamedTuple):
    """One way to reach one endpoint row."""

    provider: str
    row: str
    name: str
    run: Run
    kind: str
    calls: int = 1
    """How many calls it makes."""
    exact: bool = True
    """False where the reply reports no tokens: charged by the documented estimate then."""
    masks: bool = False
    """True where the SDK raises an error of its own in place of any other, with that as its context."""


VARIANTS: list[Variant] = []


def row_name(row: Any) -> str:
    return f"{row.method.upper()} {row.path}"


ROWS = [(provider.value, row_name(row)) for provider in Provider for row in PROVIDERS[provider].ENDPOINTS]


def variant(
    provider: str,
    row: str,
    *,
    kinds: tuple[str, ...] = (),
    calls: int = 1,
    exact: bool = True,
    masks: bool = False,
) -> Callable[[Run], Run]:
    """Add a variant, named after its function, on clients of these kinds."""

    def add(run: Run) -> Run:
        name = run.__name__.replace("_", " ")
        for kind in kinds or (provider,):
            shown = name if kind == provider else f"{name} ({kind})"
            VARIANTS.append(Variant(provider, row, shown, run, kind, calls, exact, masks))
        return run

    return add


# -- the ways every method can be called -------------------------------------------------------------------


class Method(NamedTuple):
    """A method of an SDK, and the row it ends in."""

    provider: str
    row: str
    name: str
    arguments: Mapping[str, Any]
    streams: bool = False
    exact: bool = True
    is_json: bool = True


def accessor(client: Any, method: Method, kind: str) -> Any:
    """Return a raw method by the accessor of its resource."""
    parent, _, name = method.name.rpartition(".")
    return at(at(client, parent), f"{kind}.{name}")


def client_accessor(client: Any, method: Method, kind: str) -> Any:
    """Return a raw method by the accessor of the client, or of the nearest resource to it that has one."""
    first, _, rest = method.name.partition(".")
    if first == "beta" and not hasattr(getattr(client, kind), "beta"):
        return at(client.beta, f"{kind}.{rest}")
    return at(client, f"{kind}.{method.name}")


Way = Callable[[Any, Method, Mapping[str, Any]], Awaitable[Any]]
WAYS: list[tuple[str, Way]] = []
STREAM_WAYS: list[tuple[str, Way]] = []


def way(function: Way) -> Way:
    WAYS.append((function.__name__.replace("_", " ").strip(), function))
    return function


def stream_way(function: Way) -> Way:
    STREAM_WAYS.append((function.__name__.replace("_", " ").strip(), function))
    return function


@way
async def plain(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    return await done(at(client, method.name)(**args))


@way
async def on_a_copy(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    copied = client.with_options(timeout=30)
    if copied._client is not client._client:
        raise Missing(f"a copy of this {type(client).__name__} does not keep its HTTP client")
    return await done(at(copied, method.name)(**args))


@way
async def on_a_copy_of_a_copy(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    return await done(at(client.copy(max_retries=0).copy(), method.name)(**args))


@way
async def raw_parsed(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    reply = await done(accessor(client, method, "with_raw_response")(**args))
    return [await done(reply.parse()), await done(reply.parse()), reply.status_code]


@way
async def raw_as_bytes(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    reply = await done(accessor(client, method, "with_raw_response")(**args))
    return [reply.http_response.content, sorted(reply.headers.items())]


@way
async def raw_of_the_client(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    return await done((await done(client_accessor(client, method, "with_raw_response")(**args))).parse())


@way
async def streaming_response_parsed(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(accessor(client, method, "with_streaming_response")(**args)) as reply:
        return await done(reply.parse())


@way
async def streaming_response_read(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(accessor(client, method, "with_streaming_response")(**args)) as reply:
        return [await done(reply.read()), await done(reply.text())]


@way
async def streaming_response_as_lines(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(accessor(client, method, "with_streaming_response")(**args)) as reply:
        return await listed(reply.iter_lines())


@way
async def streaming_response_as_bytes(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(accessor(client, method, "with_streaming_response")(**args)) as reply:
        return b"".join(await listed(reply.iter_bytes(64)))


@way
async def streaming_response_of_the_client(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(client_accessor(client, method, "with_streaming_response")(**args)) as reply:
        return await done(reply.parse())


@way
async def client_post(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    return await done(client.post(method.row.split(" ")[1], cast_to=object, body=dict(args)))


@stream_way
async def stream(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    return await listed(await done(at(client, method.name)(**args, stream=True)))


@stream_way
async def stream_in_with(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(await done(at(client, method.name)(**args, stream=True))) as events:
        return await listed(events)


@stream_way
async def stream_on_a_copy(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    return await listed(await done(at(client.with_options(timeout=30), method.name)(**args, stream=True)))


@stream_way
async def raw_stream_parsed(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    reply = await done(accessor(client, method, "with_raw_response")(**args, stream=True))
    return await listed(await done(reply.parse()))


@stream_way
async def raw_stream_of_the_client(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    reply = await done(client_accessor(client, method, "with_raw_response")(**args, stream=True))
    return await listed(await done(reply.parse()))


@stream_way
async def streaming_response_stream_parsed(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(accessor(client, method, "with_streaming_response")(**args, stream=True)) as reply:
        return await listed(await done(reply.parse()))


@stream_way
async def streaming_response_stream_as_lines(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(accessor(client, method, "with_streaming_response")(**args, stream=True)) as reply:
        return await listed(reply.iter_lines())


@stream_way
async def streaming_response_stream_as_bytes(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    async with entered(accessor(client, method, "with_streaming_response")(**args, stream=True)) as reply:
        return b"".join(await listed(reply.iter_bytes()))


@stream_way
async def client_post_stream(client: Any, method: Method, args: Mapping[str, Any]) -> Any:
    stream_class = at(client, "_default_stream_cls")
    path = method.row.split(" ")[1]
    body = {**args, "stream": True}
    return await listed(
        await done(client.post(path, cast_to=object, body=body, stream=True, stream_cls=stream_class[object]))
    )


# -- the methods -------------------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "hello there"}]
MESSAGE: dict[str, Any] = {"model": "claude-x", "max_tokens": 64, "messages": HELLO}
CHAT: dict[str, Any] = {"model": "gpt-x", "messages": HELLO}
RESPONSE: dict[str, Any] = {"model": "gpt-x", "input": "hello there"}
RUN: dict[str, Any] = {"assistant_id": "asst_1", "instructions": "be short"}
PNG = ("picture.png", b"\x89PNG\r\n", "image/png")
WAV = ("voice.wav", b"RIFF" + bytes(400), "audio/wav")
QUESTION: list[Any] = [{"type": "predicate", "name": "sure", "question": "is it so?"}]

METHODS = [
    Method("anthropic", "POST /v1/messages", "messages.create", MESSAGE, streams=True),
    Method("anthropic", "POST /v1/messages", "beta.messages.create", MESSAGE, streams=True),
    Method(
        "anthropic",
        "POST /v1/complete",
        "completions.create",
        {"model": "claude-x", "max_tokens_to_sample": 64, "prompt": "\n\nHuman: hi\n\nAssistant:"},
        streams=True,
        exact=False,
    ),
    Method("openai", "POST /chat/completions", "chat.completions.create", CHAT, streams=True),
    Method("openai", "POST /chat/completions", "beta.chat.completions.create", CHAT, streams=True),
    Method(
        "openai",
        "POST /completions",
        "completions.create",
        {"model": "gpt-x", "prompt": "hello there"},
        streams=True,
    ),
    Method("openai", "POST /responses", "responses.create", RESPONSE, streams=True),
    Method("openai", "POST /responses", "beta.responses.create", RESPONSE, streams=True),
    Method("openai", "POST /responses/compact", "responses.compact", RESPONSE),
    Method("openai", "POST /responses/compact", "beta.responses.compact", RESPONSE),
    Method("openai", "POST /decisions", "decisions.create", {**RESPONSE, "questions": QUESTION}),
    Method(
        "openai",
        "POST /embeddings",
        "embeddings.create",
        {"model": "text-embedding-x", "input": ["hello", "there"], "encoding_format": "float"},
    ),
    Method(
        "openai",
        "POST /images/generations",
        "images.generate",
        {"model": "gpt-image-1", "prompt": "a cat"},
        streams=True,
    ),
    Method(
        "openai",
        "POST /images/edits",
        "images.edit",
        {"model": "gpt-image-1", "prompt": "a cat", "image": PNG},
        streams=True,
        is_json=False,
    ),
    Method(
        "openai",
        "POST /audio/transcriptions",
        "audio.transcriptions.create",
        {"model": "gpt-4o-transcribe", "file": WAV},
        streams=True,
        is_json=False,
    ),
    Method(
        "openai",
        "POST /audio/translations",
        "audio.translations.create",
        {"model": "whisper-1", "file": WAV},
        is_json=False,
        exact=False,
    ),
    Method("openai", "POST /threads/runs", "beta.threads.create_and_run", RUN, streams=True),
    Method(
        "openai", "POST /threads/{}/runs", "beta.threads.runs.create", {**RUN, "thread_id": "t"}, streams=True
    ),
]


def _bind(method: Method, call: Way) -> Run:
    async def run(client: Any) -> Any:
        return await call(client, method, method.arguments)

    return run


# The methods people live by go every way; the others go the ways that differ below the SDK's surface.
_PRINCIPAL = ("messages.create", "chat.completions.create", "responses.create")
_BASIC = (
    "plain",
    "on a copy",
    "raw parsed",
    "raw of the client",
    "streaming response parsed",
    "streaming response read",
    "stream",
    "raw stream parsed",
    "streaming response stream as lines",
    "client post",
    "client post stream",
)


def _applies(method: Method, name: str) -> bool:
    if method.name not in _PRINCIPAL and name not in _BASIC:
        return False
    posts = name.startswith("client post")
    if posts and (not method.is_json or "{}" in method.row or method.name.startswith("beta.")):
        return False
    # A run that is not streamed is only a ticket: the variants that poll it are written out below.
    return not ("threads" in method.name and "stream" not in name)


for _method in METHODS:
    _ways = WAYS + (STREAM_WAYS if _method.streams else [])
    if "threads" in _method.name:
        _ways = STREAM_WAYS
    for _name, _way in _ways:
        if _applies(_method, _name):
            _posts = _name.startswith("client post")
            _shown = f"{_name} {_method.row}" if _posts else f"{_method.name} {_name}"
            VARIANTS.append(
                Variant(
                    _method.provider,
                    _method.row,
                    _shown,
                    _bind(_method, _way),
                    _method.provider,
                    exact=_method.exact,
                )
            )

# Every kind of client, in the variants that differ between them.
_KIND_WAYS = [
    (name, way)
    for name, way in WAYS + STREAM_WAYS
    if name in ("plain", "raw parsed", "streaming response read", "on a copy", "stream", "raw stream parsed")
]
_OF_KINDS = {
    "messages.create": [kind for kind in KINDS.values() if kind.sdk == "anthropic"],
    "beta.messages.create": [KINDS[name] for name in ("bedrock", "vertex", "foundry")],
    "chat.completions.create": [kind for kind in KINDS.values() if kind.sdk == "openai"],
    "responses.create": [kind for kind in KINDS.values() if kind.sdk == "openai"],
}
for _method in METHODS:
    for _kind in _OF_KINDS.get(_method.name, ()):
        if _kind.name != _kind.sdk:
            VARIANTS.extend(
                Variant(
                    _kind.sdk,
                    _method.row,
                    f"{_method.name} {_name} ({_kind.name})",
                    _bind(_method, _way),
                    _kind.name,
                )
                for _name, _way in _KIND_WAYS
            )


# -- what is special to one method -------------------------------------------------------------------------


class Answer(pydantic.BaseModel):
    word: str
    count: int


_M = "POST /v1/messages"
_PLATFORMS = ("anthropic", "vertex", "foundry", "bedrock-mantle")


@variant("anthropic", _M, kinds=_PLATFORMS)
async def messages_stream_helper(client: Any) -> Any:
    async with entered(at(client, "messages.stream")(**MESSAGE)) as events:
        return await listed(events)


@variant("anthropic", _M)
async def messages_stream_helper_text(client: Any) -> Any:
    async with entered(at(client, "messages.stream")(**MESSAGE)) as events:
        return [await listed(events.text_stream), await done(events.get_final_message())]


@variant("anthropic", _M)
async def messages_stream_helper_until_done(client: Any) -> Any:
    async with entered(at(client, "messages.stream")(**MESSAGE)) as events:
        await done(events.until_done())
        return await done(events.get_final_text())


@variant("anthropic", _M)
async def messages_parse(client: Any) -> Any:
    return await done(at(client, "messages.parse")(**MESSAGE, output_format=Answer))


@variant("anthropic", _M)
async def messages_stream_helper_with_a_format(client: Any) -> Any:
    at(client, "messages.parse")
    async with entered(at(client, "messages.stream")(**MESSAGE, output_format=Answer)) as events:
        return [await listed(events), await done(events.get_final_message())]


@variant("anthropic", _M, kinds=("anthropic", "vertex"))
async def beta_messages_parse(client: Any) -> Any:
    return await done(at(client, "beta.messages.parse")(**MESSAGE, output_format=Answer))


@variant("anthropic", _M)
async def beta_messages_parse_raw(client: Any) -> Any:
    raw = at(client, "beta.messages.with_raw_response.parse")
    return await done((await done(raw(**MESSAGE, output_format=Answer))).parse())


@variant("anthropic", _M, kinds=("anthropic", "vertex", "foundry"))
async def beta_messages_stream_helper(client: Any) -> Any:
    async with entered(at(client, "beta.messages.stream")(**MESSAGE)) as events:
        return await listed(events)


@variant("anthropic", _M)
async def messages_with_thinking_and_cache(client: Any) -> Any:
    told = "[[reasoning=20]] [[cache_read=40]] [[cache_write=30]] [[input=100]]"
    return await done(client.messages.create(**{**MESSAGE, "messages": [{"role": "user", "content": told}]}))


@variant("anthropic", _M)
async def messages_stream_with_thinking_and_cache(client: Any) -> Any:
    told = "[[reasoning=20]] [[cache_read=40]] [[cache_write=30]] [[input=100]]"
    arguments = {**MESSAGE, "messages": [{"role": "user", "content": told}]}
    return await listed(await done(client.messages.create(**arguments, stream=True)))


@variant("anthropic", _M)
async def messages_with_tools(client: Any) -> Any:
    tools = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    told = [{"role": "user", "content": "[tool]"}]
    return await done(client.messages.create(**{**MESSAGE, "messages": told}, tools=tools))


@variant("anthropic", _M)
async def messages_stream_with_tools(client: Any) -> Any:
    tools = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    told = [{"role": "user", "content": "[tool]"}]
    return await listed(
        await done(client.messages.create(**{**MESSAGE, "messages": told}, tools=tools, stream=True))
    )


def _tool(client: Any) -> Any:
    """Return a tool for the runner of this client."""
    import anthropic

    if type(client).__name__.startswith(("Async", "OwnAsync")):

        async def look(city: str) -> str:
            """Look at a city.

            Args:
                city: Its name.
            """
            return f"{city} is there"

        return at(anthropic, "beta_async_tool")(look)

    def look(city: str) -> str:  # type: ignore[no-redef]
        """Look at a city.

        Args:
            city: Its name.
        """
        return f"{city} is there"

    return at(anthropic, "beta_tool")(look)


@variant("anthropic", _M, calls=2)
async def beta_tool_runner(client: Any) -> Any:
    told = [{"role": "user", "content": "[tool]"}]
    runner = at(client, "beta.messages.tool_runner")(**{**MESSAGE, "messages": told}, tools=[_tool(client)])
    return await listed(runner)


@variant("anthropic", _M, calls=2)
async def beta_tool_runner_until_done(client: Any) -> Any:
    told = [{"role": "user", "content": "[tool]"}]
    runner = at(client, "beta.messages.tool_runner")(**{**MESSAGE, "messages": told}, tools=[_tool(client)])
    return await done(runner.until_done())


@variant("anthropic", _M, calls=2)
async def beta_tool_runner_streamed(client: Any) -> Any:
    told = [{"role": "user", "content": "[tool]"}]
    arguments = {**MESSAGE, "messages": told, "tools": [_tool(client)], "stream": True}
    runner = at(client, "beta.messages.tool_runner")(**arguments)
    return [await listed(stream) async for stream in each(runner)]


@variant("anthropic", _M, calls=2)
async def beta_message_thread(client: Any) -> Any:
    arguments = {name: MESSAGE[name] for name in ("model", "max_tokens")}
    thread = at(client, "beta.messages.thread")(**arguments)
    return [await done(thread.send(message)) for message in (HELLO[0], {"role": "user", "content": "more"})]


@variant("anthropic", _M)
async def client_request(client: Any) -> Any:
    from anthropic._models import FinalRequestOptions

    options = FinalRequestOptions.construct(method="post", url="/v1/messages", json_data=dict(MESSAGE))
    return await done(client.request(object, options))


@variant("anthropic", _M)
async def messages_as_bytes_of_json(client: Any) -> Any:
    content = json.dumps(MESSAGE).encode()
    headers = {"content-type": "application/json"}
    require_content(client)
    return await done(
        client.post("/v1/messages", cast_to=object, content=content, options={"headers": headers})
    )


@variant("anthropic", "POST /v1/complete", exact=False)
async def posted_to_complete(client: Any) -> Any:
    body = {"model": "claude-x", "max_tokens_to_sample": 64, "prompt": "\n\nHuman: hi\n\nAssistant:"}
    return await done(client.post("/v1/complete", cast_to=object, body=body))


@variant("anthropic", _M)
async def count_tokens_beside_a_message(client: Any) -> Any:
    counted = await done(at(client, "messages.count_tokens")(model="claude-x", messages=MESSAGE["messages"]))
    return [counted, await done(client.messages.create(**MESSAGE))]


_C = "POST /chat/completions"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@variant("openai", _C, kinds=("openai", "azure"))
async def chat_parse(client: Any) -> Any:
    return await done(at(client, "chat.completions.parse")(**CHAT, response_format=Answer))


@variant("openai", _C)
async def chat_parse_raw(client: Any) -> Any:
    reply = await done(at(client, "chat.completions.with_raw_response.parse")(**CHAT, response_format=Answer))
    return await done(reply.parse())


@variant("openai", _C)
async def beta_chat_parse(client: Any) -> Any:
    return await done(at(client, "beta.chat.completions.parse")(**CHAT, response_format=Answer))


@variant("openai", _C, kinds=("openai", "azure"))
async def chat_stream_helper(client: Any) -> Any:
    async with entered(at(client, "chat.completions.stream")(**CHAT)) as events:
        return [await listed(events), await done(events.get_final_completion())]


@variant("openai", _C)
async def beta_chat_stream_helper(client: Any) -> Any:
    async with entered(at(client, "beta.chat.completions.stream")(**CHAT)) as events:
        return await listed(events)


@variant("openai", _C)
async def chat_stream_with_usage(client: Any) -> Any:
    arguments = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    return await listed(await done(client.chat.completions.create(**arguments)))


@variant("openai", _C)
async def chat_stream_with_usage_declined(client: Any) -> Any:
    arguments = {**CHAT, "stream": True, "stream_options": {"include_usage": False}}
    return await listed(await done(client.chat.completions.create(**arguments)))


@variant("openai", _C)
async def chat_raw_stream_as_lines(client: Any) -> Any:
    reply = await done(client.chat.completions.with_raw_response.create(**CHAT, stream=True))
    response = reply.http_response
    return await listed(response.aiter_lines() if _is_async(client) else response.iter_lines())


@variant("openai", _C)
async def chat_with_three_choices(client: Any) -> Any:
    return await done(client.chat.completions.create(**CHAT, n=3))


@variant("openai", _C)
async def chat_stream_with_three_choices(client: Any) -> Any:
    return await listed(await done(client.chat.completions.create(**CHAT, n=3, stream=True)))


@variant("openai", _C)
async def chat_with_tools(client: Any) -> Any:
    told = {**CHAT, "messages": [{"role": "user", "content": "[tool]"}], "tools": [TOOL]}
    return await done(client.chat.completions.create(**told))


@variant("openai", _C)
async def chat_stream_with_tools(client: Any) -> Any:
    told = {**CHAT, "messages": [{"role": "user", "content": "[tool]"}], "tools": [TOOL]}
    return await listed(await done(client.chat.completions.create(**told, stream=True)))


@variant("openai", _C)
async def chat_with_reasoning_and_cache(client: Any) -> Any:
    told = [{"role": "user", "content": "[[reasoning=20]] [[cache_read=40]] [[input=100]]"}]
    return await done(client.chat.completions.create(**{**CHAT, "messages": told}))


@variant("openai", _C)
async def chat_by_extra_body(client: Any) -> Any:
    return await done(client.chat.completions.create(**CHAT, extra_body={"max_completion_tokens": 5}))


@variant("openai", _C)
async def chat_request(client: Any) -> Any:
    from openai._models import FinalRequestOptions

    options = FinalRequestOptions.construct(method="post", url="/chat/completions", json_data=dict(CHAT))
    return await done(client.request(object, options))


@variant("openai", _C)
async def chat_to_an_absolute_url(client: Any) -> Any:
    return await done(client.post("http://wire/v1/chat/completions", cast_to=object, body=dict(CHAT)))


@variant("openai", _C)
async def chat_as_bytes_of_json(client: Any) -> Any:
    content = json.dumps(CHAT).encode()
    headers = {"content-type": "application/json"}
    require_content(client)
    return await done(
        client.post("/chat/completions", cast_to=object, content=content, options={"headers": headers})
    )


@variant("openai", _C)
async def moderations_and_models_beside_a_chat(client: Any) -> Any:
    seen = [await done(client.moderations.create(input="hello")), await done(client.models.retrieve("gpt-5"))]
    return [*seen, await done(client.chat.completions.create(**CHAT))]


_R = "POST /responses"


@variant("openai", _R)
async def responses_parse(client: Any) -> Any:
    return await done(at(client, "responses.parse")(**RESPONSE, text_format=Answer))


@variant("openai", _R)
async def responses_parse_raw(client: Any) -> Any:
    reply = await done(at(client, "responses.with_raw_response.parse")(**RESPONSE, text_format=Answer))
    return await done(reply.parse())


@variant("openai", _R)
async def responses_stream_helper(client: Any) -> Any:
    async with entered(at(client, "responses.stream")(**RESPONSE)) as events:
        return [await listed(events), await done(events.get_final_response())]


@variant("openai", _R)
async def responses_cut_short(client: Any) -> Any:
    create = at(client, "responses.create")
    return await listed(await done(create(**RESPONSE, max_output_tokens=3, stream=True)))


@variant("openai", _R)
async def responses_failed(client: Any) -> Any:
    return await listed(
        await done(at(client, "responses.create")(model="gpt-x", input="hello [[failed]]", stream=True))
    )


@variant("openai", _R, calls=2)
async def responses_in_a_chain(client: Any) -> Any:
    first = await done(at(client, "responses.create")(**RESPONSE))
    return [first, await done(client.responses.create(**RESPONSE, previous_response_id=first.id))]


@variant("openai", _R)
async def responses_counted_beforehand(client: Any) -> Any:
    counted = await done(at(client, "responses.input_tokens.count")(**RESPONSE))
    return [counted, await done(client.responses.create(**RESPONSE))]


@variant("openai", _R)
async def responses_retrieved_again(client: Any) -> Any:
    made = await done(at(client, "responses.create")(**RESPONSE))
    return [made, await done(client.responses.retrieve(made.id))]


@variant("openai", _R, calls=2, masks=True)
async def responses_tool_runner(client: Any) -> Any:
    try:
        from openai.lib.responses_tool_runner import (
            AsyncRegisteredFunction,
            AsyncResponsesToolRunner,
            RegisteredFunction,
            ResponsesToolRunner,
        )
    except ImportError:
        raise Missing(f"openai {openai.__version__} has no ResponsesToolRunner") from None
    tool = {
        "type": "function",
        "name": "look",
        "strict": True,
        "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    }
    told = {"model": "gpt-x", "input": [{"role": "user", "content": "[tool]"}]}
    if _is_async(client):

        async def alook(arguments: Any) -> str:
            return "there"

        runner: Any = AsyncResponsesToolRunner(functions=[AsyncRegisteredFunction(tool, alook)])  # type: ignore[arg-type]
    else:
        runner = ResponsesToolRunner(functions=[RegisteredFunction(tool, lambda arguments: "there")])  # type: ignore[arg-type]
    return await done(runner.run(client, told))


_B = "GET /responses/{}"


async def _in_background(client: Any) -> Any:
    return await done(at(client, "responses.create")(**RESPONSE, background=True))


@variant("openai", _B)
async def background_retrieved_until_complete(client: Any) -> Any:
    seen = [await _in_background(client)]
    for _ in range(3):
        seen.append(await done(client.responses.retrieve(seen[0].id)))
    return seen


@variant("openai", _B)
async def background_retrieved_raw(client: Any) -> Any:
    made = await _in_background(client)
    await done(client.responses.retrieve(made.id))
    return await done((await done(client.responses.with_raw_response.retrieve(made.id))).parse())


@variant("openai", _B)
async def background_retrieved_as_stream(client: Any) -> Any:
    made = await _in_background(client)
    return await listed(await done(client.responses.retrieve(made.id, stream=True)))


@variant("openai", _B)
async def background_retrieved_on_a_copy(client: Any) -> Any:
    made = await _in_background(client)
    await done(client.responses.retrieve(made.id))
    return await done(client.with_options(timeout=30).responses.retrieve(made.id))


@variant("openai", _B)
async def background_by_the_stream_helper(client: Any) -> Any:
    made = await _in_background(client)
    async with entered(at(client, "responses.stream")(response_id=made.id)) as events:
        return await listed(events)


@variant("openai", _B)
async def background_retrieved_streaming_response(client: Any) -> Any:
    made = await _in_background(client)
    await done(client.responses.retrieve(made.id))
    async with entered(client.responses.with_streaming_response.retrieve(made.id)) as reply:
        return await done(reply.read())


@variant("openai", "POST /responses/{}/cancel")
async def background_cancelled_too_late(client: Any) -> Any:
    made = await _in_background(client)
    seen = [await done(client.responses.retrieve(made.id)) for _ in range(2)]
    return [*seen, await done(client.responses.cancel(made.id))]


@variant("openai", "POST /responses/{}/cancel", exact=False)
async def background_cancelled(client: Any) -> Any:
    made = await _in_background(client)
    return await done(client.responses.cancel(made.id))


@variant("openai", "POST /audio/speech", exact=False)
async def speech(client: Any) -> Any:
    reply = await done(client.audio.speech.create(model="tts-1", voice="alloy", input="hello"))
    return reply.content


@variant("openai", "POST /audio/speech", exact=False)
async def speech_streamed(client: Any) -> Any:
    create = client.audio.speech.with_streaming_response.create
    async with entered(create(model="tts-1", voice="alloy", input="hello")) as reply:
        return b"".join(await listed(reply.iter_bytes(100)))


@variant("openai", "POST /audio/speech", exact=False)
async def speech_raw(client: Any) -> Any:
    create = client.audio.speech.with_raw_response.create
    return (await done(create(model="tts-1", voice="alloy", input="hello"))).content


@variant("openai", "POST /audio/transcriptions", exact=False)
async def transcription_as_text(client: Any) -> Any:
    create = client.audio.transcriptions.create
    return await done(create(model="gpt-4o-transcribe", file=WAV, response_format="text"))


@variant("openai", "POST /audio/transcriptions", exact=False)
async def transcription_by_whisper(client: Any) -> Any:
    file = io.BytesIO(b"RIFF" + bytes(64))
    return await done(client.audio.transcriptions.create(model="whisper-1", file=file))


@variant("openai", "POST /images/generations", exact=False)
async def image_by_dalle(client: Any) -> Any:
    return await done(client.images.generate(model="dall-e-3", prompt="a cat"))


@variant("openai", "POST /embeddings")
async def embeddings_of_token_ids(client: Any) -> Any:
    return await done(client.embeddings.create(model="text-embedding-x", input=[[1, 2, 3], [4, 5]]))


@variant("openai", "POST /embeddings")
async def embeddings_by_post(client: Any) -> Any:
    body = {"model": "text-embedding-x", "input": "hello", "encoding_format": "float"}
    return await done(client.post("/embeddings", cast_to=object, body=body))


@variant("openai", "POST /completions")
async def completions_of_many_prompts(client: Any) -> Any:
    return await done(client.completions.create(model="gpt-x", prompt=["one", "two"], n=2))


@variant("openai", "POST /decisions", masks=True)
async def decisions_tool_runner(client: Any) -> Any:
    try:
        from openai.lib.decisions_tool_runner import AsyncDecisionsToolRunner, DecisionsToolRunner
    except ImportError:
        raise Missing(f"openai {openai.__version__} has no DecisionsToolRunner") from None
    asynchronous = _is_async(client)

    def act() -> Any:
        raise AssertionError("the provider chooses to be done")

    async def aact() -> Any:
        raise AssertionError("the provider chooses to be done")

    def observe() -> Any:
        return "all is well"

    async def aobserve() -> Any:
        return "all is well"

    def offer(observation: Any) -> Any:
        return [
            {"id": "done", "description": "stop", "done": True},
            {"id": "go", "description": "go on", "execute": aact if asynchronous else act},
        ]

    async def aoffer(observation: Any) -> Any:
        return offer(observation)

    if asynchronous:
        runner: Any = AsyncDecisionsToolRunner(observe=aobserve, candidates=aoffer)
    else:
        runner = DecisionsToolRunner(observe=observe, candidates=offer)
    return await done(runner.run(client, {"model": "gpt-x", "input": "be done"}))


_T = "POST /threads/runs"
_TR = "POST /threads/{}/runs"
IN_THREAD: dict[str, Any] = {**RUN, "thread_id": "t"}
OUTPUTS = [{"tool_call_id": "call_1", "output": "seen"}]


@variant("openai", _T)
async def thread_created_and_polled(client: Any) -> Any:
    return await done(at(client, "beta.threads.create_and_run_poll")(**RUN))


@variant("openai", _T)
async def thread_created_and_streamed(client: Any) -> Any:
    async with entered(at(client, "beta.threads.create_and_run_stream")(**RUN)) as events:
        return await listed(events)


@variant("openai", _TR)
async def run_created_and_polled(client: Any) -> Any:
    return await done(at(client, "beta.threads.runs.create_and_poll")(**IN_THREAD))


@variant("openai", _TR)
async def run_stream_helper(client: Any) -> Any:
    async with entered(at(client, "beta.threads.runs.stream")(**IN_THREAD)) as events:
        await done(events.until_done())
        return await done(events.get_final_run())


async def _run(client: Any, **more: Any) -> Any:
    return await done(at(client, "beta.threads.runs.create")(**{**IN_THREAD, **more}))


@variant("openai", "GET /threads/{}/runs/{}")
async def run_retrieved_until_complete(client: Any) -> Any:
    made = await _run(client)
    return [made, *[await done(client.beta.threads.runs.retrieve(made.id, thread_id="t")) for _ in range(3)]]


@variant("openai", "GET /threads/{}/runs/{}")
async def run_retrieved_raw(client: Any) -> Any:
    made = await _run(client)
    retrieve = client.beta.threads.runs.with_raw_response.retrieve
    return await done((await done(retrieve(made.id, thread_id="t"))).parse())


@variant("openai", "POST /threads/{}/runs/{}/cancel")
async def run_cancelled(client: Any) -> Any:
    made = await _run(client)
    return await done(client.beta.threads.runs.cancel(made.id, thread_id="t"))


_S = "POST /threads/{}/runs/{}/submit_tool_outputs"


@variant("openai", _S)
async def tool_outputs_submitted(client: Any) -> Any:
    runs = at(client, "beta.threads.runs")
    made = await _run(client, instructions="[[action]]")
    asked = await done(runs.retrieve(made.id, thread_id="t"))
    sent = await done(runs.submit_tool_outputs(made.id, thread_id="t", tool_outputs=OUTPUTS))
    return [asked, sent, await done(runs.retrieve(made.id, thread_id="t"))]


@variant("openai", _S)
async def tool_outputs_submitted_and_polled(client: Any) -> Any:
    runs = at(client, "beta.threads.runs")
    made = await done(runs.create_and_poll(**{**IN_THREAD, "instructions": "[[action]]"}))
    return await done(runs.submit_tool_outputs_and_poll(run_id=made.id, thread_id="t", tool_outputs=OUTPUTS))


@variant("openai", _S)
async def tool_outputs_submitted_and_streamed(client: Any) -> Any:
    runs = at(client, "beta.threads.runs")
    made = await done(runs.create_and_poll(**{**IN_THREAD, "instructions": "[[action]]"}))
    submit = runs.submit_tool_outputs_stream
    async with entered(submit(run_id=made.id, thread_id="t", tool_outputs=OUTPUTS)) as events:
        return await listed(events)


def _is_async(client: Any) -> bool:
    return any(base.__name__ == "AsyncAPIClient" for base in type(client).__mro__)
