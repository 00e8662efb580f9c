"""Every way into the cohere SDK, by endpoint row: what the matrix runs beside `paths`."""

from __future__ import annotations

from typing import Any

from paths import HELLO, variant

import wire_cohere  # noqa: F401  adds its clients
from wire import at, done, entered, listed

V2, V1 = ("cohere",), ("cohere-v1",)
TEXTS = [f"text number {number}" for number in range(200)]


def _is_async(client: Any) -> bool:
    return type(client).__name__.startswith("Async")


def _add(
    row: str, name: str, arguments: dict[str, Any], kinds: tuple[str, ...], exact: bool = True, calls: int = 1
) -> None:
    """Add a method, plain and raw, on the client."""

    async def plain(client: Any) -> Any:
        return await done(at(client, name)(**arguments))

    async def raw(client: Any) -> Any:
        parent, _, method = name.rpartition(".")
        resource = at(client, parent) if parent else client
        reply = await done(getattr(resource.with_raw_response, method)(**arguments))
        return [reply.data, sorted(reply.headers.items())]

    plain.__name__, raw.__name__ = f"{name} plain", f"{name} raw"
    variant("cohere", row, kinds=kinds, exact=exact, calls=calls)(plain)
    # Only the convenience around the raw client cuts into batches.
    variant("cohere", row, kinds=kinds, exact=exact)(raw)


def _stream(
    row: str, name: str, arguments: dict[str, Any], kinds: tuple[str, ...], exact: bool = True
) -> None:
    async def stream(client: Any) -> Any:
        return await listed(at(client, name)(**arguments))

    async def raw(client: Any) -> Any:
        parent, _, method = name.rpartition(".")
        resource = at(client, parent) if parent else client
        async with entered(getattr(resource.with_raw_response, method)(**arguments)) as reply:
            return await listed(reply.data)

    stream.__name__, raw.__name__ = f"{name} stream", f"{name} raw stream"
    for run in (stream, raw):
        variant("cohere", row, kinds=kinds, exact=exact)(run)


CHAT2 = {"model": "command-a-03-2025", "messages": HELLO}
CHAT1 = {"model": "command-r", "message": "hello there"}
EMBED2 = {"model": "embed-v4.0", "texts": ["hello", "there"], "input_type": "search_document"}
EMBED2["embedding_types"] = ["float"]
EMBED1 = {"model": "embed-english-v3.0", "texts": ["hello", "there"], "input_type": "search_document"}
RANK = {"model": "rerank-v3.5", "query": "hello", "documents": ["one", "two"]}
CLASSES = [{"text": "hello", "label": "a"}, {"text": "bye", "label": "b"}] * 2

_add("POST /v2/chat", "chat", CHAT2, V2)
_add("POST /v2/chat", "v2.chat", CHAT2, V1)
_add("POST /v1/chat", "chat", CHAT1, V1)
_stream("POST /v2/chat", "chat_stream", CHAT2, V2)
_stream("POST /v2/chat", "v2.chat_stream", CHAT2, V1)
_stream("POST /v1/chat", "chat_stream", CHAT1, V1)
_add("POST /v1/generate", "generate", {"prompt": "hello there", "model": "command"}, V1)
_stream("POST /v1/generate", "generate_stream", {"prompt": "hello", "model": "command"}, V1, exact=False)
_add("POST /v1/summarize", "summarize", {"text": "hello there " * 40}, V1)
_add("POST /v2/embed", "embed", EMBED2, V2)
_add("POST /v2/embed", "v2.embed", EMBED2, V1)
_add("POST /v1/embed", "embed", EMBED1, V1)
_add("POST /v2/rerank", "rerank", RANK, V2, exact=False)
_add("POST /v1/rerank", "rerank", RANK, V1, exact=False)
_add("POST /v1/classify", "classify", {"inputs": ["hello"], "examples": CLASSES}, V1, exact=False)


@variant("cohere", "POST /v1/embed", kinds=V1, calls=3)
async def embed_in_three_batches(client: Any) -> Any:
    return await done(client.embed(**{**EMBED1, "texts": TEXTS}))


@variant("cohere", "POST /v1/embed", kinds=V1)
async def embed_without_batches(client: Any) -> Any:
    return await done(client.embed(**EMBED1, batching=False))


@variant("cohere", "POST /v1/embed", kinds=V1, calls=3)
async def embed_stream(client: Any) -> Any:
    if _is_async(client):
        return await done(client.embed(**{**EMBED1, "texts": TEXTS}))
    return [vars(one) for one in at(client, "embed_stream")(**{**EMBED1, "texts": TEXTS})]


@variant("cohere", "POST /v2/chat", calls=2)
async def chat_of_both_versions(client: Any) -> Any:
    if _is_async(client):
        return [await client.chat(**CHAT2), await client.v2.chat(**CHAT2)]
    return [client.chat(**CHAT2), client.v2.chat(**CHAT2)]


@variant("cohere", "POST /v2/chat")
async def chat_with_more_in_the_body(client: Any) -> Any:
    return await done(client.chat(**CHAT2, request_options={"additional_body_parameters": {"max_tokens": 5}}))
