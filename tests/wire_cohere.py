"""Cohere in memory: the real SDK on the transport of `wire`, and a provider that speaks both its formats."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from tokencap._loopback import Reply, count_prompt
from wire import CANNED, HTTP_IN, KINDS, Request, Wire, done, reply_events, reply_json, require, sse

__all__ = ["chat_v1", "chat_v2"]

HTTP_IN["cohere"] = "cohere.core.http_client"
URL = "http://wire/cohere"
TEXT = ["word"] * 16


class CohereKind:
    """A client of the cohere SDK; the second version of its API has a class of its own, with both."""

    sdk = "cohere"
    streams_need = ()

    def __init__(self, name: str, cls: str) -> None:
        self.name, self.cls = name, cls

    def make(self, wire: Wire, is_async: bool, options: Mapping[str, Any]) -> Any:
        require(("cohere",), self.name)
        import cohere

        cls = getattr(cohere, f"Async{self.cls}" if is_async else self.cls)
        accepted = inspect.signature(cls.__init__).parameters
        kept = {name: value for name, value in options.items() if name in accepted}
        http = wire.http_client("cohere", is_async)
        return cls(api_key="none", base_url=URL, httpx_client=http, **kept)

    def face(self, client: Any, is_async: bool) -> Any:
        return client

    async def post(self, client: Any, path: str, body: Any, is_async: bool) -> Any:
        http = client._client_wrapper.httpx_client
        return (await done(http.request(path.lstrip("/"), method="POST", json=dict(body)))).json()


for _kind in (CohereKind("cohere", "ClientV2"), CohereKind("cohere-v1", "Client")):
    KINDS[_kind.name] = _kind


# -- the provider ------------------------------------------------------------------------------------------


def _sizes(body: Mapping[str, Any]) -> tuple[int, int]:
    said = [body.get(name) for name in ("message", "chat_history", "messages", "prompt", "text", "query")]
    read = {"messages": [one for one in said if one], "tools": body.get("tools")}
    return count_prompt(read), min(body.get("max_tokens") or 16, 16)


def _usage(sizes: tuple[int, int]) -> dict[str, Any]:
    """What is billed is less than what was read: the preamble of the model is free."""
    return {
        "billed_units": {"input_tokens": 1.0, "output_tokens": float(sizes[1])},
        "tokens": {"input_tokens": float(sizes[0]), "output_tokens": float(sizes[1])},
    }


def _lines(events: list[Any], path: str, tokens: tuple[int, int]) -> Reply:
    reply = reply_events([json.dumps(event).encode() + b"\n" for event in events], path, tokens)
    return Reply(200, {"content-type": "application/stream+json"}, reply.chunks, reply.entry, reply.progress)


def chat_v2(request: Request, wire: Wire) -> Reply:
    sizes = _sizes(request.body)
    text = " ".join(TEXT[: sizes[1]])
    if not request.body.get("stream"):
        message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        told = {"id": "c_1", "finish_reason": "COMPLETE", "message": message, "usage": _usage(sizes)}
        return reply_json(told, request.path, tokens=sizes)

    def delta(said: str) -> dict[str, Any]:
        content = {"message": {"content": {"text": said}}}
        return {"type": "content-delta", "index": 0, "delta": content}

    events: list[dict[str, Any]] = [
        {"type": "message-start", "id": "c_1", "delta": {"message": {"role": "assistant", "content": []}}},
        delta(text[:9]),
        delta(text[9:]),
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _usage(sizes)}},
    ]
    chunks = [sse(event, event["type"]) for event in events]
    return reply_events([*chunks, b"data: [DONE]\n\n"], request.path, sizes)


def chat_v1(request: Request, wire: Wire) -> Reply:
    sizes = _sizes(request.body)
    text = " ".join(TEXT[: sizes[1]])
    told = {
        "text": text,
        "generation_id": "g_1",
        "response_id": "r_1",
        "finish_reason": "COMPLETE",
        "chat_history": [],
        "meta": {"api_version": {"version": "1"}, **_usage(sizes)},
    }
    if not request.body.get("stream"):
        return reply_json(told, request.path, tokens=sizes)
    events: list[dict[str, Any]] = [
        {"event_type": "stream-start", "is_finished": False, "generation_id": "g_1"},
        {"event_type": "text-generation", "is_finished": False, "text": text[:9]},
        {"event_type": "text-generation", "is_finished": False, "text": text[9:]},
        {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE", "response": told},
    ]
    return _lines(events, request.path, sizes)


def generate(request: Request, wire: Wire) -> Reply:
    """Only what is not streamed tells its usage."""
    sizes = _sizes(request.body)
    text = " ".join(TEXT[: sizes[1]])
    told = {"id": "g_1", "prompt": request.body["prompt"], "generations": [{"id": "g_1", "text": text}]}
    if not request.body.get("stream"):
        billed = {"input_tokens": float(sizes[0]), "output_tokens": float(sizes[1])}
        return reply_json({**told, "meta": {"billed_units": billed}}, request.path, tokens=sizes)
    events: list[dict[str, Any]] = [
        {"event_type": "text-generation", "is_finished": False, "text": text},
        {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE", "response": told},
    ]
    return _lines(events, request.path, sizes)


def summarize(request: Request, wire: Wire) -> Reply:
    sizes = _sizes(request.body)
    billed = {"input_tokens": float(sizes[0]), "output_tokens": float(sizes[1])}
    told = {"id": "s_1", "summary": " ".join(TEXT[: sizes[1]]), "meta": {"billed_units": billed}}
    return reply_json(told, request.path, tokens=sizes)


def embed(request: Request, wire: Wire) -> Reply:
    texts = request.body.get("texts") or []
    size = count_prompt({"messages": texts})
    meta = {"api_version": {"version": "1"}, "billed_units": {"input_tokens": float(size)}}
    vectors = [[0.5, 0.25] for _ in texts]
    told: dict[str, Any] = {"id": "e_1", "texts": texts, "meta": meta}
    if "v2" in request.path or request.body.get("embedding_types"):
        told.update(response_type="embeddings_by_type", embeddings={"float": vectors})
    else:
        told.update(response_type="embeddings_floats", embeddings=vectors)
    return reply_json(told, request.path, tokens=(size, 0))


def rerank(request: Request, wire: Wire) -> Reply:
    results = [{"index": 0, "relevance_score": 0.75}]
    told = {"id": "k_1", "results": results, "meta": {"billed_units": {"search_units": 1.0}}}
    return reply_json(told, request.path, tokens=_sizes(request.body))


def classify(request: Request, wire: Wire) -> Reply:
    one = {"id": "x", "input": "hello", "prediction": "a", "predictions": ["a"], "confidences": [0.5]}
    one.update(confidence=0.5, labels={"a": {"confidence": 0.5}}, classification_type="single-label")
    told = {"id": "f_1", "classifications": [one], "meta": {"billed_units": {"classifications": 1.0}}}
    return reply_json(told, request.path, tokens=(9, 0))


CANNED.update(
    {
        ("POST", "/cohere/v2/chat"): chat_v2,
        ("POST", "/cohere/v1/chat"): chat_v1,
        ("POST", "/cohere/v1/generate"): generate,
        ("POST", "/cohere/v1/summarize"): summarize,
        ("POST", "/cohere/v[12]/embed"): embed,
        ("POST", "/cohere/v[12]/rerank"): rerank,
        ("POST", "/cohere/v1/classify"): classify,
    }
)
