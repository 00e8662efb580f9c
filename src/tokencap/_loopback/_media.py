"""OpenAI's embeddings, images, audio and moderations: what is billed by other rules than words."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterable
from typing import Any

from ._respond import REPLY_TOKENS, Bill, Call, Frame, Handler, Json, Reply, event, now, stream_error

__all__ = ["ROUTES"]

_IMAGE_TOKENS = 272
_DIMENSIONS = 8
# The smallest PNG there is: one transparent pixel.
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
_HARMS = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent"),
    *("sexual", "sexual/minors", "violence", "violence/graphic"),
)


def _embeddings(call: Call) -> Reply:
    call.need("model", "input")
    asked = call.body["input"]
    count = len(asked) if isinstance(asked, list) and asked and not isinstance(asked[0], int) else 1
    width = call.body.get("dimensions") or _DIMENSIONS
    vector: Any = [((i % 7) - 3) / 8 for i in range(width)]
    if call.body.get("encoding_format") == "base64":
        vector = base64.b64encode(array("f", vector).tobytes()).decode()
    bill = call.bill(0)
    reply: Json = {
        "object": "list",
        "model": call.model,
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)],
    }
    if "nousage" not in call.marks:
        reply["usage"] = {"prompt_tokens": bill.input_tokens, "total_tokens": bill.input_tokens}
    return call.json(reply, bill)


def _images(call: Call) -> Reply:
    call.need("prompt")
    edit = call.path.endswith("/edits")
    count = int(call.body.get("n") or 1)
    if call.model.startswith("dall-e"):
        return call.json({"created": now(), "data": [{"b64_json": _PIXEL}] * count})
    pictures = _IMAGE_TOKENS * len(call.files.get("image", ()))
    bill = call.bill(call.marks.number("output", _IMAGE_TOKENS * count), extra=pictures)
    usage: Json = {
        "input_tokens": bill.input_tokens,
        "input_tokens_details": {"image_tokens": pictures, "text_tokens": bill.input_tokens - pictures},
        "output_tokens": bill.output_tokens,
        "total_tokens": bill.input_tokens + bill.output_tokens,
    }
    reported = {} if "nousage" in call.marks else {"usage": usage}
    look = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}
    if not call.stream:
        data = [{"b64_json": _PIXEL}] * count
        return call.json({"created": now(), **look, "data": data, **reported}, bill)

    def frames() -> Iterable[Frame]:
        head: Json = {"b64_json": _PIXEL, "created_at": now(), **look}
        kind = "image_edit" if edit else "image_generation"
        wanted = int(call.body.get("partial_images") or 0)
        for index in range(wanted):
            yield event({"type": f"{kind}.partial_image", **head, "partial_image_index": index}), 0
        yield event({"type": f"{kind}.completed", **head, **reported}), bill.output_tokens

    return call.sse(frames(), bill, error=stream_error(named=True))


def _transcriptions(call: Call) -> Reply:
    sound = sum(len(content) for content in call.files.get("file", ()))
    form = call.body.get("response_format", "json")
    plan = call.plan()
    if call.model.startswith("whisper"):
        seconds = sound / 32_000
        if form in ("text", "srt", "vtt"):
            return call.data(plan.text.encode() + b"\n", "text/plain; charset=utf-8")
        reply: Json = {"text": plan.text}
        if form == "verbose_json":
            reply.update(language="english", duration=seconds, segments=[])
        if "nousage" not in call.marks:
            reply["usage"] = {"type": "duration", "seconds": seconds}
        return call.json(reply)
    heard = -(-sound // 100)
    bill = call.bill(plan.output, extra=heard)
    usage: Json = {
        "type": "tokens",
        "input_tokens": bill.input_tokens,
        "input_token_details": {"audio_tokens": heard, "text_tokens": bill.input_tokens - heard},
        "output_tokens": bill.output_tokens,
        "total_tokens": bill.input_tokens + bill.output_tokens,
    }
    reported = {} if "nousage" in call.marks else {"usage": usage}
    if not call.stream:
        if form == "text":
            return call.data(plan.text.encode() + b"\n", "text/plain; charset=utf-8", bill)
        return call.json({"text": plan.text, **reported}, bill)

    def frames() -> Iterable[Frame]:
        for text, done in plan.parts():
            yield event({"type": "transcript.text.delta", "delta": text}), done
        yield event({"type": "transcript.text.done", "text": plan.text, **reported}), bill.output_tokens

    return call.sse(frames(), bill, error=stream_error(named=True))


def _translations(call: Call) -> Reply:
    return call.json({"text": call.plan().text}, call.bill(REPLY_TOKENS))


def _speech(call: Call) -> Reply:
    call.need("model", "input", "voice")
    return call.data(b"ID3" + bytes(1021), "audio/mpeg", call.bill(call.marks.number("output", REPLY_TOKENS)))


def _moderations(call: Call) -> Reply:
    call.need("input")
    asked = call.body["input"]
    # A list of parts is one text with pictures; a list of strings is many texts.
    count = len(asked) if isinstance(asked, list) and asked and isinstance(asked[0], str) else 1
    result: Json = {
        "flagged": False,
        "categories": dict.fromkeys(_HARMS, False),
        "category_scores": dict.fromkeys(_HARMS, 0.0),
        "category_applied_input_types": {harm: ["text"] for harm in _HARMS},
    }
    model = call.model or "omni-moderation-latest"
    return call.json({"id": call.store.new_id("modr"), "model": model, "results": [result] * count}, Bill())


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", r"/v1/embeddings", _embeddings),
    ("POST", r"/v1/images/(generations|edits)", _images),
    ("POST", r"/v1/audio/transcriptions", _transcriptions),
    ("POST", r"/v1/audio/translations", _translations),
    ("POST", r"/v1/audio/speech", _speech),
    ("POST", r"/v1/moderations", _moderations),
)
