"""Gemini, of Google AI and of Vertex: rows, dialects and usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ..usage import TokenUsage
from .dialect import Dialect, Endpoint, NotSeen, Tally, count_of, get, stated
from .measure import Size, text_size

__all__ = ["ENDPOINTS", "FREE", "MANAGED", "NOT_SEEN"]


class ContentTally(Tally):
    """Usage of generated content. In a stream it is cumulative, in every event that has it."""

    def __init__(self) -> None:
        super().__init__()
        self._going: set[Any] = set()

    def reply(self, payload: Any) -> None:
        self._note(payload)
        if self.usage is None:
            self.characters = text_size(payload)
        self.done = True

    def event(self, payload: Any) -> bool:
        candidates = get(payload, "candidates") or ()
        if not self._note(payload):
            self.characters += sum(text_size(get(one, "content")) for one in candidates)
        for one in candidates:
            index = get(one, "index") or 0
            self._going.add(index)
            if get(one, "finishReason"):
                self._going.discard(index)
        self.done = bool(candidates) and not self._going and self.usage is not None
        return False

    def _note(self, payload: Any) -> bool:
        usage = self.usage_of(get(payload, "usageMetadata"))
        if usage is not None:
            self.usage, self.characters = usage, 0
        return usage is not None

    def usage_of(self, usage: Any) -> TokenUsage | None:
        if usage is None:
            return None
        given = count_of(usage, "promptTokenCount") + count_of(usage, "toolUsePromptTokenCount")
        thought = count_of(usage, "thoughtsTokenCount")
        # Thoughts are reported beside what is shown.
        made = count_of(usage, "candidatesTokenCount") + thought
        made = max(made, count_of(usage, "totalTokenCount") - given)
        if not (given or made):
            return None
        return TokenUsage(given, made, count_of(usage, "cachedContentTokenCount"), 0, thought)


class CacheTally(ContentTally):
    """Usage of a cache: what was put into it, all of it prompt."""

    def reply(self, payload: Any) -> None:
        self.reply_id = get(payload, "name")
        super().reply(payload)

    def usage_of(self, usage: Any) -> TokenUsage | None:
        found = super().usage_of(usage)
        return None if found is None else TokenUsage(found.total, 0, 0, found.total)


class PredictionTally(ContentTally):
    """Usage of embeddings on Vertex: told for each of them."""

    def _note(self, payload: Any) -> bool:
        predictions = get(payload, "predictions")
        listed = predictions if isinstance(predictions, (list, tuple)) else ()
        statistics = [get(get(one, "embeddings"), "statistics") for one in listed]
        total = sum(count_of(one, "token_count") for one in statistics if one is not None)
        if total:
            self.usage = TokenUsage(total, 0)
        return bool(total)


class ContentDialect(Dialect):
    """`:generateContent` and its stream."""

    tally: type[Tally] = ContentTally
    history_fields = ("cachedContent",)
    cap_fields: tuple[str, ...] = ("maxOutputTokens",)
    not_prompt: frozenset[str] = frozenset(
        {"model", "safetySettings", "labels", "generationConfig", "cachedContent"}
    )

    def size(self, body: Mapping[str, Any], count: Callable[[str], int] | None = None) -> Size:
        asked = _config(body)
        schemas = [asked[name] for name in ("responseSchema", "responseJsonSchema") if asked.get(name)]
        prompt = {name: _typed(value) for name, value in body.items() if name not in self.not_prompt}
        return super().size({**prompt, "schemas": schemas} if schemas else prompt, count)

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        return stated(_config(body), *self.cap_fields)

    def choices(self, body: Mapping[str, Any]) -> int:
        return stated(_config(body), "candidateCount") or 1

    def least_output(self, body: Mapping[str, Any]) -> int:
        budget = get(_config(body).get("thinkingConfig"), "thinkingBudget")
        return budget + 1 if isinstance(budget, int) and budget > 0 else 1

    def cap_output(self, body: Mapping[str, Any], cap: int) -> dict[str, Any]:
        return {"generationConfig": {**_config(body), "maxOutputTokens": cap}}

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        tools = body.get("tools")
        for tool in tools if isinstance(tools, (list, tuple)) else ():
            named = tool if isinstance(tool, Mapping) else ()
            hosted = [name for name in named if name != "functionDeclarations"]
            if hosted:
                return f"the hosted tool {hosted[0]!r}"
        return None


def _config(body: Mapping[str, Any]) -> Mapping[str, Any]:
    found = body.get("generationConfig")
    return found if isinstance(found, Mapping) else {}


_FILES = {"inlineData": "data", "fileData": "fileUri"}


def _typed(value: Any) -> Any:
    """Return contents in which media name their kind in a field `type`, as the other formats have it."""
    if isinstance(value, (list, tuple)):
        return [_typed(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    for name, field in _FILES.items():
        media = value.get(name)
        if isinstance(media, Mapping):
            family = str(media.get("mimeType")).split("/", 1)[0]
            kind = family if family in ("image", "audio") else "file"
            return {"type": kind, "data": media.get(field)}
    return {name: _typed(item) if name in _NESTED else item for name, item in value.items()}


_NESTED = frozenset({"parts", "contents", "content", "requests", "instances"})


class CacheDialect(ContentDialect):
    """`cachedContents`: input only."""

    tally = CacheTally
    cap_fields = ()

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        return 0


class EmbedDialect(ContentDialect):
    """`:embedContent` and its batch."""

    cap_fields = ()

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        return 0


class PredictDialect(EmbedDialect):
    """`:predict` of Vertex: embeddings by another name, and pictures, which report nothing."""

    tally = PredictionTally
    not_prompt = frozenset({"model", "parameters"})


_CONTENT = ContentDialect()
_EMBED = EmbedDialect()

ENDPOINTS = (
    Endpoint("/{model}:generateContent", _CONTENT, counted_by=":countTokens"),
    Endpoint("/{model}:streamGenerateContent", _CONTENT, counted_by=":countTokens"),
    Endpoint("/{model}:embedContent", _EMBED, generates=False),
    Endpoint("/{model}:batchEmbedContents", _EMBED, generates=False),
    Endpoint("/{model}:predict", PredictDialect(), generates=False),
    Endpoint("/cachedContents", CacheDialect(), generates=False),
)

FREE = (
    "/{}:countTokens",
    "/{}:computeTokens",
    "/{}:predictLongRunning",
    "/{}:batchGenerateContent",
    "/{}:asyncBatchEmbedContent",
    "/{}:cancel",
    "/{}:fetchPredictOperation",
    "/batchPredictionJobs",
)
"""POST paths that report no tokens: counting, what is priced by the second, done later or asked after."""

MANAGED = (
    "/agents",
    "/auth_tokens",
    "/credentials",
    "/environments",
    "/fileSearchStores",
    "/files:register",
    "/interactions/{}/auth_tokens",
    "/interactions/{}/cancel",
    "/upload/files",
    "/webhooks",
    "/{}/tuningJobs:validateReinforcementTuningReward",
)
"""What is stored, configured and asked after: a POST to one of these, or below it, asks no model anything."""

_SOCKET = "a websocket; its messages hold the usage"
_ELSEWHERE = "sent by a part of the SDK with a client of its own; the reply has the usage"

NOT_SEEN = (
    NotSeen("live.connect", _SOCKET),
    NotSeen("live.music.connect", "a websocket; music is priced by the second"),
    NotSeen("interactions.connect", _SOCKET),
    NotSeen("/interactions", _ELSEWHERE),
    NotSeen("/decisions", _ELSEWHERE),
    NotSeen("/voices", _ELSEWHERE),
    NotSeen("/triggers", "runs an agent at the provider on a schedule; its interactions have the usage"),
    NotSeen("/triggers/{}/executions", "runs an agent at the provider; its interactions have the usage"),
    NotSeen("/{}:batchGenerateContent", "spent when the batch runs; each of its responses has its usage"),
    NotSeen("/{}:asyncBatchEmbedContent", "spent when the batch runs"),
    NotSeen("/batchPredictionJobs", "spent when the batch runs; each of its responses has its usage"),
    NotSeen("/tuningJobs", "trains at the provider; tunings.get(name=...).tuning_data_stats has the sum"),
    NotSeen("/tunedModels", "trains at the provider"),
    NotSeen("/{}:importFile", "the file is embedded at the provider, which reports nothing"),
    NotSeen("/{}:uploadToFileSearchStore", "the file is embedded at the provider, which reports nothing"),
)
"""What spends where nobody here looks on. By-hand calls (`Guard.call`) can book it."""
