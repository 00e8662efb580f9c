"""The changes noted in a SQLite store: who changed which budget."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from .._audit import Change, Who
from ..budget import BudgetKey

__all__ = ["note", "read"]

_MICRO = 1_000_000
_NOTE = (
    "INSERT INTO changes VALUES (max(?, 1 + coalesce((SELECT max(at) FROM changes), 0)),?,?,?,?,?,?,?,?,?)"
)
_LET_GO = "DELETE FROM changes WHERE at <= (SELECT at FROM changes ORDER BY at DESC LIMIT 1 OFFSET 10000)"
_READ = (
    "SELECT at, dimension, identifier, action, tokens, user, host, limit_before, limit_after, used_before,"
    " used_after FROM changes JOIN counters USING (key) ORDER BY at"
)


def note(cursor: sqlite3.Cursor, number: int, change: Change, text: Callable[[str], str | bytes]) -> None:
    """Write a change of the budget with this number. `text`: how the file spells one."""
    at, _, action, tokens, who, *counts = change
    row = (int(at * _MICRO), number, action, tokens, text(who.user), text(who.host), *counts)
    cursor.execute(_NOTE, row)
    cursor.execute(_LET_GO)


def read(execute: Callable[..., Any], string: Callable[[str | bytes], str]) -> list[Change]:
    """Return the changes in order of time. `string`: what a text of the file stands for."""
    return [
        Change(
            at / _MICRO,
            BudgetKey(string(dimension), string(identifier)),
            action,
            tokens,
            Who(string(user), string(host)),
            *counts,
        )
        for at, dimension, identifier, action, tokens, user, host, *counts in execute(_READ).fetchall()
    ]
