"""OpenAI and everything that speaks its formats: rows, dialects and usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ..policy import Provider
from ..usage import TokenUsage
from .dialect import Dialect, Endpoint, NotSeen, Tally, fields_of, get, stated
from .measure import Size
from .models import home_of

__all__ = ["ENDPOINTS", "FREE", "MANAGED", "NOT_SEEN"]


class ChatTally(Tally):
    """Usage of a chat or legacy completion: in the reply, or in one late chunk of a stream if asked for."""

    def event(self, payload: Any) -> bool:
        # A piece of text and nothing else, as most chunks are.
        try:
            if payload.usage is None:
                (choice,) = payload.choices
                delta = choice.delta
                text = delta.content
                if text.__class__ is str and text and not (choice.finish_reason or delta.tool_calls):
                    self.characters += len(text)
                    self.awaited = False
                    return False
        except (AttributeError, TypeError, ValueError):
            pass
        fields = fields_of(payload)
        choices = fields.get("choices")
        usage = fields.get("usage")
        found = None if usage is None else self.usage_of(usage)
        if found is not None:
            # Compatible servers repeat cumulative usage; the last one counts.
            self.usage, self.characters = found, 0
        if usage is not None and not choices:
            # Some compatible servers count nothing: a chunk of zeros.
            self.done = found is not None
            return True
        self.awaited = False
        for choice in choices or ():
            if found is None:
                self.characters += _delta_size(choice)
            if fields_of(choice).get("finish_reason") is not None:
                self.awaited = True
        return False


def _delta_size(choice: Any) -> int:
    fields = fields_of(choice)
    delta = fields.get("delta")
    if delta is None:
        text = fields.get("text")
        return len(text) if isinstance(text, str) else 0
    parts = fields_of(delta)
    text = parts.get("content")
    if text and isinstance(text, str) and not parts.get("tool_calls"):
        return len(text)
    size = 0
    for name in ("content", "refusal", "reasoning", "reasoning_content"):
        text = get(delta, name)
        if isinstance(text, str):
            size += len(text)
    for call in get(delta, "tool_calls") or ():
        text = get(get(call, "function"), "arguments")
        if isinstance(text, str):
            size += len(text)
    return size


def _sum(*usages: TokenUsage | None) -> TokenUsage | None:
    """Return several reports as one; None when there is none."""
    told = [usage for usage in usages if usage is not None]
    return TokenUsage(*map(sum, zip(*told))) if told else None


_UNFINISHED = ("queued", "in_progress", "requires_action", "cancelling")


def _typed(payload: Any) -> tuple[Any, Any]:
    """Return an event and its type. SDKs that do not know it yet hand it over inside of another."""
    kind = get(payload, "type")
    if kind is None:
        inner = get(payload, "data")
        if inner is not None:
            return inner, get(inner, "type")
    return payload, kind


class ResponsesTally(Tally):
    """Usage of a response: in the reply, or in the terminal event of a stream."""

    def reply(self, payload: Any) -> None:
        self.reply_id = get(payload, "id")
        if get(payload, "status") in _UNFINISHED:
            self.pending = True
            return
        super().reply(payload)
        self.usage = _sum(self.usage, self._drawing(payload))

    def event(self, payload: Any) -> bool:
        # A piece of text and nothing else, as most events are.
        try:
            if payload.type == "response.output_text.delta" and payload.delta.__class__ is str:
                self.characters += len(payload.delta)
                return False
        except AttributeError:
            pass
        payload, kind = _typed(payload)
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            response = get(payload, "response")
            self.reply_id = get(response, "id") or self.reply_id
            usage = _sum(self.usage_of(get(response, "usage")), self._drawing(response))
            if usage is not None:
                self.usage, self.characters = usage, 0
            self.pending = False
            self.done = True
        elif kind == "response.created" or kind == "response.queued":
            response = get(payload, "response")
            self.reply_id = get(response, "id") or self.reply_id
            self.pending = get(response, "background") is True
        else:
            delta = get(payload, "delta")
            if isinstance(delta, str):
                self.characters += len(delta)
        return False

    def _drawing(self, response: Any) -> TokenUsage | None:
        """Return the usage of the pictures the model had made, which is told beside its own."""
        told = [get(get(response, "tool_usage"), "image_gen")]
        output = get(response, "output")
        told += [get(item, "svg_usage") for item in output] if isinstance(output, list) else []
        return _sum(*map(self.usage_of, told))


class RunTally(ResponsesTally):
    """Usage of an assistants run, reported when it has ended."""

    def event(self, payload: Any) -> bool:
        run = get(payload, "data")
        kind = get(payload, "event")
        if isinstance(kind, str) and kind.startswith("thread.run.") and "step" not in kind:
            self.reply_id = get(run, "id") or self.reply_id
            usage = self.usage_of(get(run, "usage"))
            if usage is not None:
                self.usage, self.characters = usage, 0
            self.pending = get(run, "status") in _UNFINISHED
            self.done = not self.pending
        return False


class MediaTally(Tally):
    """Usage of images and audio: in the reply, or in the last event of a stream."""

    def reply(self, payload: Any) -> None:
        super().reply(payload)
        self.usage = _sum(self.usage, self.usage_of(get(payload, "svg_usage")))

    def event(self, payload: Any) -> bool:
        payload, kind = _typed(payload)
        super().event(payload)
        if isinstance(kind, str) and kind.endswith((".completed", ".done")):
            self.done = True
        return False


class ChatDialect(Dialect):
    """`/chat/completions`."""

    tally = ChatTally
    history_fields = ()
    cap_fields: tuple[str, ...] = ("max_completion_tokens", "max_tokens")
    not_prompt = frozenset(
        {
            "model",
            "stream",
            "stream_options",
            "user",
            "metadata",
            "max_tokens",
            "max_completion_tokens",
            "n",
            "store",
        }
    )

    def cap_output(self, body: Mapping[str, Any], cap: int) -> dict[str, Any]:
        if stated(body, "max_tokens", "max_completion_tokens"):
            return super().cap_output(body, cap)
        # OpenAI's own models take the new name and most compatible servers only the old one.
        ours = home_of(str(body.get("model"))) is Provider.OPENAI
        return {"max_completion_tokens" if ours else "max_tokens": cap}

    def ask_usage(self, body: Mapping[str, Any]) -> dict[str, Any]:
        options = body.get("stream_options")
        if get(options, "include_usage"):
            return {}
        kept = dict(options) if isinstance(options, Mapping) else {}
        return {"stream_options": {**kept, "include_usage": True}}


class CompletionDialect(ChatDialect):
    """The legacy `/completions`, whose prompt may be token ids and may be many prompts."""

    def size(self, body: Mapping[str, Any], count: Callable[[str], int] | None = None) -> Size:
        ids = _token_ids(body.get("prompt"))
        if ids:
            rest = super().size({k: v for k, v in body.items() if k != "prompt"}, count)
            return Size(rest.bound + ids, rest.guess + ids)
        return super().size(body, count)

    cap_fields = ("max_tokens",)

    def cap_output(self, body: Mapping[str, Any], cap: int) -> dict[str, Any]:
        return {"max_tokens": cap}

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        # The documented default of this endpoint alone.
        return stated(body, "max_tokens") or 16

    def choices(self, body: Mapping[str, Any]) -> int:
        prompt = body.get("prompt")
        many = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
        return many * max(stated(body, "n") or 1, stated(body, "best_of") or 1)


class ResponsesDialect(Dialect):
    """`/responses`."""

    cap_fields: tuple[str, ...] = ("max_output_tokens",)

    tally = ResponsesTally
    not_prompt = frozenset(
        {
            "model",
            "stream",
            "user",
            "metadata",
            "max_output_tokens",
            "store",
            "background",
            "include",
            "previous_response_id",
            "conversation",
            "prompt_cache_key",
            "safety_identifier",
        }
    )


class RunDialect(Dialect):
    """Assistants runs, whose history is a thread on the server."""

    tally = RunTally
    cap_fields = ("max_completion_tokens",)

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        return "the history of a thread"


class EmbeddingsDialect(Dialect):
    """`/embeddings`: input only."""

    overhead = 4

    def size(self, body: Mapping[str, Any], count: Callable[[str], int] | None = None) -> Size:
        ids = _token_ids(body.get("input"))
        return Size(ids, ids) if ids else super().size({"input": body.get("input")}, count)

    cap_fields = ()

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        return 0


class MediaDialect(Dialect):
    """Images and audio. What is made is no text; models that count tokens report them."""

    tally = MediaTally
    not_prompt = frozenset({"model", "stream", "user", "size", "quality", "n", "response_format"})
    cap_fields = ()


def _token_ids(value: Any) -> int:
    """Return how many token ids a prompt given as ids, or as lists of ids, holds; 0 for texts."""
    if not isinstance(value, list) or not value:
        return 0
    if isinstance(value[0], int):
        return len(value)
    if isinstance(value[0], list):
        return sum(len(item) for item in value if isinstance(item, list))
    return 0


class CompactDialect(ResponsesDialect):
    """`/responses/compact`, whose output has no cap."""

    cap_fields = ()


_RESPONSES = ResponsesDialect()
_RUN = RunDialect()
_MEDIA = MediaDialect()

ENDPOINTS = (
    Endpoint("/chat/completions", ChatDialect()),
    Endpoint("/completions", CompletionDialect()),
    Endpoint("/responses", _RESPONSES),
    Endpoint("/responses/compact", CompactDialect()),
    Endpoint("/responses/{}", _RESPONSES, method="get", follows=True),
    Endpoint("/responses/{}/cancel", _RESPONSES, follows=True),
    Endpoint("/decisions", _RESPONSES),
    Endpoint("/embeddings", EmbeddingsDialect(), generates=False),
    Endpoint("/images/generations", _MEDIA, generates=False),
    Endpoint("/images/edits", _MEDIA, generates=False),
    Endpoint("/audio/transcriptions", _MEDIA, generates=False),
    Endpoint("/audio/translations", _MEDIA, generates=False),
    Endpoint("/audio/speech", _MEDIA, generates=False),
    Endpoint("/threads/runs", _RUN),
    Endpoint("/threads/{}/runs", _RUN),
    Endpoint("/threads/{}/runs/{}", _RUN, method="get", follows=True),
    Endpoint("/threads/{}/runs/{}/submit_tool_outputs", _RUN, follows=True),
    Endpoint("/threads/{}/runs/{}/cancel", _RUN, follows=True),
)

FREE = (
    "/responses/input_tokens",
    "/moderations",
    "/chat/completions/{}",
    "/threads/{}/runs/{}",
    "/batches",
    "/batches/{}/cancel",
    "/evals/{}/runs",
    "/evals/{}/runs/{}/cancel",
    "/images/variations",
    "/agents/sessions",
    "/agents/sessions/{}",
    "/agents/sessions/{}/events",
)
"""POST paths that cost no tokens by themselves, though their replies may hold counts of other calls."""

MANAGED = (
    "/agents",
    "/assistants",
    "/audio/voice_consents",
    "/audio/voices",
    "/chatkit/sessions",
    "/containers",
    "/content_provenance_checks",
    "/conversations",
    "/evals",
    "/files",
    "/fine_tuning",
    "/live/sessions/{}/accept",
    "/live/sessions/{}/hangup",
    "/live/sessions/{}/refer",
    "/live/sessions/{}/reject",
    "/organization",
    "/projects",
    "/realtime/calls/{}/accept",
    "/realtime/calls/{}/hangup",
    "/realtime/calls/{}/refer",
    "/realtime/calls/{}/reject",
    "/realtime/client_secrets",
    "/realtime/sessions",
    "/realtime/transcription_sessions",
    "/realtime/translations/client_secrets",
    "/skills",
    "/threads",
    "/uploads",
    "/vaults",
    "/vector_stores",
    "/videos",
    "/webhook_endpoints",
)
"""What is stored, configured or made without tokens: a POST to one of these, or below it, takes none."""

_SOCKET = "a websocket; its events hold the usage"

NOT_SEEN = (
    NotSeen("responses.connect", _SOCKET),
    NotSeen("beta.responses.connect", _SOCKET),
    NotSeen("realtime.connect", _SOCKET),
    NotSeen("realtime.translations.connect", _SOCKET),
    NotSeen("beta.realtime.connect", _SOCKET),
    NotSeen("live.connect", _SOCKET),
    NotSeen("live.forks.connect", _SOCKET),
    NotSeen("live.sideband.connect", _SOCKET),
    NotSeen("/realtime/calls", "the call goes on over WebRTC; its events hold the usage"),
    NotSeen("/live/sessions", "the session goes on over WebRTC; its events hold the usage"),
    NotSeen("/live/sessions/{}/fork", "the session goes on over WebRTC; its events hold the usage"),
    NotSeen("/batches", "spent when the batch runs; batches.retrieve(id).usage has the sum"),
    NotSeen("/agents/sessions", "the agent runs at the provider; the usage of its turns is on them"),
    NotSeen(
        "/agents/sessions/{}/events", "the agent goes on at the provider; the usage of its turns is on them"
    ),
    NotSeen("/agents/automations/{}/invocations", "starts an agent at the provider"),
    NotSeen("/evals/{}/runs", "runs at the provider; evals.runs.retrieve() has the usage by model"),
    NotSeen("/fine_tuning/jobs", "trains at the provider; jobs.retrieve(id).trained_tokens has the sum"),
    NotSeen(
        "/fine_tuning/alpha/graders/run", "the reply has the usage of the grading model under another name"
    ),
)
"""What spends where nobody here looks on. By-hand calls (`Guard.call`) can book it."""
