"""Counting the tokens of a text: tiktoken where its tables are at hand, else by the kind of characters.

tiktoken fetches its tables on first use, without a time-out, so they are loaded in a thread of their
own and used once they are there. Without a network they never are, and nothing waits for them.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections import OrderedDict
from typing import Any

from .._fork import ForkAware, Mutex, survive_forks
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

_IMPORT_SECONDS = 5.0


class _Tables(ForkAware):
    """The tables of tiktoken that are there, and what was counted with them."""

    def __init__(self) -> None:
        self.encodings: dict[str, Any] = {}
        """By name; None while a table is loaded, and for good where it cannot be."""
        self.counts: OrderedDict[tuple[str, int, int], int] = OrderedDict()
        self.mutex = Mutex()
        # A child would wait for ever for a module that a thread of its parent was importing.
        self._importing = Mutex(patience=_IMPORT_SECONDS)
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """See `_fork`: the threads that were loading do not exist here."""
        self.encodings = {name: table for name, table in self.encodings.items() if table is not None}

    def load(self, name: str) -> None:
        """Load a table, which may take for ever."""
        try:
            with self._importing.lock:
                import tiktoken

                tiktoken.list_encoding_names()  # which imports where they are said
                with contextlib.suppress(ImportError):
                    import requests  # type: ignore[import-untyped,unused-ignore]  # noqa: F401 - what fetches them
            self.encodings[name] = tiktoken.get_encoding(name)
        except Exception as error:
            log.info(
                "no tiktoken table %s (%s); tokens are estimated from characters",
                name,
                type(error).__name__,
                extra={"table": name},
            )


_tables = _Tables()


def count_text(provider: Provider, model: str, text: str) -> int:
    """Return the tokens of a text for this model. Remembered: a growing conversation costs what is new."""
    encoding = _encoding(model)
    name = "" if encoding is None else encoding.name
    key = (name, len(text), hash(text))
    count = _tables.counts.get(key)
    if count is None:
        count = _count(encoding, text)
        with _tables.mutex.lock:
            _tables.counts[key] = count
            while len(_tables.counts) > _REMEMBERED:
                _tables.counts.popitem(last=False)
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
    if name not in _tables.encodings:
        with _tables.mutex.lock:
            if name not in _tables.encodings:
                _tables.encodings[name] = None
                try:
                    threading.Thread(
                        target=_tables.load, args=(name,), name="tokencap-tokenizer", daemon=True
                    ).start()
                except RuntimeError:
                    return None
    return _tables.encodings[name]


def _name(model: str) -> str:
    old = ("gpt-4-", "gpt-3.5", "text-embedding-")
    return "cl100k_base" if model == "gpt-4" or model.startswith(old) else "o200k_base"
