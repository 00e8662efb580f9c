"""What a request says: its text, its size in tokens, the directives in it, the JSON it asks for. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Marks", "chosen_tool", "count_prompt", "instance", "size"]

_MARK = re.compile(r"\[\[(\w+)(?:=([\w.+-]+))?\]\]")
_NAMED_TOOL = re.compile(r"\[\[tool=([\w.-]+)\]\]")
_MESSAGES = ("messages", "input", "prompt")
_SCHEMAS = ("tools", "functions", "response_format", "text", "output_config", "output_format", "questions")
# Values that are not shown to the model as text: names of things, and what is counted in other units.
_NOT_TEXT = {
    *("cache_control", "call_id", "data", "detail", "encrypted_content", "file_data", "file_id", "id"),
    *("image_url", "media_type", "prompt_cache_breakpoint", "role", "signature", "status"),
    *("tool_call_id", "tool_use_id", "type", "url"),
}
_TROUBLE = ("status", "hang", "cut", "error_event")


class Marks(Mapping[str, str]):
    """The `[[name=value]]` directives of one request."""

    def __init__(self, text: str, attempt: int = 0) -> None:
        self._values: dict[str, str] = dict(_MARK.findall(text))
        if "attempts" in self._values and attempt >= self.number("attempts", 0):
            for name in _TROUBLE:
                self._values.pop(name, None)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def number(self, name: str, default: int) -> int:
        return int(self.seconds(name, default))

    def seconds(self, name: str, default: float = 0.0) -> float:
        try:
            return max(0.0, float(self._values[name]))
        except (KeyError, ValueError):
            return default


def size(text: str | bytes) -> int:
    """Tokens in a text: one per four bytes of UTF-8, rounded up."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return -(-len(raw) // 4)


def prompt_text(body: Mapping[str, Any]) -> str:
    """All text the model would read: instructions, messages, tools and schemas (as compact JSON)."""
    read = [body.get(field) for field in ("system", "instructions", *_MESSAGES)]
    asked = [body[field] for field in _SCHEMAS if isinstance(body.get(field), (list, dict))]
    return "".join(_leaves(read)) + "".join(
        json.dumps(item, separators=(",", ":"), ensure_ascii=False) for item in asked
    )


def count_prompt(body: Mapping[str, Any]) -> int:
    """Input tokens this provider bills for a request body, before any directive and server-held history.

    One token per four UTF-8 bytes of all text together, rounded up, and three for each message. Text is
    every string in `system`, `instructions`, `messages`, `input` and `prompt`, whatever its depth, save
    identifiers, types and binary data, then tools and output schemas as compact JSON. Messages are the
    entries of `messages`, `input` and `prompt`; a lone string is one. Token ids
    count one each.
    """
    messages = tokens = 0
    for field in _MESSAGES:
        value = body.get(field)
        if isinstance(value, str) or (_is_ids(value) and value):
            messages += 1
        elif isinstance(value, list):
            messages += len(value)
        if isinstance(value, list):
            tokens += sum(len(item) for item in (value, *value) if _is_ids(item))
    return size(prompt_text(body)) + tokens + 3 * messages


def chosen_tool(body: Mapping[str, Any], offered: Sequence[str]) -> str | None:
    """Return which of the tools offered the reply is to call, if any.

    A choice that the request forces comes first, then what the last message asks for.
    """
    if not offered:
        return None
    last = _last_message(body)
    named = _NAMED_TOOL.findall("".join(_leaves(last)))
    asked = named[-1] if named and named[-1] in offered else None
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        name = choice.get("name") or (choice.get("function") or {}).get("name")
        if name in offered:
            return str(name)
        choice = choice.get("type")
    if choice in ("required", "any"):
        return asked or offered[0]
    if choice == "none":
        return None
    return asked or (offered[0] if _wants_tool(last) else None)


def _last_message(body: Mapping[str, Any]) -> Any:
    turns = body.get("messages", body.get("input"))
    return turns[-1] if isinstance(turns, list) and turns else {"role": "user", "content": turns}


def _wants_tool(last: Any) -> bool:
    if not isinstance(last, dict) or last.get("role") != "user":
        return False
    content = last.get("content")
    if isinstance(content, str):
        return "[tool]" in content
    # Blocks of tool results are the user's too, and repeating a tool call on them would never end.
    return isinstance(content, list) and any(
        isinstance(block, dict) and "[tool]" in str(block.get("text", "")) for block in content
    )


def instance(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """Make a small value that is valid for a JSON schema, as far as it is built of the usual keywords."""
    root = schema if root is None else root
    if not isinstance(schema, dict):
        return None
    if depth > 32:
        return None
    if "$ref" in schema:
        return instance(_resolve(root, str(schema["$ref"])), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            options = schema[keyword]
            # Past a few levels the structure is recursive: leave it by the way out it offers.
            ways_out = [o for o in options if o.get("type") == "null"] if depth > 6 else []
            return instance((ways_out or options)[0], root, depth + 1)
    if schema.get("allOf"):
        parts = [instance(part, root, depth + 1) for part in schema["allOf"]]
        return {k: v for part in parts if isinstance(part, dict) for k, v in part.items()} or parts[0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        fields = schema.get("properties", {})
        return {name: instance(fields.get(name, {}), root, depth + 1) for name in schema.get("required", [])}
    if kind == "array":
        return [instance(schema.get("items", {}), root, depth + 1) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        return _string(schema)
    if kind in ("integer", "number"):
        return _number(schema, kind)
    return True if kind == "boolean" else None


def _string(schema: Mapping[str, Any]) -> str:
    shapes = {
        "date-time": "2026-01-01T00:00:00Z",
        "date": "2026-01-01",
        "time": "00:00:00Z",
        "duration": "P1D",
        "email": "a@example.com",
        "uuid": "00000000-0000-4000-8000-000000000000",
        "uri": "https://example.com/",
        "ipv4": "127.0.0.1",
        "ipv6": "::1",
        "hostname": "example.com",
    }
    text = shapes.get(schema.get("format", ""), "word")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def _number(schema: Mapping[str, Any], kind: str) -> float:
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    low, high = schema.get("minimum", above), schema.get("maximum", below)
    if kind == "number" and "multipleOf" not in schema:
        if low is None or high is None:
            return float(low + 1 if low is not None else high - 1 if high is not None else 1)
        return float(low + high) / 2
    step = schema.get("multipleOf", 1)
    value = step
    if low is not None:
        value = -(-low // step) * step
        value += step if value == above else 0
    elif high is not None:
        value = high // step * step
        value -= step if value == below else 0
    return float(value) if kind == "number" else int(value)


def _resolve(root: Any, reference: str) -> Any:
    node = root
    for part in reference.lstrip("#/").split("/") if reference != "#" else ():
        node = node.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, dict) else {}
    return node


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _NOT_TEXT:
                yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)


def _is_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(type(x) is int for x in value)
