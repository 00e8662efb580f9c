"""OpenAI's Responses: created, streamed, in the background, retrieved, cancelled, compacted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ._prompt import chosen_tool, count_prompt
from ._respond import Bill, Call, Frame, Handler, Json, Plan, ProviderError, Reply, Stored, event, now

__all__ = ["ROUTES"]


def _create(call: Call) -> Reply:
    body = call.body
    call.need("model", "input")
    history = call.store.history(body.get("previous_response_id"))
    plan = call.plan(body.get("max_output_tokens"), tool=_tool(call), schema=_schema(call), history=history)
    response = _response(call, plan)
    drawn = call.marks.number("drawn", 0)
    if drawn:
        beside = Bill(drawn, drawn // 10)
        response["tool_usage"] = {"image_gen": _usage(beside, 0), "web_search": {"num_requests": 0}}
        plan = replace(plan, bill=plan.bill.plus(beside))
    kept = Stored(response, lambda: _frames(response, plan), plan.bill, call.model)
    if body.get("store") is not False:
        with call.store.lock:
            call.store.responses[response["id"]] = kept
    if call.stream:
        broken = {
            "type": "error",
            "code": "server_error",
            "message": "The server had an error.",
            "param": None,
            "sequence_number": call.marks.number("error_event", 0),
        }
        return call.sse(kept.frames(), plan.bill, error=event(broken))
    if body.get("background"):
        kept.polls, kept.due = max(1, call.marks.number("polls", 2)), True
        return call.json(_unfinished(response, "queued"))
    return call.json(response, plan.bill)


def _response(call: Call, plan: Plan) -> Json:
    body = call.body
    failed = "failed" in call.marks
    status = "failed" if failed else "incomplete" if plan.cut_short else "completed"
    return {
        "id": call.store.new_id("resp"),
        "object": "response",
        "created_at": now(),
        "status": status,
        "background": bool(body.get("background")),
        "error": {"code": "server_error", "message": "The prompt asked for a failure."} if failed else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": call.model,
        "output": _output(call, plan),
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation") or "disabled",
        "usage": None if "nousage" in call.marks else _usage(plan.bill, plan.reasoning),
    }


def _output(call: Call, plan: Plan) -> list[Json]:
    items: list[Json] = []
    if plan.reasoning:
        items.append({"type": "reasoning", "id": call.store.new_id("rs"), "summary": []})
    status = "incomplete" if plan.cut_short else "completed"
    if plan.tool:
        items.append(
            {
                "type": "function_call",
                "id": call.store.new_id("fc"),
                "call_id": call.store.new_id("call"),
                "name": plan.tool,
                "arguments": plan.text,
                "status": status,
            }
        )
    elif plan.pieces:
        part = {"type": "output_text", "text": plan.text, "annotations": [], "logprobs": []}
        items.append(
            {
                "type": "message",
                "id": call.store.new_id("msg"),
                "role": "assistant",
                "status": status,
                "content": [part],
            }
        )
    return items


def _unfinished(response: Json, status: str) -> Json:
    return {
        **response,
        "status": status,
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
    }


def _frames(response: Json, plan: Plan) -> Iterable[Frame]:
    for number, (payload, done) in enumerate(_events(response, plan)):
        yield event({**payload, "sequence_number": number}), done


def _events(response: Json, plan: Plan) -> Iterable[tuple[Json, int]]:
    started = _unfinished(response, "in_progress")
    done = 0
    yield {"type": "response.created", "response": started}, done
    yield {"type": "response.in_progress", "response": started}, done
    for index, item in enumerate(response["output"]):
        place = {"output_index": index}
        inside = {**place, "item_id": item["id"]}
        hollow: Json = dict(item)
        if item["type"] == "function_call":
            hollow.update(arguments="", status="in_progress")
        elif item["type"] == "message":
            hollow.update(content=[], status="in_progress")
        else:
            done = plan.reasoning
        yield {"type": "response.output_item.added", **place, "item": hollow}, done
        if item["type"] == "function_call":
            for text, done in plan.parts():
                yield {"type": "response.function_call_arguments.delta", **inside, "delta": text}, done
            finished = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **inside, **finished}, done
        elif item["type"] == "message":
            part = item["content"][0]
            spot = {**inside, "content_index": 0}
            yield {"type": "response.content_part.added", **spot, "part": {**part, "text": ""}}, done
            for text, done in plan.parts():
                yield {"type": "response.output_text.delta", **spot, "delta": text, "logprobs": []}, done
            yield {"type": "response.output_text.done", **spot, "text": part["text"], "logprobs": []}, done
            yield {"type": "response.content_part.done", **spot, "part": part}, done
        yield {"type": "response.output_item.done", **place, "item": item}, done
    yield {"type": f"response.{response['status']}", "response": response}, plan.bill.output_tokens


def _retrieve(call: Call) -> Reply:
    kept = _kept(call)
    with call.store.lock:
        if call.stream:
            kept.polls = 0
        if kept.polls:
            kept.polls -= 1
        if kept.polls:
            return call.json(_unfinished(kept.payload, "in_progress"))
        bill = kept.bill if kept.due else Bill()
        kept.due = False
    if not call.stream:
        return call.json(kept.payload, bill)
    after = call.query.get("starting_after", "")
    frames = list(kept.frames())[int(after) + 1 if after.isdigit() else 0 :]
    # Generated and billed already, or billed by this very call: a stream that breaks off changes nothing.
    return call.sse([(chunk, bill.output_tokens) for chunk, _ in frames], bill)


def _cancel(call: Call) -> Reply:
    kept = _kept(call)
    if not kept.payload["background"]:
        raise ProviderError(400, "Cannot cancel a synchronous response.")
    with call.store.lock:
        if kept.due:
            kept.payload = _unfinished(kept.payload, "cancelled")
            kept.polls, kept.due = 0, False
    return call.json(kept.payload)


def _kept(call: Call) -> Stored:
    name = call.path.split("/")[3]
    kept = call.store.responses.get(name)
    if kept is None:
        raise ProviderError(404, f"Response with id '{name}' not found.")
    return kept


def _compact(call: Call) -> Reply:
    call.need("model")
    history = call.store.history(call.body.get("previous_response_id"))
    plan = call.plan(history=history)
    item = {"type": "compaction", "id": call.store.new_id("cmp"), "encrypted_content": "b3BhcXVl"}
    reply: Json = {
        "id": call.store.new_id("resp"),
        "object": "response.compaction",
        "created_at": now(),
        "output": [item],
    }
    if "nousage" not in call.marks:
        reply["usage"] = _usage(plan.bill, plan.reasoning)
    return call.json(reply, plan.bill)


def _input_tokens(call: Call) -> Reply:
    history = call.store.history(call.body.get("previous_response_id"))
    tokens = call.marks.number("input", count_prompt(call.body) + history)
    return call.json({"object": "response.input_tokens", "input_tokens": tokens})


def _usage(bill: Bill, reasoning: int) -> Json:
    return {
        "input_tokens": bill.input_tokens,
        "input_tokens_details": {"cached_tokens": bill.cache_read, "cache_write_tokens": bill.cache_write},
        "output_tokens": bill.output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": bill.input_tokens + bill.output_tokens,
    }


def _tool(call: Call) -> tuple[str, Any] | None:
    tools = {tool["name"]: tool for tool in call.body.get("tools") or () if tool.get("type") == "function"}
    name = chosen_tool(call.body, list(tools))
    return None if name is None else (name, tools[name].get("parameters") or {"type": "object"})


def _schema(call: Call) -> Any:
    form = (call.body.get("text") or {}).get("format") or {}
    return {"type": "object"} if form.get("type") == "json_object" else form.get("schema")


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", r"/v1/responses", _create),
    ("POST", r"/v1/responses/compact", _compact),
    ("POST", r"/v1/responses/input_tokens", _input_tokens),
    ("GET", r"/v1/responses/[^/]+", _retrieve),
    ("POST", r"/v1/responses/[^/]+/cancel", _cancel),
)
