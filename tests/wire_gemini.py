"""Gemini in memory: the real SDK on the transport of `wire`, and a provider that speaks its format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokencap._loopback import Reply, count_prompt
from wire import CANNED, HTTP_IN, KINDS, Request, Wire, done, reply_events, reply_json, require, sse

__all__ = ["THOUGHTS", "generate"]

HTTP_IN["gemini"] = "google.genai._api_client"
URL = "http://wire/gemini"
TEXT = ["word"] * 16
THOUGHTS = 20


class GeminiKind:
    """A client of the google-genai SDK; its async methods are those of `aio`."""

    sdk = "gemini"
    streams_need = ()

    def __init__(self, name: str, vertex: bool) -> None:
        self.name, self.vertex = name, vertex

    def make(self, wire: Wire, is_async: bool, options: Mapping[str, Any]) -> Any:
        require(("google", "google.genai"), self.name)
        from google import genai
        from google.genai import types

        http = types.HttpOptions(
            base_url=URL,
            httpx_client=wire.http_client("gemini", False),
            httpx_async_client=wire.http_client("gemini", True),
        )
        if not self.vertex:
            return genai.Client(api_key="none", http_options=http)
        from google.oauth2.credentials import Credentials

        token = Credentials(token="none")  # type: ignore[no-untyped-call,unused-ignore]
        return genai.Client(vertexai=True, project="p", location="l", credentials=token, http_options=http)

    def face(self, client: Any, is_async: bool) -> Any:
        return client.aio if is_async else client

    async def post(self, client: Any, path: str, body: Any, is_async: bool) -> Any:
        api = client._api_client
        method = api.async_request if is_async else api.request
        return json.loads((await done(method("post", path.lstrip("/"), dict(body)))).body)


for _kind in (GeminiKind("gemini", False), GeminiKind("gemini-vertex", True)):
    KINDS[_kind.name] = _kind


# -- the provider ------------------------------------------------------------------------------------------


def _size(body: Mapping[str, Any]) -> int:
    return count_prompt(
        {
            "messages": body.get("contents"),
            "system": body.get("systemInstruction"),
            "tools": body.get("tools"),
        }
    )


def generate(request: Request, wire: Wire) -> Reply:
    """Generate content, at once or in a stream."""
    body = request.body
    config = body.get("generationConfig") or {}
    prompt, made = _size(body), min(config.get("maxOutputTokens") or 16, 16)
    last = body["contents"][-1]["parts"]
    said = json.dumps(body["contents"])
    thought = THOUGHTS if "[think]" in said else 0
    extra = 30 if any("googleSearch" in tool for tool in body.get("tools") or ()) else 0
    cached = 9 if body.get("cachedContent") else 0
    usage = {
        "promptTokenCount": prompt + cached,
        "candidatesTokenCount": made,
        "totalTokenCount": prompt + cached + made + thought + extra,
    }
    beside = {
        "thoughtsTokenCount": thought,
        "toolUsePromptTokenCount": extra,
        "cachedContentTokenCount": cached,
    }
    usage.update({name: count for name, count in beside.items() if count})
    tokens = (prompt + cached + extra, made + thought)
    schema = config.get("responseSchema") or config.get("responseJsonSchema")
    text = " ".join(TEXT[:made])
    if schema:
        text = json.dumps({"word": "a", "count": 1})
    parts: list[dict[str, Any]] = [{"text": text}]
    if body.get("tools") and any("[tool]" in str(part.get("text")) for part in last):
        name = body["tools"][0]["functionDeclarations"][0]["name"]
        parts = [{"functionCall": {"name": name, "args": {"place": "here"}}}]
    about = {"modelVersion": "gemini-x", "responseId": "r_1"}

    def reply(parts: Any, reason: Any = None, **more: Any) -> dict[str, Any]:
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        if reason:
            candidate["finishReason"] = reason
        return {"candidates": [candidate], **about, **more}

    if "streamGenerateContent" not in request.path:
        return reply_json(reply(parts, "STOP", usageMetadata=usage), request.path, tokens=tokens)
    early = {"promptTokenCount": prompt, "candidatesTokenCount": 1, "totalTokenCount": prompt + 1}
    events = [
        reply(parts[:1] if "functionCall" in parts[0] else [{"text": text[:9]}], usageMetadata=early),
        reply([{"text": text[9:] if "functionCall" not in parts[0] else ""}]),
        reply([{"text": ""}], "STOP", usageMetadata=usage),
    ]
    return reply_events([sse(event) for event in events], request.path, tokens)


def embed(request: Request, wire: Wire) -> Reply:
    """Embed one content, or the contents of many requests."""
    asked = request.body.get("requests") or [request.body]
    size = count_prompt({"messages": [one.get("content") for one in asked]})
    vectors = [{"values": [0.5, 0.25]} for _ in asked]
    usage = {"usageMetadata": {"promptTokenCount": size, "totalTokenCount": size}}
    if request.path.endswith(":embedContent"):
        return reply_json({"embedding": vectors[0], **usage}, request.path, tokens=(size, 0))
    return reply_json({"embeddings": vectors, **usage}, request.path, tokens=(size, 0))


def predict(request: Request, wire: Wire) -> Reply:
    """Embeddings on Vertex, each with its own count; or a picture, with none."""
    asked = request.body["instances"]
    if "prompt" in asked[0]:
        pictures = [{"bytesBase64Encoded": "iVBORw==", "mimeType": "image/png"}]
        return reply_json({"predictions": pictures}, request.path, tokens=(5, 0))
    sizes = [count_prompt({"prompt": one["content"]}) for one in asked]
    predictions = [
        {"embeddings": {"values": [0.5, 0.25], "statistics": {"token_count": size, "truncated": False}}}
        for size in sizes
    ]
    return reply_json({"predictions": predictions}, request.path, tokens=(sum(sizes), 0))


def cache(request: Request, wire: Wire) -> Reply:
    """Put contents into a cache."""
    size = _size(request.body)
    told = {"name": "cachedContents/c_1", "model": request.body["model"], "displayName": "c"}
    return reply_json({**told, "usageMetadata": {"totalTokenCount": size}}, request.path, tokens=(size, 0))


def count(request: Request, wire: Wire) -> Reply:
    """Count a prompt, for nothing."""
    body = request.body.get("generateContentRequest") or request.body
    return reply_json({"totalTokens": _size(body)}, request.path)


CANNED.update(
    {
        ("POST", "/gemini/.*:(streamG|g)enerateContent"): generate,
        ("POST", "/gemini/.*:(embedContent|batchEmbedContents)"): embed,
        ("POST", "/gemini/.*:predict"): predict,
        ("POST", "/gemini/.*/cachedContents"): cache,
        ("POST", "/gemini/.*:countTokens"): count,
    }
)
