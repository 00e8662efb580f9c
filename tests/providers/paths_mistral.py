"""Every way into the mistralai SDK, by endpoint row: what the matrix runs beside `paths`."""

from __future__ import annotations

from typing import Any

from paths import HELLO, Answer, variant

import wire_mistral  # noqa: F401
from wire import at, done, entered, listed

CHAT: dict[str, Any] = {"model": "mistral-small-latest", "messages": HELLO}
_C = "POST /chat/completions"


def _calls(row: str, name: str, arguments: dict[str, Any], kinds: tuple[str, ...] = ()) -> None:
    """Add a method, and where it has one its `stream`, under every way to call it."""
    parent, _, method = name.rpartition(".")
    stream = {"complete": "stream"}.get(method, f"{method}_stream")

    async def plain(client: Any) -> Any:
        return await done(at(client, name)(**arguments))

    async def twice(client: Any) -> Any:
        resource = at(client, parent)
        return [await done(getattr(resource, method)(**arguments)) for _ in range(2)]

    async def streamed(client: Any) -> Any:
        return await listed(await done(at(client, f"{parent}.{stream}")(**arguments)))

    async def streamed_in_with(client: Any) -> Any:
        async with entered(await done(at(client, f"{parent}.{stream}")(**arguments))) as events:
            return await listed(events)

    for run in (plain, twice, streamed, streamed_in_with):
        run.__name__ = f"{name} {run.__name__}"
        calls = 2 if "twice" in run.__name__ else 1
        ending = row.replace("rawP", "streamRawP") if "stream" in run.__name__ else row
        variant("mistral", ending, calls=calls, kinds=kinds)(run)


def _plain(row: str, name: str, arguments: dict[str, Any], exact: bool = True) -> None:
    async def run(client: Any) -> Any:
        return await done(at(client, name)(**arguments))

    run.__name__ = f"{name} plain"
    variant("mistral", row, exact=exact)(run)


MIDDLE = {"model": "codestral-latest", "prompt": "def f(", "suffix": "return a"}
INPUTS = {"model": "mistral-small-latest", "inputs": "hello there"}
WAV = {"file_name": "voice.wav", "content": b"RIFF" + bytes(400)}

_calls(_C, "chat.complete", CHAT, kinds=("mistral", "mistral-azure"))
_calls("POST /fim/completions", "fim.complete", MIDDLE)
_calls("POST /agents/completions", "agents.complete", {"agent_id": "ag_1", "messages": HELLO})
_calls("POST /conversations", "beta.conversations.start", INPUTS)
_calls(
    "POST /conversations/{conversation}",
    "beta.conversations.append",
    {"conversation_id": "conv_9", "inputs": "and then"},
)
_calls(
    "POST /conversations/{conversation}/restart",
    "beta.conversations.restart",
    {"conversation_id": "conv_9", "from_entry_id": "e", "inputs": "again"},
)
_calls("POST /rawPredict", "chat.complete", CHAT, kinds=("mistral-gcp",))
_plain("POST /embeddings", "embeddings.create", {"model": "mistral-embed", "inputs": ["hello", "there"]})
_plain("POST /responses", "responses.create", {"model": "mistral-small-latest", "input": "hello there"})
_plain("POST /audio/transcriptions", "audio.transcriptions.complete", {"model": "voxtral-mini", "file": WAV})
_plain("POST /audio/speech", "audio.speech.complete", {"model": "voxtral-tts", "input": "hello"}, exact=False)


@variant("mistral", _C)
async def chat_parse(client: Any) -> Any:
    return await done(client.chat.parse(Answer, **CHAT))


@variant("mistral", _C)
async def chat_parse_stream(client: Any) -> Any:
    return await listed(await done(client.chat.parse_stream(Answer, **CHAT)))


@variant("mistral", "POST /conversations", calls=2)
async def conversation_started_and_appended(client: Any) -> Any:
    made = await done(client.beta.conversations.start(**INPUTS))
    name = made.conversation_id
    return [made, await done(client.beta.conversations.append(conversation_id=name, inputs="more"))]


@variant("mistral", "POST /conversations")
async def conversation_with_a_hosted_tool(client: Any) -> Any:
    return await done(client.beta.conversations.start(**INPUTS, tools=[{"type": "web_search"}]))


@variant("mistral", "POST /conversations")
async def conversation_with_a_hosted_tool_streamed(client: Any) -> Any:
    start = client.beta.conversations.start_stream
    return await listed(await done(start(**INPUTS, tools=[{"type": "web_search"}])))


@variant("mistral", "POST /responses")
async def responses_streamed(client: Any) -> Any:
    create = at(client, "responses.create")
    return await listed(await done(create(model="mistral-small-latest", input="hello there", stream=True)))


@variant("mistral", "POST /audio/transcriptions")
async def transcription_streamed(client: Any) -> Any:
    return await listed(await done(client.audio.transcriptions.stream(model="voxtral-mini", file=WAV)))
