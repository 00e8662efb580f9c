"""The ledger of a SQLite store: rows written inside the transaction of a verb, and read beside them all.

A row's key is its time in microseconds, so a range of time is a range of the table, a new row goes to
its end, and no index has to be kept.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .._audit import Change
from .._entry import ENDINGS, Ahead, Entry, KnownBudget, Retention, Sum
from .._fork import ForkAware, survive_forks
from .._periods import parse
from ..budget import BudgetKey
from ..errors import BackendError
from ._sqlite_changes import read as read_changes

if TYPE_CHECKING:
    from .sqlite import SQLiteBackend

__all__ = ["NEXT_N", "LedgerReader", "LedgerWriter"]

MICRO = 1_000_000
_DAY = 86_400
_PRUNE_EVERY = 256
_PRUNED_AT_ONCE = 512
_PAGE = 1_000
_REMEMBERED = 10_000

_CODES = {ending: code for code, ending in enumerate(ENDINGS)}

# n: one more than that of the row before, so that the number of rows is known without counting them.
NEXT_N = "coalesce((SELECT n FROM calls ORDER BY at DESC LIMIT 1), 0) + 1"
_WRITE = (
    "INSERT INTO calls"  # noqa: S608
    " (at, n, label, ending, estimated, input, output, cached, written, reasoning, estimate, ms)"
    f" VALUES (?, {NEXT_N}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ERASE = "DELETE FROM calls WHERE at = ?"
_LABEL = "SELECT id FROM labels WHERE day = ? AND text = ?"
_ADD_LABEL = "INSERT INTO labels (day, text) VALUES (?, ?)"
_OLDEST = "SELECT at, n FROM calls ORDER BY at LIMIT ?"
_NEWEST = "SELECT n FROM calls ORDER BY at DESC LIMIT 1"
_CUT = "DELETE FROM calls WHERE at <= ?"
# Of labels nobody refers to any more: a label is made anew every day.
_CUT_LABELS = "DELETE FROM labels WHERE id IN (SELECT id FROM labels WHERE day < ? LIMIT ?)"

_SUMS = (
    "SELECT label, ending, {period}, count(*), sum(estimated), sum(input), sum(output), sum(cached),"
    " sum(written), sum(reasoning), sum(ms) FROM calls WHERE at >= ? AND at < ? GROUP BY label, ending{by}"
)
_TEXTS = "SELECT id, text FROM labels"
# A row has a label of its day.
_TEXTS_OF = f"{_TEXTS} WHERE day BETWEEN ? AND ?"
_CALLS = (
    "SELECT at, text, ending, input, output, cached, written, reasoning, estimate, estimated, ms"
    " FROM calls JOIN labels ON id = label WHERE at {range} ORDER BY at {order} LIMIT ?"
)
_BUDGETS = (
    "SELECT dimension, identifier, configured, override, period, text FROM counters"
    " LEFT JOIN thresholds USING (key) ORDER BY dimension, identifier"
)


class LedgerWriter:
    """Writes the rows, in the transaction of whoever asks. One thread at a time."""

    def __init__(self, cursor: sqlite3.Cursor, retention: Retention) -> None:
        self._execute = cursor.execute
        self._retention = retention
        self._dawn = 0
        self._labels: dict[str, int] = {}
        self._last = 0
        self._written = 0

    def forget(self) -> None:
        """Drop what was remembered: it may come from a transaction that was rolled back."""
        self._labels.clear()

    def write(self, entry: Entry, now: float) -> int:
        """Add a row; return its key."""
        self.label(entry.label, now)
        row = self._row(entry, now)
        while True:
            try:
                self._execute(_WRITE, row)
                break
            except sqlite3.IntegrityError:
                row = (row[0] + 1, *row[1:])  # another process, in the same microsecond
        if not self._written:
            self._prune(now)
        self.wrote(row[0])
        return row[0]

    def known(self, text: str, now: float) -> int | None:
        """Return the number of a label, if it is known already."""
        return self._labels.get(text) if self._dawn <= now < self._dawn + _DAY else None

    def row(self, entry: Entry, now: float) -> tuple[int, ...] | None:
        """Return the row of an entry, to be followed by `wrote`; None when it takes more than a row."""
        if self._written and self._dawn <= now < self._dawn + _DAY and entry[0] in self._labels:
            return self._row(entry, now)
        return None

    def wrote(self, at: int) -> None:
        """Note that a row was written."""
        self._last = at
        self._written = (self._written + 1) % _PRUNE_EVERY

    def _row(self, entry: Entry, now: float) -> tuple[int, ...]:
        label, ending, sent, received, cached, written, reasoning, estimate, estimated, seconds = entry
        at = int(now * MICRO)
        if self._last - MICRO < at <= self._last:
            at = self._last + 1
        return (
            at, self._labels[label], _CODES[ending], 1 if estimated else 0, sent, received, cached, written,
            reasoning, estimate, int(seconds * 1000),
        )  # fmt: skip

    def erase(self, at: int) -> None:
        """Take a row back."""
        self._execute(_ERASE, (at,))

    def label(self, text: str, now: float) -> int:
        """Return the number of a label, added if it is new today."""
        if not self._dawn <= now < self._dawn + _DAY or len(self._labels) >= _REMEMBERED:
            self._dawn = int(now // _DAY) * _DAY
            self._labels.clear()
        number = self._labels.get(text)
        if number is None:
            day = self._dawn // _DAY
            found = self._execute(_LABEL, (day, text)).fetchone()
            if found is None:
                number = self._execute(_ADD_LABEL, (day, text)).lastrowid
                assert number is not None
            else:
                number = int(found[0])
            self._labels[text] = number
        return number

    def text(self, number: int) -> str | None:
        """Return the label of a number; None when it is gone."""
        found = self._execute(f"{_TEXTS} WHERE id = ?", (number,)).fetchone()
        return None if found is None else str(found[1])

    def _prune(self, now: float) -> None:
        """Delete a few of the rows that are too old or too many."""
        execute = self._execute
        oldest = int((now - self._retention.seconds) * MICRO)
        (newest,) = execute(_NEWEST).fetchone()
        least = newest - self._retention.rows
        ((first, n),) = execute(_OLDEST, (1,)).fetchall()
        if first < oldest or n <= least:
            rows = execute(_OLDEST, (_PRUNED_AT_ONCE,)).fetchall()
            due = [at for at, n in rows if at < oldest or n <= least]
            execute(_CUT, (due[-1],))
            first = due[-1]
        # A day more: the row of a call that expired goes by the label of its beginning.
        execute(_CUT_LABELS, (min(first, int(now * MICRO)) // MICRO // _DAY - 1, _PRUNED_AT_ONCE))


class LedgerReader(ForkAware):
    """Reads the ledger through a connection of its own, so that no call waits for a long answer.

    The connection lives for one answer. A fork waits for it: a child must not inherit one.
    """

    def __init__(self, backend: SQLiteBackend, path: str) -> None:
        self._backend = backend
        self._path = path
        self._lock = threading.RLock()
        survive_forks(self)

    def sums(self, since: float, until: float, period: int) -> list[Sum]:
        """As `LedgerBackend.sums`."""
        shown, by = "0", ""
        if period:
            shown, by = f"at / {period * MICRO} * {period}", ", 3"
        query = _SUMS.format(period=shown, by=by)
        with self._reading() as execute:
            found = execute(query, (_micro(since), _micro(until))).fetchall()
            texts = (
                dict(execute(_TEXTS_OF, (since // _DAY - 1, until // _DAY + 1)).fetchall()) if found else {}
            )
        return [
            Sum._make((texts[label], start, ENDINGS[ending], *counts, ms / 1000))
            for label, ending, start, *counts, ms in found
        ]

    def calls(self, since: float, until: float, newest_first: bool) -> Iterator[tuple[float, Entry]]:
        """As `LedgerBackend.calls`."""
        low, high = _micro(since), _micro(until) - 1
        query = _CALLS.format(range="BETWEEN ? AND ?", order="DESC" if newest_first else "ASC")
        while True:
            with self._reading() as execute:
                rows = execute(query, (low, high, _PAGE)).fetchall()
            for at, text, ending, *counts, estimate, estimated, ms in rows:
                fields = (text, ENDINGS[ending], *counts, estimate, bool(estimated), ms / 1000)
                yield at / MICRO, Entry._make(fields)
            if len(rows) < _PAGE:
                return
            if newest_first:
                high = rows[-1][0] - 1
            else:
                low = rows[-1][0] + 1

    def budgets(self) -> list[KnownBudget]:
        """As `LedgerBackend.budgets`."""
        with self._reading() as execute:
            rows = execute(_BUDGETS).fetchall()
        return [
            KnownBudget(
                BudgetKey(_string(dimension), _string(identifier)),
                configured,
                override,
                parse(period) if period else None,
                Ahead.parse(thresholds or ""),
            )
            for dimension, identifier, configured, override, period, thresholds in rows
        ]

    def changes(self) -> list[Change]:
        """As `LedgerBackend.changes`."""
        with self._reading() as execute:
            return read_changes(execute, _string)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Callable[..., Any]]:
        self._backend.perform(_nothing, begin="BEGIN")  # makes the file, or brings it up to date
        with self._lock:
            try:
                with contextlib.closing(
                    sqlite3.connect(self._path, timeout=self._backend.timeout, isolation_level=None)
                ) as connection:
                    connection.execute("PRAGMA query_only = ON")
                    connection.execute("BEGIN")
                    yield connection.execute
            except sqlite3.Error as error:
                raise BackendError(f"{self._backend.name}: the ledger cannot be read ({error})") from error

    def before_fork(self) -> None:
        """See `_fork`."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """See `_fork`."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """See `_fork`."""
        self._lock = threading.RLock()


def _nothing(_: object) -> None:
    pass


def _micro(seconds: float) -> int:
    return round(seconds * MICRO)


def _string(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "surrogatepass")
