"""Anthropic's dialect: messages, token counting, models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._prompt import chosen_tool, count_prompt
from ._respond import Bill, Call, Frame, Handler, Json, Plan, ProviderError, Reply, event

__all__ = ["ROUTES"]

_MODELS = ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")
_HOLLOW: dict[str, Json] = {
    "thinking": {"thinking": "", "signature": ""},
    "text": {"text": ""},
    "tool_use": {"input": {}},
}


_BESIDE: dict[str, Json] = {
    "compaction": {"type": "compaction"},
    "advisor": {"type": "advisor_message", "model": "claude-opus-4-5"},
    "declined": {"type": "message", "model": "claude-opus-4-5"},
}


def _messages(call: Call) -> Reply:
    call.need("model", "messages", "max_tokens")
    plan = call.plan(call.body["max_tokens"], tool=_tool(call), schema=_schema(call))
    beside = {name: call.marks.number(name, 0) for name in _BESIDE if name in call.marks}
    usage = _usage(plan, beside)
    bill = plan.bill
    for tokens in beside.values():
        bill = bill.plus(Bill(tokens, tokens // 10))
    reason = "max_tokens" if plan.cut_short else "tool_use" if plan.tool else "end_turn"
    message: Json = {
        "id": call.store.new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": _content(call, plan),
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }
    if "nousage" in call.marks:
        del message["usage"]
    if not call.stream:
        return call.json(message, bill)
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    frames = list(_frames(message, plan))
    frames[-1] = (frames[-1][0], bill.output_tokens)
    return call.sse(frames, bill, error=event(overloaded))


def _frames(message: Json, plan: Plan) -> Iterable[Frame]:
    usage = message.get("usage")
    first = min(1, plan.output)
    start: Json = {**message, "content": [], "stop_reason": None}
    if usage:
        start["usage"] = {**usage, "output_tokens": first}
        start["usage"].pop("iterations", None)
    yield event({"type": "message_start", "message": start}), first
    done = first
    for index, block in enumerate(message["content"]):
        hollow = {**block, **_HOLLOW[block["type"]]}
        yield event({"type": "content_block_start", "index": index, "content_block": hollow}), done
        for delta, done in _deltas(block, plan):
            yield event({"type": "content_block_delta", "index": index, "delta": delta}), done
        yield event({"type": "content_block_stop", "index": index}), done
    end: Json = {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
    }
    if usage:
        end["usage"] = {k: v for k, v in usage.items() if k not in ("cache_creation", "service_tier")}
    yield event(end), plan.output
    yield event({"type": "message_stop"}), plan.output


def _deltas(block: Json, plan: Plan) -> Iterable[tuple[Json, int]]:
    if block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}, plan.reasoning
        yield {"type": "signature_delta", "signature": block["signature"]}, plan.reasoning
        return
    for text, done in plan.parts():
        if block["type"] == "text":
            yield {"type": "text_delta", "text": text}, done
        else:
            yield {"type": "input_json_delta", "partial_json": text}, done


def _content(call: Call, plan: Plan) -> list[Json]:
    blocks: list[Json] = []
    if plan.reasoning:
        thoughts = " ".join(["hm"] * plan.reasoning)
        blocks.append({"type": "thinking", "thinking": thoughts, "signature": "c2lnbmVk"})
    if plan.tool:
        block = {"type": "tool_use", "id": call.store.new_id("toolu"), "name": plan.tool}
        blocks.append({**block, "input": plan.document})
    elif plan.pieces:
        blocks.append({"type": "text", "text": plan.text, "citations": None})
    return blocks


def _usage(plan: Plan, beside: Mapping[str, int]) -> Json:
    bill = plan.bill
    counts: Json = {
        # Here, and only here, the prompt is what no cache had a part in.
        "input_tokens": bill.input_tokens - bill.cache_read - bill.cache_write,
        "cache_creation_input_tokens": bill.cache_write,
        "cache_read_input_tokens": bill.cache_read,
        "output_tokens": bill.output_tokens,
    }
    usage: Json = {
        **counts,
        "cache_creation": {"ephemeral_5m_input_tokens": bill.cache_write, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    }
    if plan.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": plan.reasoning}
    spent = [
        {
            **_BESIDE[name],
            "input_tokens": tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": tokens // 10,
        }
        for name, tokens in beside.items()
    ]
    if spent:
        usage["iterations"] = [*spent, {"type": "message", **counts}]
    return usage


def _tool(call: Call) -> tuple[str, Any] | None:
    tools = {tool["name"]: tool for tool in call.body.get("tools") or () if "input_schema" in tool}
    name = chosen_tool(call.body, list(tools))
    return None if name is None else (name, tools[name]["input_schema"])


def _schema(call: Call) -> Any:
    form = (call.body.get("output_config") or {}).get("format") or call.body.get("output_format") or {}
    return form.get("schema")


def _count_tokens(call: Call) -> Reply:
    call.need("model", "messages")
    return call.json({"input_tokens": call.marks.number("input", count_prompt(call.body))})


def _model(name: str) -> Json:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
    }


def _models(call: Call) -> Reply:
    if not call.is_anthropic:
        from ._openai import models

        return models(call)
    name = call.path.partition("/v1/models")[2].strip("/")
    if name:
        if name not in _MODELS:
            raise ProviderError(404, f"model: {name}")
        return call.json(_model(name))
    listed = [_model(known) for known in _MODELS]
    return call.json(
        {"data": listed, "has_more": False, "first_id": _MODELS[0], "last_id": _MODELS[-1]}, Bill()
    )


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", r"/v1/messages", _messages),
    ("POST", r"/v1/messages/count_tokens", _count_tokens),
    ("GET", r"/v1/models(/[^/]+)?", _models),
)
