"""How many tokens a piece of JSON is, without a tokenizer and without reading its texts.

The *bound* cannot be passed by a byte-level tokenizer: a token is at least one byte. The *guess*
is what is expected. Both come from one walk over the structure that looks at string lengths only,
so a megabyte of prompt costs no more than a line.

Images, sounds and files are not text: their base64 is never counted as such. Sources of the
allowances: the providers' published image costs (1,024 px square: 1,230 to 1,450 tokens; the
largest at full detail: 14,364), and 10 tokens a second for sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

__all__ = ["IMAGE_BOUND", "IMAGE_GUESS", "Size", "estimate_text", "measure", "text_size"]

IMAGE_GUESS = 1_600
IMAGE_BOUND = 16_384
_FILE_GUESS = 3_000
_FILE_BOUND = 200_000
"""Of a file given by reference: a model's context."""
_ENCODED = 65_536
"""Characters up to which the bytes of a text are counted; four each are assumed in a longer one."""
_MESSAGE_OVERHEAD = 4
_STRUCTURE = frozenset({"role", "content", "type", "text"})
_MEDIA_TYPES = frozenset({"image", "image_url", "input_image", "input_audio", "audio"})
_FILE_TYPES = frozenset({"document", "input_file", "file", "container_upload"})


class Size(NamedTuple):
    """Tokens of a prompt."""

    bound: int
    guess: int


def measure(value: Any, count: Callable[[str], int] | None = None) -> Size:
    """Return the size of a JSON value, texts by `count` if given; an iterator in it is left unread."""
    total = _Total(count)
    total.add(value)
    return Size(total.bound, (total.quarters + 3) // 4)


class _Total:
    """The running sums of one walk. Quarters of a token, as ASCII text has about four letters a token."""

    __slots__ = ("bound", "count", "quarters")

    def __init__(self, count: Callable[[str], int] | None) -> None:
        self.bound = 0
        self.quarters = 0
        self.count = count

    def add(self, value: Any) -> None:
        if isinstance(value, str):
            self.text(value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.add(item)
        elif isinstance(value, (dict, Mapping)):
            kind = value.get("type")
            # In a JSON schema it may be a list of types, or the schema of a field of that name.
            if isinstance(kind, str) and (kind in _MEDIA_TYPES or kind in _FILE_TYPES):
                self.media(kind, value)
                return
            if "role" in value:
                self.bound += 2 * _MESSAGE_OVERHEAD
                self.quarters += 4 * _MESSAGE_OVERHEAD
            # Field names are rendered only in tools and schemas, and there with their punctuation.
            for key, item in value.items():
                if key not in _STRUCTURE:
                    name = str(key)
                    self.bound += (len(name) if name.isascii() else 4 * len(name)) + 6
                self.add(item)
        elif value is None or isinstance(value, (bool, int, float)):
            self.bound += 24
            self.quarters += 1
        elif isinstance(value, (bytes, bytearray)):
            self.bound += len(value)
            self.quarters += len(value)
        elif hasattr(value, "__dict__") and not hasattr(value, "__next__"):
            self.add(vars(value))

    def text(self, value: str) -> None:
        plain = value.isascii()
        if plain and value[:5] == "data:":
            self.bound += IMAGE_BOUND
            self.quarters += 4 * IMAGE_GUESS
            return
        if plain:
            self.bound += len(value)
        elif len(value) <= _ENCODED:
            self.bound += len(value.encode("utf-8", "surrogatepass"))
        else:
            self.bound += 4 * len(value)
        if self.count is not None:
            self.quarters += 4 * self.count(value)
        else:
            # About one token a character in the scripts that have many bytes.
            self.quarters += len(value) if plain else 3 * len(value)

    def media(self, kind: Any, value: Mapping[str, Any]) -> None:
        size = _base64_size(value)
        if kind in _FILE_TYPES:
            self.bound += size if size > _FILE_BOUND // 4 else _FILE_BOUND
            self.quarters += 4 * max(_FILE_GUESS, min(size // 40, 100_000))
        else:
            self.bound += IMAGE_BOUND if kind not in ("input_audio", "audio") else max(size, IMAGE_BOUND)
            self.quarters += 4 * IMAGE_GUESS
        for name in ("title", "context", "filename"):
            if isinstance(value.get(name), str):
                self.text(value[name])


def _base64_size(value: Mapping[str, Any]) -> int:
    """Return the length of the data inside a media block, wherever the format puts it."""
    longest = 0
    for item in value.values():
        if isinstance(item, str):
            longest = max(longest, len(item))
        elif isinstance(item, Mapping):
            longest = max(longest, _base64_size(item))
    return longest


def text_size(payload: Any) -> int:
    """Return the characters of generated text in a reply that reports no usage."""
    if isinstance(payload, str):
        return len(payload)
    if isinstance(payload, (list, tuple)):
        return sum(text_size(item) for item in payload)
    fields = payload if isinstance(payload, dict) else getattr(payload, "__dict__", None)
    if not isinstance(fields, dict):
        return 0
    return sum(
        text_size(item)
        for key, item in fields.items()
        if key in _GENERATED or isinstance(item, (dict, list)) or hasattr(item, "model_fields_set")
    )


_GENERATED = frozenset(
    {"text", "content", "refusal", "arguments", "thinking", "partial_json", "reasoning", "reasoning_content"}
)


def estimate_text(characters: int) -> int:
    """Return the tokens of generated text of so many characters."""
    return -(-characters // 4)
