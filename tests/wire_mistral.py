"""Mistral in memory: the real SDK on the transport of `wire`, and a provider that speaks its formats.

Its paths begin with `/mistral`, as those of the API itself are OpenAI's.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from tokencap._loopback import Reply, count_prompt
from tokencap._loopback._prompt import instance
from wire import (
    CANNED,
    HTTP_IN,
    KINDS,
    Request,
    Wire,
    done,
    reply_events,
    reply_json,
    require,
    sse,
)

__all__ = ["TEXT", "mistral_client"]

HTTP_IN["mistral"] = "mistralai.client.basesdk"
URL = "http://wire/mistral"
TEXT = ["word"] * 16


class Face:
    """The methods of one client as a test names them: the sync ones, or those that end in `_async`."""

    def __init__(self, part: Any, is_async: bool) -> None:
        self._part = part
        self._is_async = is_async

    def __getattr__(self, name: str) -> Any:
        if self._is_async and hasattr(self._part, f"{name}_async"):
            return getattr(self._part, f"{name}_async")
        found = getattr(self._part, name)
        return found if callable(found) else Face(found, self._is_async)


class MistralKind:
    """A client of the mistralai SDK; one has both the sync and the async methods."""

    sdk = "mistral"
    streams_need = ()

    def __init__(
        self, name: str, module: str, cls: str, arguments: Mapping[str, Any], needs: tuple[str, ...] = ()
    ) -> None:
        self.name, self.module, self.cls = name, module, cls
        self.arguments, self.needs = arguments, ("mistralai", *needs)

    def make(self, wire: Wire, is_async: bool, options: Mapping[str, Any]) -> Any:
        require(self.needs, self.name)
        cls = getattr(importlib.import_module(self.module), self.cls)
        kept = {name: value for name, value in options.items() if name != "max_retries"}
        clients = {
            "client": wire.http_client("mistral", False),
            "async_client": wire.http_client("mistral", True),
        }
        return cls(**{**self.arguments, **clients, **kept})

    def face(self, client: Any, is_async: bool) -> Any:
        return Face(client, is_async)

    async def post(self, client: Any, path: str, body: Any, is_async: bool) -> Any:
        """Send a request that no method makes, as the methods do."""
        from mistralai.client._hooks import HookContext

        config = client.sdk_configuration
        http = config.async_client if is_async else config.client
        context = HookContext(config, "", "test", None, None, None, None)
        request = http.build_request("POST", f"{URL}/v1{path}", json=body, headers={"user-agent": "a b"})
        method = client.do_request_async if is_async else client.do_request
        response = await done(
            method(hook_ctx=context, request=request, is_error_status_code=lambda code: code >= 400)
        )
        return response.json()


_SERVER = {"api_key": "none", "server_url": URL}
_GOOGLE = {"access_token": "none", "project_id": "p", "region": "r", "server_url": URL}

for _kind in (
    MistralKind("mistral", "mistralai.client", "Mistral", _SERVER),
    MistralKind("mistral-azure", "mistralai.azure.client", "MistralAzure", _SERVER),
    MistralKind("mistral-gcp", "mistralai.gcp.client", "MistralGCP", _GOOGLE, ("google.auth",)),
):
    KINDS[_kind.name] = _kind


def mistral_client(wire: Wire) -> Any:
    """Make a client for tests that look closer than the matrix."""
    return KINDS["mistral"].make(wire, False, {})


# -- the provider ------------------------------------------------------------------------------------------


def _sizes(body: Mapping[str, Any], cap: Any) -> tuple[int, int]:
    wanted = cap if isinstance(cap, int) else len(TEXT)
    return count_prompt(body), max(1, min(wanted, len(TEXT)))


def _usage(sizes: tuple[int, int]) -> dict[str, Any]:
    return {"prompt_tokens": sizes[0], "completion_tokens": sizes[1], "total_tokens": sum(sizes)}


def _text(body: Mapping[str, Any], made: int) -> str:
    schema = (body.get("response_format") or {}).get("json_schema")
    return json.dumps(instance(schema["schema"])) if schema else " ".join(TEXT[:made])


def chat(request: Request, wire: Wire) -> Reply:
    """Chat, fill in the middle and agents have one shape."""
    body = request.body
    sizes = _sizes(body, body.get("max_tokens"))
    text = _text(body, sizes[1])
    about = {"id": "cmpl_1", "created": 1, "model": body.get("model") or "of-the-agent"}
    if not body.get("stream"):
        message = {"role": "assistant", "content": text, "tool_calls": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = {**about, "object": "chat.completion", "choices": [choice], "usage": _usage(sizes)}
        return reply_json(reply, request.path, tokens=sizes)
    about["object"] = "chat.completion.chunk"

    def chunk(delta: Mapping[str, Any], reason: Any = None, **more: Any) -> bytes:
        return sse({**about, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})

    half = len(text) // 2
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": text[:half]}),
        chunk({"content": text[half:]}),
        chunk({"content": ""}, "stop", usage=_usage(sizes)),
        b"data: [DONE]\n\n",
    ]
    return reply_events(chunks, request.path, sizes)


CONNECTOR_TOKENS = 70


def conversation(request: Request, wire: Wire) -> Reply:
    """A turn, whose history is all there is in the books."""
    body = {"messages": request.body.get("inputs"), **request.body}
    prompt, made = _sizes(body, (request.body.get("completion_args") or {}).get("max_tokens"))
    hosted = any(tool["type"] != "function" for tool in request.body.get("tools") or ())
    known = request.path.split("/")[4:5]
    if known:
        prompt += wire.runs.setdefault(known[0], {"tokens": 0})["tokens"]
    name = known[0] if known else "conv_1"
    usage = _usage((prompt, made))
    if hosted:
        prompt += CONNECTOR_TOKENS
        usage.update(
            total_tokens=prompt + made, connector_tokens=CONNECTOR_TOKENS, connectors={"web_search": 1}
        )
    wire.runs.setdefault(name, {"tokens": 0})["tokens"] = prompt + made
    entry = {"object": "entry", "type": "message.output", "id": "msg_1", "role": "assistant"}
    text = " ".join(TEXT[:made])
    if not request.body.get("stream"):
        outputs = [{**entry, "content": text}]
        reply = {
            "object": "conversation.response",
            "conversation_id": name,
            "outputs": outputs,
            "usage": usage,
        }
        return reply_json(reply, request.path, tokens=(prompt, made))
    delta = {"type": "message.output.delta", "id": "msg_1", "role": "assistant"}
    events: list[dict[str, Any]] = [
        {"type": "conversation.response.started", "conversation_id": name},
        {**delta, "content": text[:20]},
        {**delta, "content": text[20:]},
        {"type": "conversation.response.done", "usage": usage},
    ]
    return reply_events([sse(event, event["type"]) for event in events], request.path, (prompt, made))


def embeddings(request: Request, wire: Wire) -> Reply:
    given = request.body["input"]
    size = count_prompt({"input": given})
    count = len(given) if isinstance(given, list) else 1
    data = [{"object": "embedding", "index": index, "embedding": [0.5, 0.25]} for index in range(count)]
    reply = {"id": "emb_1", "object": "list", "model": request.body["model"], "data": data}
    usage = {"prompt_tokens": size, "completion_tokens": 0, "total_tokens": size}
    return reply_json({**reply, "usage": usage}, request.path, tokens=(size, 0))


def responses(request: Request, wire: Wire) -> Reply:
    sizes = _sizes(request.body, request.body.get("max_output_tokens"))
    usage = {
        "input_tokens": sizes[0],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": sizes[1],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(sizes),
    }
    text = {"type": "output_text", "text": " ".join(TEXT[: sizes[1]]), "annotations": [], "logprobs": []}
    message = {"id": "m_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    reply = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": request.body["model"],
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    if not request.body.get("stream"):
        return reply_json({**reply, "usage": usage}, request.path, tokens=sizes)
    events: list[dict[str, Any]] = [
        {"type": "response.created", "sequence_number": 0, "response": {**reply, "status": "in_progress"}},
        {"type": "response.completed", "sequence_number": 1, "response": {**reply, "usage": usage}},
    ]
    return reply_events([sse(event, event["type"]) for event in events], request.path, sizes)


TRANSCRIPTION_TOKENS = (40, 8)


def transcription(request: Request, wire: Wire) -> Reply:
    about = {"model": "voxtral-mini", "text": "hello there", "language": "en"}
    usage = {**_usage(TRANSCRIPTION_TOKENS), "prompt_audio_seconds": 3}
    if b'name="stream"\r\n\r\ntrue' not in request.body:
        return reply_json({**about, "usage": usage}, request.path, tokens=TRANSCRIPTION_TOKENS)
    events = [
        {"type": "transcription.text.delta", "text": "hello there"},
        {"type": "transcription.done", **about, "usage": usage},
    ]
    return reply_events([sse(event, event["type"]) for event in events], request.path, TRANSCRIPTION_TOKENS)


def speech(request: Request, wire: Wire) -> Reply:
    return reply_json({"audio_data": "UklGRg=="}, request.path, tokens=(9, 16))


CANNED.update(
    {
        ("POST", "/mistral/(v1|models)/(chat|fim|agents)?/?(chat/)?completions"): chat,
        ("POST", "/mistral/v1/conversations(/[^/]+)?(/restart)?"): conversation,
        ("POST", "/mistral/v1/embeddings"): embeddings,
        ("POST", "/mistral/v1/responses"): responses,
        ("POST", "/mistral/v1/audio/transcriptions"): transcription,
        ("POST", "/mistral/v1/audio/speech"): speech,
        ("POST", "/v1/projects/.*/mistralai/models/.*awPredict"): chat,
    }
)
