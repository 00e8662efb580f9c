"""Every way into the google-genai SDK, by endpoint row: what the matrix runs beside `paths`."""

from __future__ import annotations

from typing import Any

from paths import Answer, variant

import wire_gemini  # noqa: F401  adds its clients
from wire import at, done, listed

_G = "POST /{model}:generateContent"
_S = "POST /{model}:streamGenerateContent"
BOTH = ("gemini", "gemini-vertex")
ASKED: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hello there"}


def look(place: str) -> str:
    """Look around."""
    return f"all is well {place}"


def _is_async(client: Any) -> bool:
    return type(client).__name__.startswith("Async")


async def _ask(client: Any, **more: Any) -> Any:
    return await done(client.models.generate_content(**{**ASKED, **more}))


async def _stream(client: Any, **more: Any) -> Any:
    return await listed(await done(client.models.generate_content_stream(**{**ASKED, **more})))


PICTURE = {"mime_type": "image/png", "data": b"x"}
CAPPED = {"generationConfig": {"maxOutputTokens": 3}}

_WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with a config": {"config": {"max_output_tokens": 5, "system_instruction": "be short"}},
    "with thoughts": {"contents": "hello [think]"},
    "with a hosted tool": {"config": {"tools": [{"google_search": {}}]}},
    "from a cache": {"config": {"cached_content": "cachedContents/c_1"}},
    "with history": {
        "contents": [
            {"role": "user", "parts": [{"text": "one"}]},
            {"role": "model", "parts": [{"text": "two"}]},
            {
                "role": "user",
                "parts": [{"text": "three"}, {"inline_data": {"mime_type": "image/png", "data": b"x"}}],
            },
        ]
    },
    "with extra body": {
        "config": {"http_options": {"extra_body": {"generationConfig": {"maxOutputTokens": 3}}}}
    },
    "as json": {"config": {"response_mime_type": "application/json", "response_schema": Answer}},
}


def _add(name: str, more: dict[str, Any]) -> None:
    async def asked(client: Any) -> Any:
        return await _ask(client, **more)

    async def streamed(client: Any) -> Any:
        return await _stream(client, **more)

    asked.__name__, streamed.__name__ = f"generate_content {name}", f"generate_content_stream {name}"
    variant("gemini", _G, kinds=BOTH)(asked)
    variant("gemini", _S, kinds=BOTH)(streamed)


for _name, _more in _WAYS.items():
    _add(_name, _more)

_TOOLS = {"contents": "[tool]", "config": {"tools": [look]}}


@variant("gemini", _G)
async def generate_content_as_it_came(client: Any) -> Any:
    return await _ask(client, config={"should_return_http_response": True})


@variant("gemini", _G, kinds=BOTH, calls=2)
async def generate_content_that_calls_a_function(client: Any) -> Any:
    return await _ask(client, **_TOOLS)


@variant("gemini", _S, kinds=BOTH, calls=2)
async def generate_content_stream_that_calls_a_function(client: Any) -> Any:
    return await _stream(client, **_TOOLS)


@variant("gemini", _G)
async def generate_content_with_functions_left_to_the_caller(client: Any) -> Any:
    config = {"tools": [look], "automatic_function_calling": {"disable": True}}
    return await _ask(client, contents="[tool]", config=config)


@variant("gemini", _G, kinds=BOTH, calls=2)
async def chat_of_two_turns(client: Any) -> Any:
    chat = client.chats.create(model="gemini-2.5-flash")
    said = [await done(chat.send_message(text)) for text in ("hello", "and then")]
    return [*said, chat.get_history()]


@variant("gemini", _G, calls=2)
async def chat_that_calls_a_function(client: Any) -> Any:
    chat = client.chats.create(model="gemini-2.5-flash", config={"tools": [look]})
    return await done(chat.send_message("[tool]"))


@variant("gemini", _S, kinds=BOTH, calls=2)
async def chat_streamed(client: Any) -> Any:
    chat = client.chats.create(model="gemini-2.5-flash")
    return [await listed(await done(chat.send_message_stream(text))) for text in ("hello", "and then")]


@variant("gemini", _G)
async def content_counted_beforehand(client: Any) -> Any:
    return [await done(client.models.count_tokens(**ASKED)), await _ask(client)]


@variant("gemini", "POST /{model}:batchEmbedContents")
async def embed_content(client: Any) -> Any:
    embed = client.models.embed_content
    return await done(embed(model="gemini-embedding-001", contents=["hello", "there"]))


@variant("gemini", "POST /{model}:embedContent", kinds=("gemini-vertex",))
async def embed_one_content_on_vertex(client: Any) -> Any:
    return await done(at(client, "models.embed_content")(model="gemini-embedding-2", contents=["hello"]))


@variant("gemini", "POST /{model}:predict", kinds=("gemini-vertex",))
async def embed_content_on_vertex(client: Any) -> Any:
    embed = client.models.embed_content
    return await done(embed(model="text-embedding-005", contents=["hello", "there"]))


@variant("gemini", "POST /{model}:predict", kinds=("gemini-vertex",), exact=False)
async def generate_images(client: Any) -> Any:
    return await done(client.models.generate_images(model="imagen-4.0-generate-001", prompt="a cat"))


@variant("gemini", "POST /cachedContents", kinds=BOTH)
async def cache_created(client: Any) -> Any:
    config = {"contents": "a long text", "display_name": "c"}
    return await done(client.caches.create(model="gemini-2.5-flash", config=config))
