"""Counting the tokens of a text: tiktoken where its tables are at hand, else by the kind of characters.

tiktoken fetches its tables on first use, without a time-out, so they are loaded in a thread of their
own and used once they are there. Without a network they never are, and nothing waits for them.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from typing import Any

from ..policy import Provider

__all__ = ["TABLES", "count_text"]

log = logging.getLogger("tokencap.estimates")

TABLES = ("o200k_base", "cl100k_base")
"""The tables of tiktoken that are used."""
_LONGEST = 200_000
"""Characters that are read; the rest of a longer text is assumed to be alike."""
_REMEMBERED = 4_096
# Tokens of current Claude models for each token of o200k, on English and code.
_CLAUDE = 1.35

_lock = threading.Lock()
_encodings: dict[str, Any] = {}
_counts: OrderedDict[tuple[str, int, int], int] = OrderedDict()


def count_text(provider: Provider, model: str, text: str) -> int:
    """Return the tokens of a text for this model. Remembered: a growing conversation costs what is new."""
    encoding = _encoding(model)
    name = "" if encoding is None else encoding.name
    key = (name, len(text), hash(text))
    count = _counts.get(key)
    if count is None:
        count = _count(encoding, text)
        with _lock:
            _counts[key] = count
            while len(_counts) > _REMEMBERED:
                _counts.popitem(last=False)
    return -(-int(count * 100 * _CLAUDE) // 100) if provider is Provider.ANTHROPIC else count


def _count(encoding: Any, text: str) -> int:
    sample = text[:_LONGEST]
    if not sample:
        return 0
    found = _by_kind(sample) if encoding is None else len(encoding.encode_ordinary(sample))
    return max(1, found * len(text) // len(sample))


_WORDS = re.compile(r"[A-Za-z]+| ")
_SIGNS = re.compile(r"[!-@\[-`{-~]")


def _by_kind(text: str) -> int:
    """Count by kind: four letters, two digits or signs, or four bytes of any other script make a token."""
    letters = sum(map(len, _WORDS.findall(text)))
    signs = len(_SIGNS.findall(text))
    others = len(text.encode("utf-8", "surrogatepass")) - letters - signs
    return -(-(letters + 2 * signs + others) // 4)


def _encoding(model: str) -> Any:
    name = _name(model)
    if name not in _encodings:
        with _lock:
            if name not in _encodings:
                _encodings[name] = None
                try:
                    threading.Thread(
                        target=_load, args=(name,), name="tokencap-tokenizer", daemon=True
                    ).start()
                except RuntimeError:
                    return None
    return _encodings[name]


def _name(model: str) -> str:
    old = ("gpt-4-", "gpt-3.5", "text-embedding-")
    return "cl100k_base" if model == "gpt-4" or model.startswith(old) else "o200k_base"


def _load(name: str) -> None:
    try:
        import tiktoken

        _encodings[name] = tiktoken.get_encoding(name)
    except Exception as error:
        log.info(
            "no tiktoken table %s (%s); tokens are estimated from characters",
            name,
            type(error).__name__,
            extra={"table": name},
        )
