"""Run in a process of its own: one instrumentation, one order, every kind of call; and what was seen of them.

The order is `bare` (no Guard), or whether the instrumentation comes `before` or `after` `patch()`, or goes on
a client that was wrapped. What is seen: the spans without what differs from run to run, the tokens that the
Guard counted, and those that the provider billed.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tokencap
from tokencap.backends.memory import MemoryBackend
from wire import Wire

# Nothing is sent anywhere, and no library shall ask for a key to say so.
ENVIRON = {
    "LANGFUSE_PUBLIC_KEY": "pk-none",
    "LANGFUSE_SECRET_KEY": "sk-none",
    "LANGFUSE_HOST": "http://127.0.0.1:9",
    "TRACELOOP_TRACE_CONTENT": "true",
    "LOGFIRE_SEND_TO_LOGFIRE": "false",
}
EXPORTER = InMemorySpanExporter()
HELLO: Any = [{"role": "user", "content": "hello there"}]
CHAT: Any = {"model": "gpt-x", "messages": HELLO}
MESSAGE: Any = {"model": "claude-x", "max_tokens": 64, "messages": HELLO}


def provider() -> TracerProvider:
    """Make the process-wide tracer provider, whose spans stay here."""
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(made)
    return made


def logfire(client: Any = None) -> None:
    import logfire

    if client is None:
        processors = [SimpleSpanProcessor(EXPORTER)]
        logfire.configure(send_to_logfire=False, console=False, additional_span_processors=processors)
    logfire.instrument_openai(client)
    logfire.instrument_anthropic()


def langfuse() -> None:
    provided = provider()

    import langfuse
    import langfuse.openai

    # A second exporter, in place of the one that would send them to a server.
    langfuse.Langfuse(tracer_provider=provided, span_exporter=InMemorySpanExporter())


def openllmetry() -> None:
    provided = provider()

    from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provided)
    AnthropicInstrumentor().instrument(tracer_provider=provided)


def sdk() -> None:
    """Only what the SDKs trace by themselves."""
    provider()


INSTRUMENT = {"logfire": logfire, "langfuse": langfuse, "openllmetry": openllmetry, "sdk": sdk}


# -- the calls ---------------------------------------------------------------------------------------------


def calls(openai: Any, anthropic: Any) -> None:
    openai.chat.completions.create(**CHAT)
    openai.chat.completions.create(**CHAT, temperature=0.5)
    list(openai.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    list(openai.chat.completions.create(**CHAT, stream=True))
    openai.responses.create(model="gpt-x", input="hello there")
    list(openai.responses.create(model="gpt-x", input="hello there", stream=True))
    openai.embeddings.create(model="text-embedding-x", input="hello there", encoding_format="float")
    anthropic.messages.create(**MESSAGE)
    list(anthropic.messages.create(**MESSAGE, stream=True))
    with anthropic.messages.stream(**MESSAGE) as stream:
        stream.get_final_message()
    anthropic.beta.messages.create(**MESSAGE)


async def acalls(openai: Any, anthropic: Any) -> None:
    await openai.chat.completions.create(**CHAT)
    with_usage = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    [chunk async for chunk in await openai.chat.completions.create(**with_usage)]
    [chunk async for chunk in await openai.chat.completions.create(**CHAT, stream=True)]
    await openai.responses.create(model="gpt-x", input="hello there")
    [event async for event in await openai.responses.create(model="gpt-x", input="hello", stream=True)]
    await anthropic.messages.create(**MESSAGE)
    [event async for event in await anthropic.messages.create(**MESSAGE, stream=True)]
    async with anthropic.messages.stream(**MESSAGE) as stream:
        await stream.get_final_message()


# -- what was seen -----------------------------------------------------------------------------------------

VARIES = ("time", "duration", "code.", "thread", "session", "trace", "_id", ".id", "logfire.msg", "latency")


def settled(span: Any) -> dict[str, Any]:
    """Return a span without ids, times and addresses."""
    attributes = {
        name: _settled(value)
        for name, value in sorted((span.attributes or {}).items())
        if not any(part in name for part in VARIES)
    }
    return {
        "name": span.name,
        "kind": str(span.kind),
        "status": str(span.status.status_code),
        "nested": span.parent is not None,
        "attributes": attributes,
        "events": [event.name for event in span.events],
    }


def _settled(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return _without_ids(json.loads(value))
        except ValueError:
            return value
    return list(value) if isinstance(value, tuple) else value


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        volatile = (
            "id",
            "created",
            "created_at",
            "completed_at",
            "system_fingerprint",
            "item_id",
            "response_id",
        )
        return {name: _without_ids(item) for name, item in value.items() if name not in volatile}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def look(library: str, order: str) -> dict[str, Any]:
    os.environ.update(ENVIRON)
    guard = tokencap.Guard(
        tokencap.Policy.blocking(10**9), {"session": "s"}, MemoryBackend(), otel_enabled=False
    )
    records: list[tokencap.CallRecord] = []
    if order in ("before", "bare", "wrap"):
        INSTRUMENT[library]()
    if order in ("before", "after"):
        guard.teardown()
        guard = tokencap.init(tokencap.Policy.blocking(10**9), {"session": "s"}, MemoryBackend(), False, True)
        tokencap.patch(quiet=True)
    guard.on_call(records.append)
    if order == "after":
        INSTRUMENT[library]()

    wire = Wire()

    def client(sdk: str, is_async: bool) -> Any:
        made = wire.client(sdk, is_async)
        return guard.wrap(made) if order == "wrap" else made

    calls(client("openai", False), client("anthropic", False))
    asyncio.run(acalls(client("openai", True), client("anthropic", True)))
    trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]
    return {
        "spans": [settled(span) for span in EXPORTER.get_finished_spans()],
        "used": guard.get_status().dimensions["session"].used,
        "reserved": guard.get_status().dimensions["session"].reserved,
        "billed": wire.tokens,
        "calls": len(records),
        "requests": len(wire.requests),
        "asked": sum("stream_options" in (request.body or {}) for request in wire.requests),
    }
