"""Anthropic Messages: rows, dialect and usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ..usage import TokenUsage
from .dialect import Dialect, Endpoint, NotSeen, Tally, count_of, get
from .measure import Size

__all__ = ["ENDPOINTS", "FREE", "MANAGED", "NOT_SEEN"]


class MessagesTally(Tally):
    """Usage of a message. In a stream it is cumulative: `message_delta` overwrites what it names."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, int] = {}
        self._iterations: Sequence[Any] = ()
        self._replies: dict[Any, TokenUsage] = {}

    def reply(self, payload: Any) -> None:
        self.reply_id = get(payload, "id")
        self._seen, self._iterations = {}, ()
        super().reply(payload)
        if self.usage is not None:
            # A middleware of the client may send more than one request for a call.
            self._replies[self.reply_id] = self.usage
            self.usage = TokenUsage(*map(sum, zip(*self._replies.values())))

    def event(self, payload: Any) -> bool:
        # A piece of text and nothing else, as most events are.
        try:
            if payload.type == "content_block_delta":
                delta = payload.delta
                if delta.type == "text_delta" and delta.text.__class__ is str:
                    self.characters += len(delta.text)
                    self.awaited = False
                    return False
        except AttributeError:
            pass
        kind = get(payload, "type")
        # Many consumers stop where the reason to stop is told.
        self.awaited = kind == "message_delta"
        if kind == "content_block_delta":
            delta = get(payload, "delta")
            for name in ("text", "thinking", "partial_json", "citation"):
                text = get(delta, name)
                if isinstance(text, str):
                    self.characters += len(text)
        elif kind == "message_start":
            message = get(payload, "message")
            self.reply_id = get(message, "id")
            self.usage = self.usage_of(get(message, "usage"))
        elif kind == "message_delta":
            usage = self.usage_of(get(payload, "usage"))
            if usage is not None:
                self.usage, self.characters = usage, 0
        elif kind == "message_stop":
            self.done = True
        return False

    def usage_of(self, usage: Any) -> TokenUsage | None:
        if usage is None:
            return None
        seen = self._seen
        for name in (
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        ):
            if get(usage, name) is not None:
                seen[name] = count_of(usage, name)
        details = get(usage, "output_tokens_details")
        if details is not None:
            seen["thinking_tokens"] = count_of(details, "thinking_tokens")
        iterations = get(usage, "iterations")
        if isinstance(iterations, list):
            self._iterations = iterations
        given, made, read, written = _counts(seen)
        if self._iterations:
            # What is billed is the sum of all. The counts above them leave some out: compaction always.
            beside = _sums([item for item in self._iterations if get(item, "type") == "compaction"])
            whole = _sums(self._iterations)
            given, made = max(given + beside[0], whole[0]), max(made + beside[1], whole[1])
            read, written = max(read, whole[2]), max(written, whole[3])
        found = TokenUsage(given, made, read, written, seen.get("thinking_tokens", 0))
        return found if found.total else None


def _counts(usage: Any) -> tuple[int, int, int, int]:
    """Return prompt, output, cache reads and writes: Anthropic reports what a cache had a part in apart."""
    read, written = count_of(usage, "cache_read_input_tokens"), count_of(usage, "cache_creation_input_tokens")
    return count_of(usage, "input_tokens") + read + written, count_of(usage, "output_tokens"), read, written


def _sums(iterations: Sequence[Any]) -> list[int]:
    return [sum(counts) for counts in zip((0, 0, 0, 0), *map(_counts, iterations))]


class MessagesDialect(Dialect):
    """`/v1/messages`, on every platform that serves it."""

    tally = MessagesTally
    not_prompt = frozenset(
        {"model", "stream", "metadata", "max_tokens", "stop_sequences", "service_tier", "anthropic_version"}
    )
    cap_fields = ("max_tokens",)
    # Current Claude models make a token of about 2.9 letters of English or code, not of four.
    stretch = 1.4

    def size(self, body: Mapping[str, Any], count: Callable[[str], int] | None = None) -> Size:
        found = super().size(body, count)
        # The hidden system prompt that explains tools: 159 to 530 tokens in the published table.
        return Size(found.bound + 600, found.guess + 340) if body.get("tools") else found

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        # Models that may be asked one after the other, each with an output cap of its own; a prompt of the
        # provider's for the summary.
        named = [name for name in ("fallbacks", "compaction") if body.get(name)]
        return repr(named[0]) if named else super().unbounded(body)

    def least_output(self, body: Mapping[str, Any]) -> int:
        budget = get(body.get("thinking"), "budget_tokens")
        return budget + 1 if isinstance(budget, int) else 1


class TextCompletionDialect(Dialect):
    """The old `/v1/complete`, whose replies report no usage."""

    not_prompt = frozenset({"model", "stream", "metadata", "max_tokens_to_sample", "stop_sequences"})
    cap_fields = ("max_tokens_to_sample",)


ENDPOINTS = (
    Endpoint("/v1/messages", MessagesDialect(), counted_by="/v1/messages/count_tokens"),
    Endpoint("/v1/complete", TextCompletionDialect()),
)

FREE = (
    "/v1/messages/count_tokens",
    "/v1/messages/batches",
    "/v1/messages/batches/{}/cancel",
    "/v1/sessions",
    "/v1/sessions/{}",
    "/v1/sessions/{}/archive",
    "/v1/sessions/{}/threads/{}/archive",
    "/v1/dreams",
    "/v1/dreams/{}/cancel",
    "/v1/dreams/{}/archive",
)
"""POST paths that cost nothing by themselves, though their replies may hold counts of other calls."""

MANAGED = (
    "/v1/agents",
    "/v1/compliance",
    "/v1/deployments",
    "/v1/environments",
    "/v1/files",
    "/v1/memory_stores",
    "/v1/organizations",
    "/v1/sessions",
    "/v1/skills",
    "/v1/tunnels",
    "/v1/user_profiles",
    "/v1/vaults",
)
"""What is stored and configured: a POST to one of these, or below it, asks no model anything."""

NOT_SEEN = (
    NotSeen(
        "/v1/messages/batches", "spent when the batch runs; each line of batches.results() has its usage"
    ),
    NotSeen("/v1/sessions", "the agent runs at the provider; sessions.retrieve(id).usage has the sum"),
    NotSeen(
        "/v1/sessions/{}/events", "the agent goes on at the provider; sessions.retrieve(id).usage has the sum"
    ),
    NotSeen(
        "/v1/deployments/{}/run", "starts a session at the provider; sessions.retrieve(id).usage has the sum"
    ),
    NotSeen("/v1/dreams", "runs at the provider; dreams.retrieve(id).usage has the sum"),
)
"""What spends where nobody here looks on. By-hand calls (`Guard.call`) can book it."""
