"""How one wire format spells requests, usage and stream events; and the row that names a path.

A `Dialect` reads request bodies; a `Tally`, made anew for each call, reads what comes back:
a whole reply or the events of a stream. Payloads are the SDK's models or plain dicts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Callable, NamedTuple

from ..usage import TokenUsage
from .measure import Size, measure, text_size

__all__ = [
    "Dialect",
    "Endpoint",
    "NotSeen",
    "Tally",
    "count_of",
    "fields_of",
    "get",
    "path_pattern",
    "stated",
]


def get(payload: Any, name: str) -> Any:
    """Return a field of a model or of a dict; None when it has none."""
    if isinstance(payload, dict):
        return payload.get(name)
    try:
        # Straight to the fields: this runs for every chunk, and pydantic is slow to say that one is missing.
        fields = payload.__dict__
        if name in fields:
            return fields[name]
        extra = payload.__pydantic_extra__
    except AttributeError:
        return getattr(payload, name, None)
    return extra.get(name) if extra else None


def fields_of(payload: Any) -> dict[str, Any]:
    """Return the declared fields of a model, or a dict. Quicker than `get`, blind to extra fields."""
    if payload.__class__ is dict:
        found: dict[str, Any] = payload
        return found
    return getattr(payload, "__dict__", None) or {}


def count_of(payload: Any, name: str) -> int:
    """Return a field that counts tokens; 0 for whatever is no count (None, a text, a negative, 2**53)."""
    value = get(payload, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 2**53:
        return 0
    return int(value)


def stated(body: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these request fields that holds a whole number above 0."""
    for name in names:
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


class Tally:
    """What is known so far about the tokens of one call."""

    def __init__(self) -> None:
        self.usage: TokenUsage | None = None
        """What the provider has reported, cumulative."""
        self.characters = 0
        """Length of the text delivered since that report."""
        self.done = False
        """True once nothing more will be reported."""
        self.awaited = False
        """True when the event just seen is the last before the usage: worth looking at the next."""
        self.reply_id: str | None = None
        """The provider's name for the reply, when it keeps it."""
        self.pending = False
        """True when the reply is only a ticket: the work goes on at the provider."""

    def reply(self, payload: Any) -> None:
        """Read a whole reply."""
        usage = self.usage_of(get(payload, "usage"))
        if usage is not None:
            self.usage, self.characters = usage, 0
        else:
            self.characters = text_size(payload)
        self.done = True

    def event(self, payload: Any) -> bool:
        """Read one event of a stream; return True if it carries nothing but usage."""
        usage = self.usage_of(get(payload, "usage"))
        if usage is not None:
            self.usage, self.characters = usage, 0
        else:
            delta = get(payload, "delta")
            if isinstance(delta, str):
                self.characters += len(delta)
        return False

    def usage_of(self, usage: Any) -> TokenUsage | None:
        """Translate a usage object; None when it holds no token counts."""
        if usage is None:
            return None
        given, made = count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens")
        inside, outside = "prompt_tokens_details", "completion_tokens_details"
        if not (given or made):
            given, made = count_of(usage, "input_tokens"), count_of(usage, "output_tokens")
            inside, outside = "input_tokens_details", "output_tokens_details"
        total = count_of(usage, "total_tokens")
        if not (given or made or total):
            return None
        read, reasoned = get(usage, inside), get(usage, outside)
        return TokenUsage(
            given,
            # Some compatible servers leave reasoning out of the output and report it in the total.
            max(made, total - given),
            0 if read is None else count_of(read, "cached_tokens"),
            0 if read is None else count_of(read, "cache_write_tokens"),
            0 if reasoned is None else count_of(reasoned, "reasoning_tokens"),
        )


# Tools that run at the provider, whose results become prompt; the others only ask the caller to act.
_HOSTED_TOOL = re.compile(
    r"web_|code_|file_search|mcp|image_generation|tool_search|advisor|programmatic|shell"
)


class Dialect:
    """A wire format of which only the usage object is known; the base of the real ones."""

    tally: type[Tally] = Tally
    not_prompt: frozenset[str] = frozenset({"model", "stream", "user", "metadata"})
    """Request fields that are not billed as prompt."""
    history_fields: tuple[str, ...] = ("previous_response_id", "conversation", "thread")
    """Request fields that name a history the provider adds to the prompt by itself."""
    overhead = 8
    """Tokens the provider may add to a request around its messages, at most."""
    stretch = 1.0
    """Tokens of this format's models for each four letters of text."""

    def size(self, body: Mapping[str, Any], count: Callable[[str], int] | None = None) -> Size:
        """Return how many tokens the prompt takes: at most, and about (texts by `count`, else by length)."""
        skip = self.not_prompt
        found = measure([item for name, item in body.items() if name not in skip], count)
        stretch = self.stretch if count is None else 1.0
        return Size(found.bound + self.overhead, int(found.guess * stretch) + 3)

    cap_fields: tuple[str, ...] = ("max_output_tokens", "max_completion_tokens", "max_tokens")
    """Request fields that cap the output, the one to write first; none when the format has no cap."""

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        """Return the most output tokens the caller allows for one choice; None if not said."""
        return stated(body, *self.cap_fields)

    def choices(self, body: Mapping[str, Any]) -> int:
        """Return how many outputs the cap is multiplied by."""
        return stated(body, "n") or 1

    def least_output(self, body: Mapping[str, Any]) -> int:
        """Return the cap below which the provider would not take the request."""
        return 1

    def cap_output(self, body: Mapping[str, Any], cap: int) -> dict[str, Any]:
        """Return the request fields that cap the output at `cap` tokens a choice; none if there is no way."""
        stated_in = [name for name in self.cap_fields if stated(body, name)]
        return dict.fromkeys(stated_in or self.cap_fields[:1], cap)

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        """Return what makes the prompt grow at the provider, out of our sight; None if nothing does."""
        tools = body.get("tools")
        for tool in tools if isinstance(tools, (list, tuple)) else ():
            kind = get(tool, "type")
            if isinstance(kind, str) and _HOSTED_TOOL.match(kind):
                return f"the hosted tool {kind!r}"
        for name in ("mcp_servers", "context_management", "web_search_options"):
            if body.get(name):
                return repr(name)
        prompt = body.get("prompt")
        if isinstance(prompt, Mapping) and prompt.get("id"):
            return "a stored prompt"
        return None

    def takes_model(self, body: Mapping[str, Any]) -> bool:
        """Return whether such a request may name another model than it does."""
        return True

    def history(self, body: Mapping[str, Any]) -> str | None:
        """Return the provider's name of a history it adds to the prompt by itself, if any."""
        for name in self.history_fields:
            value = body.get(name)
            found = value
            if not isinstance(value, str):
                # A conversation of OpenAI's, a message thread of Anthropic's.
                found = get(value, "id") or get(value, "previous_message_id")
            if isinstance(found, str) and found:
                return found
        return None

    def ask_usage(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request fields to add so that a stream reports its usage."""
        return {}


class Endpoint(NamedTuple):
    """One row: a path that spends tokens, and how it is spelled.

    `{}` stands for one path segment; `{model}` too, which then is told to the dialect as a field `model`.
    """

    path: str
    dialect: Dialect
    generates: bool = True
    """True when the model writes text, so that a cheaper text model can take its place."""
    method: str = "post"
    counted_by: str = ""
    """The provider's own counter of such a prompt, if it has one that is free."""
    follows: bool = False
    """True for a path that reports on a call begun on another: it settles that call and is never charged."""

    def told(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the body with what the path says."""
        found = (
            path_pattern(self.path).search(path.split("?", 1)[0].rstrip("/")) if "{" in self.path else None
        )
        return {**body, **found.groupdict()} if found and found.groupdict() else body


class NotSeen(NamedTuple):
    """Something that spends tokens where no row catches it: a path whose work is done later, a websocket."""

    name: str
    """A path, with `{}` for one segment; or a method as from a client, `realtime.connect`."""
    why: str


@cache
def path_pattern(path: str) -> re.Pattern[str]:
    """Return what the end of a URL path of this row looks like."""
    escaped = re.escape(path.lstrip("/")).replace(r"\{\}", "[^/]+")
    return re.compile("(?:^|/)" + re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/:]+)", escaped) + "$")
