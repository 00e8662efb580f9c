"""OpenAI's chat completions, older completions, and the rows of all its endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import _media, _responses
from ._prompt import chosen_tool
from ._respond import Bill, Call, Frame, Handler, Json, Plan, ProviderError, Reply, event, now, stream_error

__all__ = ["ROUTES", "models"]

_MODELS = ("gpt-5", "gpt-5-mini", "text-embedding-3-small")


def _chat(call: Call) -> Reply:
    call.need("model", "messages")
    cap = call.body.get("max_completion_tokens", call.body.get("max_tokens"))
    choices = call.body.get("n") or 1
    plan = call.plan(cap, tool=_tool(call), schema=_schema(call), choices=choices)
    base: Json = {"id": call.store.new_id("chatcmpl"), "created": now(), "model": call.model}
    if call.stream:
        frames = _chat_frames(call, plan, base, choices)
        return call.sse(frames, plan.bill, error=stream_error())
    reply = {
        **base,
        "object": "chat.completion",
        "choices": [
            {
                "index": index,
                "message": _chat_message(call, plan),
                "logprobs": None,
                "finish_reason": _finish(plan),
            }
            for index in range(choices)
        ],
        "service_tier": "default",
    }
    if "nousage" not in call.marks:
        reply["usage"] = _usage(plan.bill, plan.reasoning * choices)
    return call.json(reply, plan.bill)


def _chat_message(call: Call, plan: Plan) -> Json:
    message: Json = {"role": "assistant", "content": plan.text, "refusal": None, "annotations": []}
    if plan.tool:
        function = {"name": plan.tool, "arguments": plan.text}
        message["content"] = None
        message["tool_calls"] = [{"id": call.store.new_id("call"), "type": "function", "function": function}]
    return message


def _chat_frames(call: Call, plan: Plan, base: Json, choices: int) -> Iterable[Frame]:
    asked = bool((call.body.get("stream_options") or {}).get("include_usage")) and "nousage" not in call.marks
    head: Json = {**base, "object": "chat.completion.chunk", "service_tier": "default"}

    def chunk(index: int, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **({"usage": None} if asked else {})}, named=False)

    for index in range(choices):
        opening: Json = {"role": "assistant", "content": "", "refusal": None}
        if plan.tool:
            function = {"name": plan.tool, "arguments": ""}
            called = {"index": 0, "id": call.store.new_id("call"), "type": "function", "function": function}
            opening = {"role": "assistant", "content": None, "tool_calls": [called]}
        yield chunk(index, opening), plan.reasoning * choices
    done = plan.reasoning
    for text, reached in plan.parts():
        delta: Json = {"content": text}
        if plan.tool:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        for index in range(choices):
            total = reached * (index + 1) + done * (choices - index - 1)
            yield chunk(index, delta), total
        done = reached
    for index in range(choices):
        yield chunk(index, {}, _finish(plan)), plan.bill.output_tokens
    if asked:
        usage = _usage(plan.bill, plan.reasoning * choices)
        yield event({**head, "choices": [], "usage": usage}, named=False), plan.bill.output_tokens
    yield b"data: [DONE]\n\n", plan.bill.output_tokens


def _completions(call: Call) -> Reply:
    call.need("model", "prompt")
    choices = call.body.get("n") or 1
    prompt = call.body["prompt"]
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        choices *= len(prompt)
    plan = call.plan(call.body.get("max_tokens"), choices=choices)
    base: Json = {
        "id": call.store.new_id("cmpl"),
        "object": "text_completion",
        "created": now(),
        "model": call.model,
    }
    finish = "length" if plan.cut_short else "stop"
    usage = {} if "nousage" in call.marks else {"usage": _usage(plan.bill, plan.reasoning * choices)}

    def choice(index: int, text: str, finish: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    if not call.stream:
        whole = [choice(index, plan.text, finish) for index in range(choices)]
        return call.json({**base, "choices": whole, **usage}, plan.bill)

    def frames() -> Iterable[Frame]:
        for text, done in plan.parts():
            for index in range(choices):
                delta = {**base, "choices": [choice(index, text, None)]}
                yield event(delta, named=False), min(done * choices, plan.bill.output_tokens)
        for index in range(choices):
            yield (
                event({**base, "choices": [choice(index, "", finish)]}, named=False),
                plan.bill.output_tokens,
            )
        if usage and (call.body.get("stream_options") or {}).get("include_usage"):
            yield event({**base, "choices": [], **usage}, named=False), plan.bill.output_tokens
        yield b"data: [DONE]\n\n", plan.bill.output_tokens

    return call.sse(frames(), plan.bill, error=stream_error())


def _usage(bill: Bill, reasoning: int) -> Json:
    return {
        "prompt_tokens": bill.input_tokens,
        "completion_tokens": bill.output_tokens,
        "total_tokens": bill.input_tokens + bill.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": bill.cache_read,
            "cache_write_tokens": bill.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _finish(plan: Plan) -> str:
    return "length" if plan.cut_short else "tool_calls" if plan.tool else "stop"


def _tool(call: Call) -> tuple[str, Any] | None:
    functions = [tool["function"] for tool in call.body.get("tools") or () if tool.get("type") == "function"]
    tools = {function["name"]: function for function in functions}
    name = chosen_tool(call.body, list(tools))
    return None if name is None else (name, tools[name].get("parameters") or {"type": "object"})


def _schema(call: Call) -> Any:
    form = call.body.get("response_format") or {}
    if form.get("type") == "json_object":
        return {"type": "object"}
    return (form.get("json_schema") or {}).get("schema")


def models(call: Call) -> Reply:
    """List the models, or show one."""
    name = call.path.partition("/v1/models")[2].strip("/")
    if name and name not in _MODELS:
        raise ProviderError(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
    shown = [
        {"id": known, "object": "model", "created": 1767225600, "owned_by": "loopback"}
        for known in ([name] if name else _MODELS)
    ]
    return call.json(shown[0] if name else {"object": "list", "data": shown})


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", r"/v1/chat/completions", _chat),
    ("POST", r"/v1/completions", _completions),
    *_responses.ROUTES,
    *_media.ROUTES,
)
