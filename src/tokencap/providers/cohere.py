"""Cohere, both versions of its API: rows, dialects and usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..usage import TokenUsage
from .dialect import Dialect, Endpoint, NotSeen, Tally, count_of, get, stated
from .measure import text_size

__all__ = ["ENDPOINTS", "FREE", "MANAGED", "NOT_SEEN"]


class CohereTally(Tally):
    """Usage of a reply, or of the event that ends a stream: `usage` in v2, `meta` in v1."""

    def reply(self, payload: Any) -> None:
        usage = self.usage_of(get(payload, "usage") or get(payload, "meta"))
        if usage is not None:
            self.usage, self.characters = usage, 0
        else:
            self.characters = self.generated(payload)
        self.done = True

    def event(self, payload: Any) -> bool:
        kind = get(payload, "type") or get(payload, "event_type")
        if kind in ("message-end", "stream-end"):
            last = get(payload, "delta") or get(payload, "response")
            usage = self.usage_of(get(last, "usage") or get(last, "meta"))
            if usage is not None:
                self.usage, self.characters = usage, 0
            self.done = True
        else:
            self.characters += self.generated(payload)
        return False

    def generated(self, payload: Any) -> int:
        """Return the characters of what was generated."""
        return text_size(payload)

    def usage_of(self, usage: Any) -> TokenUsage | None:
        if usage is None:
            return None
        # What the model read and wrote; what is billed can be a part of it, and is all that embeddings tell.
        tokens, billed = get(usage, "tokens"), get(usage, "billed_units")
        counted = billed if tokens is None else tokens
        if counted is None:
            return None
        given = max(count_of(counted, "input_tokens"), count_of(counted, "text_tokens"))
        given += count_of(counted, "image_tokens")
        made = count_of(counted, "output_tokens")
        return TokenUsage(given, made, count_of(usage, "cached_tokens")) if given or made else None


class InputTally(CohereTally):
    """Usage of what generates nothing: the texts in a reply are the caller's own."""

    def generated(self, payload: Any) -> int:
        return 0


class ChatDialect(Dialect):
    """`/v2/chat`, and the older ways to have a text made."""

    tally: type[Tally] = CohereTally
    cap_fields: tuple[str, ...] = ("max_tokens",)
    history_fields = ("conversation_id",)
    not_prompt = frozenset(
        {
            "model",
            "stream",
            "max_tokens",
            "max_input_tokens",
            "conversation_id",
            "temperature",
            "k",
            "p",
            "seed",
            "stop_sequences",
            "frequency_penalty",
            "presence_penalty",
            "priority",
            "num_generations",
        }
    )

    def choices(self, body: Mapping[str, Any]) -> int:
        return stated(body, "num_generations") or 1

    def least_output(self, body: Mapping[str, Any]) -> int:
        budget = get(body.get("thinking"), "token_budget")
        return budget + 1 if isinstance(budget, int) and budget > 0 else 1

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        return "the results of a connector" if body.get("connectors") else None


class SummaryDialect(ChatDialect):
    """`/v1/summarize`, whose output has no cap."""

    cap_fields = ()


class InputDialect(ChatDialect):
    """Embeddings, rankings and classes: input only."""

    tally = InputTally
    cap_fields = ()
    overhead = 4

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        return 0


_CHAT = ChatDialect()
_INPUT = InputDialect()

ENDPOINTS = (
    Endpoint("/v2/chat", _CHAT),
    Endpoint("/v1/chat", _CHAT),
    Endpoint("/v1/generate", _CHAT),
    Endpoint("/v1/summarize", SummaryDialect()),
    Endpoint("/v2/embed", _INPUT, generates=False),
    Endpoint("/v1/embed", _INPUT, generates=False),
    Endpoint("/v2/rerank", _INPUT, generates=False),
    Endpoint("/v1/rerank", _INPUT, generates=False),
    Endpoint("/v1/classify", _INPUT, generates=False),
)

FREE = (
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/check-api-key",
    "/v1/embed-jobs",
    "/v1/embed-jobs/{}/cancel",
    "/v2/batches",
    "/v2/batches/{}:cancel",
    "/v2/parse",
    "/v2/audio/transcriptions",
)
"""POST paths that report no tokens: counting, what is priced by page or second, what is done later."""

MANAGED = ("/v1/connectors", "/v1/datasets")
"""What is stored and configured: a POST to one of these, or below it, asks no model anything."""

NOT_SEEN = (
    NotSeen("/v2/batches", "spent when the batch runs; batches.retrieve(id) has its input and output tokens"),
    NotSeen("/v1/embed-jobs", "spent when the job runs; embed_jobs.get(id).meta has what is billed"),
    NotSeen("/v1/finetuning/finetuned-models", "trains at the provider"),
    NotSeen("sagemaker_finetuning.chat", "a client of its own, over boto3, with other methods beside it"),
)
"""What spends where nobody here looks on. By-hand calls (`Guard.call`) can book it."""
