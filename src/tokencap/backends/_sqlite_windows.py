"""How the counters of a SQLite store go through the windows of their periods."""

from __future__ import annotations

import sqlite3
from typing import Optional

from .._periods import SLOTS, Period, Rolling, parse
from ..budget import share_ceil
from ._rules import fell_below, in_force, turn

__all__ = ["READ_COUNTER", "Row", "Windows"]

Row = tuple[int, int, int, int, int, Optional[int], int, str, int, int, int, int]
"""As `READ_COUNTER` selects it."""

READ_COUNTER = (
    "SELECT used, reserved, calls, expired, life, override, configured,"
    " period, window_at, last_life, previous, granted FROM counters WHERE key = ?"
)

_ROLL = (
    "UPDATE counters SET previous = ?, last_life = ?, life = life + 1, used = 0, reserved = 0, calls = 0,"
    " expired = 0, granted = ?, period = ?, window_at = ? WHERE key = ?"
)
_MOVE = "UPDATE counters SET period = ?, window_at = ? WHERE key = ?"
_UNMARK = "DELETE FROM marks WHERE key = ?"
_LATE = "UPDATE counters SET previous = previous + ? WHERE key = ? AND last_life = ?"
_ADD = (
    "INSERT INTO slots VALUES (?, ?, ?, ?, ?) ON CONFLICT (key, slot) DO UPDATE SET"
    " used = used + excluded.used, expired = expired + excluded.expired, granted = granted + excluded.granted"
)
_TAKE_BACK = (
    "UPDATE slots SET used = used - ?, expired = expired - ? WHERE key = ? AND slot = ? AND expired >= ?"
)
_EMPTY = "DELETE FROM slots WHERE key = ?"
_FORGET = "DELETE FROM slots WHERE key = ? AND slot < ?"
_AHEAD = "SELECT sum(used), sum(expired), sum(granted) FROM slots WHERE key = ? AND slot > ?"
_PULL = "DELETE FROM slots WHERE key = ? AND slot > ?"
_SUM = (
    "SELECT coalesce(sum(used), 0), coalesce(sum(expired), 0), coalesce(sum(granted), 0)"
    " FROM slots WHERE key = ?"
)
_SET = "UPDATE counters SET used = ?, expired = ?, granted = ?, window_at = ? WHERE key = ?"
_MARKS = "SELECT at_pct FROM marks WHERE key = ?"
_UNMARK_ONE = "DELETE FROM marks WHERE key = ? AND at_pct = ?"
_ROLLING = "SELECT period FROM counters WHERE key = ? AND life = ? AND period LIKE 'rolling%'"


class Windows:
    """The windows of one open file, inside the transactions of its `Books`."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def due(self, row: Row, period: Period, now: float) -> bool:
        """Return whether a counter has to be changed before it can be read."""
        return turn(period, row[7], row[8], now).window != row[8] or row[7] != period.text

    def turn(self, number: int, row: Row, period: Period, now: float) -> Row:
        """Bring a counter into the window of `now`; return its row."""
        text, window = row[7], row[8]
        where = turn(period, text, window, now)
        if where.window == window and text == period.text:
            return row
        execute = self._cursor.execute
        if where.anew:
            last = (row[0], row[4]) if where.follows else (0, 0)
            execute(_ROLL, (*last, 0 if text else row[11], period.text, where.window, number))
            execute(_UNMARK, (number,))
        elif not where.carried and isinstance(period, Rolling):
            self._age(number, row, where.window)
        else:
            execute(_MOVE, (period.text, where.window, number))
        turned: Row = execute(READ_COUNTER, (number,)).fetchone()
        if where.anew or where.carried:
            execute(_EMPTY, (number,))
            if isinstance(period, Rolling):
                execute(_ADD, (number, where.window, turned[0], turned[3], turned[11]))
        return turned

    def spend(self, number: int, period: Rolling, now: float, tokens: int, granted: int = 0) -> None:
        """Note when what is added to a rolling counter is to be forgotten."""
        self._cursor.execute(_ADD, (number, period.slot_of(now), tokens, 0, granted))

    def take_back(self, number: int, period: Rolling, charge: int, at: float) -> bool:
        """Return whether a charge made at `at` is still counted, and no more from now on."""
        place = (charge, charge, number, period.slot_of(at), charge)
        return self._cursor.execute(_TAKE_BACK, place).rowcount > 0

    def charged(self, number: int, life: int, now: float, charge: int) -> None:
        """As `spend`, for what is charged to a counter in this life, whose period is not at hand."""
        found = self._cursor.execute(_ROLLING, (number, life)).fetchone()
        period = parse(found[0]) if found is not None else None
        if isinstance(period, Rolling):
            self._cursor.execute(_ADD, (number, period.slot_of(now), charge, charge, 0))

    def late(self, number: int, life: int, tokens: int) -> None:
        """Count tokens in the window before, if that is where they belong."""
        self._cursor.execute(_LATE, (tokens, number, life))

    def empty(self, number: int) -> None:
        """Forget what was counted in the steps of a rolling window."""
        self._cursor.execute(_EMPTY, (number,))

    def _age(self, number: int, row: Row, slot: int) -> None:
        """Forget what is too old. What lies ahead of a clock that was set back is counted as of now."""
        execute = self._cursor.execute
        execute(_FORGET, (number, slot - SLOTS))
        ahead = execute(_AHEAD, (number, slot)).fetchone()
        if ahead[0] is not None:
            execute(_PULL, (number, slot))
            execute(_ADD, (number, slot, *ahead))
        used, expired, granted = execute(_SUM, (number,)).fetchone()
        execute(_SET, (used, expired, granted, slot, number))
        limit = in_force(row[5] or row[6], granted)
        for (at_pct,) in execute(_MARKS, (number,)).fetchall():
            if fell_below(row[0], used, share_ceil(limit, at_pct)):
                execute(_UNMARK_ONE, (number, at_pct))
