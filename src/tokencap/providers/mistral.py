"""Mistral: rows, dialects and usage. Its chat is OpenAI's but for where the usage of a stream comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..usage import TokenUsage
from .dialect import Dialect, Endpoint, NotSeen, Tally, count_of, fields_of, get
from .openai import ChatDialect, ChatTally, EmbeddingsDialect, MediaDialect, ResponsesDialect

__all__ = ["ENDPOINTS", "FREE", "MANAGED", "NOT_SEEN"]


class MistralChatTally(ChatTally):
    """Usage of a chat: in the reply, or in the chunk that ends a stream, always."""

    def event(self, payload: Any) -> bool:
        super().event(payload)
        choices = fields_of(payload).get("choices") or ()
        ended = any(get(choice, "finish_reason") is not None for choice in choices)
        self.done = self.done or (ended and fields_of(payload).get("usage") is not None)
        return False


class MistralChatDialect(ChatDialect):
    """`/v1/chat/completions` and whatever has its shape."""

    tally = MistralChatTally
    cap_fields = ("max_tokens",)
    not_prompt = frozenset(
        {
            "model",
            "stream",
            "metadata",
            "max_tokens",
            "n",
            "random_seed",
            "prompt_cache_key",
            "service_tier",
            "agent_id",
        }
    )

    def cap_output(self, body: Mapping[str, Any], cap: int) -> dict[str, Any]:
        return {"max_tokens": cap}

    def ask_usage(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {}


class AgentDialect(MistralChatDialect):
    """`/v1/agents/completions`, whose model and instructions are kept at the provider."""

    def takes_model(self, body: Mapping[str, Any]) -> bool:
        return False

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        return "the instructions of a stored agent"


class ConversationTally(Tally):
    """Usage of a turn, in which tools that ran at the provider report what they added to the prompt."""

    def reply(self, payload: Any) -> None:
        self.reply_id = get(payload, "conversation_id")
        super().reply(payload)

    def event(self, payload: Any) -> bool:
        kind = get(payload, "type")
        if kind == "conversation.response.started":
            self.reply_id = get(payload, "conversation_id")
        elif kind == "conversation.response.done":
            self.usage, self.characters = self.usage_of(get(payload, "usage")), 0
            self.done = True
        else:
            for name in ("content", "arguments"):
                text = get(payload, name)
                text = text if isinstance(text, str) else get(text, "text")
                self.characters += len(text) if isinstance(text, str) else 0
        return False

    def usage_of(self, usage: Any) -> TokenUsage | None:
        found = super().usage_of(usage)
        tools = count_of(usage, "connector_tokens")
        if found is None or not tools:
            return found
        total = max(
            found.total, count_of(usage, "prompt_tokens") + tools + count_of(usage, "completion_tokens")
        )
        made = count_of(usage, "completion_tokens")
        return TokenUsage(total - made, made)


class ConversationDialect(Dialect):
    """`/v1/conversations`: turns whose history is kept at the provider."""

    tally = ConversationTally
    history_fields = ("conversation",)
    cap_fields = ("max_tokens",)
    not_prompt = frozenset(
        {
            "model",
            "stream",
            "store",
            "metadata",
            "name",
            "description",
            "agent_id",
            "agent_version",
            "handoff_execution",
            "completion_args",
            "conversation",
            "from_entry_id",
        }
    )

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        arguments = body.get("completion_args")
        return super().output_cap(arguments) if isinstance(arguments, Mapping) else None

    def cap_output(self, body: Mapping[str, Any], cap: int) -> dict[str, Any]:
        return {"completion_args": {**(body.get("completion_args") or {}), "max_tokens": cap}}

    def takes_model(self, body: Mapping[str, Any]) -> bool:
        return bool(body.get("model"))

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        tools = body.get("tools")
        for tool in tools if isinstance(tools, (list, tuple)) else ():
            if get(tool, "type") != "function":
                return f"the hosted tool {get(tool, 'type')!r}"
        return "the instructions of a stored agent" if body.get("agent_id") else None


_CHAT = MistralChatDialect()
_CONVERSATION = ConversationDialect()
_MEDIA = MediaDialect()

ENDPOINTS = (
    Endpoint("/chat/completions", _CHAT),
    Endpoint("/fim/completions", _CHAT),
    Endpoint("/agents/completions", AgentDialect()),
    Endpoint("/conversations", _CONVERSATION),
    Endpoint("/conversations/{conversation}", _CONVERSATION),
    Endpoint("/conversations/{conversation}/restart", _CONVERSATION),
    Endpoint("/responses", ResponsesDialect()),
    Endpoint("/embeddings", EmbeddingsDialect(), generates=False),
    Endpoint("/audio/transcriptions", _MEDIA, generates=False),
    Endpoint("/audio/speech", _MEDIA, generates=False),
    # On Google Cloud, where the hook of the SDK puts the model into the path later.
    Endpoint("/rawPredict", _CHAT),
    Endpoint("/streamRawPredict", _CHAT),
)

FREE = (
    "/responses/input_tokens",
    "/moderations",
    "/chat/moderations",
    "/classifications",
    "/chat/classifications",
    "/ocr",
    "/batch/jobs",
    "/batch/jobs/{}/cancel",
)
"""POST paths that report no tokens: priced by the page or by the request, or done later."""

MANAGED = (
    "/agents",
    "/audio/agents",
    "/audio/voices",
    "/client/sessions",
    "/connectors",
    "/context/search-indexes",
    "/files",
    "/fine_tuning/models",
    "/libraries",
    "/observability",
    "/rag",
    "/service-accounts",
    "/triggers",
    "/v2/prompts",
    "/v2/skills",
    "/webhooks",
    "/workflows",
)
"""What is stored, configured and searched: a POST to one of these, or below it, reports no tokens."""

_SOCKET = "a websocket; its last event holds the usage"
_WORKFLOW = "runs at the provider, and may ask models there"
_EMBEDDED = "embedded at the provider, which reports nothing"
_JUDGE = "a judge answers at the provider, which reports nothing"

NOT_SEEN = (
    NotSeen("audio.realtime.connect", _SOCKET),
    NotSeen("audio.realtime_speech.connect", _SOCKET),
    NotSeen("/audio/sessions", "the session goes on at the provider"),
    NotSeen("/batch/jobs", "spent when the batch runs; each line of its output has its usage"),
    NotSeen("/observability/judges/{}/live-judging", _JUDGE),
    NotSeen("/observability/dataset-records/{}/live-judging", _JUDGE),
    NotSeen("/context/search-indexes/{}/documents", _EMBEDDED),
    NotSeen("/rag/managed_indexes/{}/documents", _EMBEDDED),
    NotSeen("/context/search-indexes/{}/summary_field/{}", "written at the provider, which reports nothing"),
    NotSeen("/workflows/{}/execute", _WORKFLOW),
    NotSeen("/workflows/registrations/{}/execute", _WORKFLOW),
    NotSeen("/workflows/schedules", _WORKFLOW),
    NotSeen("/workflows/schedules/{}/trigger", _WORKFLOW),
)
"""What spends where nobody here looks on. By-hand calls (`Guard.call`) can book it."""
