"""How a row of the ledger is spelled for the scripts of Redis (see `_lua/_ledger.lua`)."""

from __future__ import annotations

import hashlib
import math
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from .._audit import Change, Who
from .._entry import Entry, Retention
from ..budget import BudgetKey

__all__ = ["book_args", "read_change", "read_row", "record_args", "spell_who"]


@lru_cache(maxsize=4096)
def _digest(label: str) -> str:
    return urlsafe_b64encode(hashlib.blake2b(label.encode(), digest_size=12).digest()).decode()


def _row(entry: Entry) -> str:
    return (
        f"{entry.ending} {int(entry.estimated)} {entry.input} {entry.output} {entry.cached} {entry.written}"
        f" {entry.reasoning} {entry.estimate} {int(entry.seconds * 1000)}"
    )


def book_args(label: str, entry: Entry | None, retention: Retention) -> list[str | bytes]:
    """Return what a script that may write into the ledger is told last."""
    row = "" if entry is None else _row(entry)
    return [row, str(retention.rows), str(math.ceil(retention.seconds)), _digest(label), label]


def record_args(entries: Sequence[Entry], retention: Retention) -> list[str | bytes]:
    """Return what the script `record` is told."""
    *others, last = entries
    args: list[str | bytes] = []
    for entry in others:
        args += [_digest(entry.label), entry.label, _row(entry)]
    return args + book_args(last.label, last, retention)


def read_row(label: str, row: str) -> Entry:
    """Return the entry that a row was made of."""
    ending, estimated, *counts, estimate, ms = row.split(" ")
    sent, received, cached, written, reasoning = map(int, counts)
    return Entry(
        label,
        ending,
        sent,
        received,
        cached,
        written,
        reasoning,
        int(estimate),
        estimated == "1",
        int(ms) / 1000,
    )


def spell_who(who: Who) -> str:
    """Return who makes a change, as the script `change` is told."""
    return " ".join([quote(part.encode("utf-8", "surrogatepass"), safe="") or "-" for part in who])


def read_change(key: BudgetKey, line: str) -> Change:
    """Return the change that a line of the list beside a budget is made of."""
    _, at, action, tokens, *counts, user, host = line.split(" ")
    who = Who(*[unquote_to_bytes(part).decode("utf-8", "surrogatepass") for part in (user, host)])
    before, after, used, then = map(int, counts)
    return Change(
        float(at), key, action, None if tokens == "-" else int(tokens), who, before, after, used, then
    )
