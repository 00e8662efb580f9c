"""The ledger of a Redis store, and how it is read.

Where one script can reach every key there is one book; in a cluster there is one in the slot of every budget
that was the first of a call's, so that a row is written by the script that settles the call.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from .._audit import Change
from .._entry import Ahead, Entry, KnownBudget, Sum
from .._periods import parse
from ..budget import UNLIMITED
from ._memory_ledger import sum_up
from ._redis_rows import read_change, read_row
from ._redis_scripts import Flow, Verbs, name_of_key, slot_of

if TYPE_CHECKING:
    from typing import Any

__all__ = ["LedgerReader"]

T = TypeVar("T")

_DAY = 86_400
_PAGE = 1_000
_REMEMBERED = 10_000
_KNOWN_AT_ONCE = 200


class LedgerReader:
    """Reads the ledger, one bounded script at a time.

    `run` performs a flow; `shards` returns a slot of each node.
    """

    def __init__(
        self, verbs: Verbs, run: Callable[[Flow[Any]], Any], shards: Callable[[], Sequence[int]]
    ) -> None:
        self._verbs = verbs
        self._run = run
        self._shards = shards
        self._labels: dict[str, str] = {}

    def now(self) -> float:
        """As `LedgerBackend.now`."""
        return float(self._ask(0, "time"))

    def sums(self, since: float, until: float, period: int) -> list[Sum]:
        """As `LedgerBackend.sums`: whole days from their sums, the rest from the rows."""
        if period and period % _DAY:
            return sum_up(self.calls(since, until, newest_first=False), period)
        now = self.now()
        # A day that is not over is whole as far as it has come.
        first, end = (
            math.ceil(since / _DAY),
            math.floor(until / _DAY) if until <= now else int(now // _DAY) + 1,
        )
        if first >= end:
            return sum_up(self.calls(since, until, newest_first=False), period)
        found: dict[tuple[str, int, str], list[int]] = {}
        for book in self._books():
            for day in self._days(book, first, end):
                labels, sums = self._page(book, day)
                for digest, ending, counts in sums:
                    start = day * _DAY // period * period if period else 0
                    group = (labels.get(digest, ""), start, ending)
                    found[group] = [a + b for a, b in zip(found.get(group, [0] * 9), counts)]
        whole = [
            Sum(*group, calls, estimated, sent, received, cached, written, reasoning, ms / 1000)
            for group, (calls, estimated, sent, received, cached, written, reasoning, _, ms) in found.items()
            if calls and group[0]
        ]
        edges = [(since, first * float(_DAY)), (end * float(_DAY), until)]
        rest = [
            each
            for start, stop in edges
            if start < min(stop, now + _DAY)
            for each in sum_up(self.calls(start, stop, newest_first=False), period)
        ]
        return whole + rest

    def calls(self, since: float, until: float, newest_first: bool) -> Iterator[tuple[float, Entry]]:
        """As `LedgerBackend.calls`."""
        books = [self._rows(book, since, until, newest_first) for book in self._books()]
        return heapq.merge(*books, key=lambda row: row[0], reverse=newest_first)

    def budgets(self) -> list[KnownBudget]:
        """As `LedgerBackend.budgets`."""
        counters = self._scan("c")
        size = 1 if self._verbs.clustered else _KNOWN_AT_ONCE
        known: list[KnownBudget] = []
        for start in range(0, len(counters), size):
            keys = tuple(counters[start : start + size])
            lines = self._ask(slot_of(keys[0]), "known", keys).split("\n")
            for key, line in zip(keys, lines):
                limit, override, name, period, thresholds = line.split(" ")
                known.append(
                    KnownBudget(
                        name_of_key(key, name),
                        UNLIMITED if limit == "-" else int(limit),
                        None if override == "-" else int(override),
                        None if period == "-" else parse(period),
                        Ahead.parse(thresholds),
                    )
                )
        return sorted(known, key=lambda each: each.key)

    def changes(self) -> list[Change]:
        """As `LedgerBackend.changes`."""
        found: list[Change] = []
        for history in self._scan("h"):
            counter = history[:-1] + b"c"
            name, *lines = self._ask(slot_of(counter), "changes", (counter, history)).split("\n")
            key = name_of_key(counter, name)
            found += [read_change(key, line) for line in reversed(lines)]
        return sorted(found, key=lambda change: change.at)

    def _rows(
        self, book: bytes, since: float, until: float, newest_first: bool
    ) -> Iterator[tuple[float, Entry]]:
        # The ids of a stream begin at the epoch.
        start, end = max(0, _milli(since)), _milli(until)
        if end <= start:
            return
        low, high = str(start), str(end - 1)
        while True:
            order = ("XREVRANGE", high, low) if newest_first else ("XRANGE", low, high)
            text = self._ask(slot_of(book), "rows", (book,), *order, str(_PAGE))
            lines = text.split("\n") if text else []
            rows: list[tuple[float, str, str]] = []
            for line in lines:
                entry, digest, row = line.split(" ", 2)
                rows.append((int(entry.partition("-")[0]) / 1000, digest, row))
            labels = self._labels_of(book, {digest: int(at // _DAY) for at, digest, _ in rows})
            for at, digest, row in rows:
                if digest in labels:
                    yield at, read_row(labels[digest], row)
            if len(lines) < _PAGE:
                return
            last = lines[-1].partition(" ")[0]
            low, high = (low, f"({last}") if newest_first else (f"({last}", high)

    def _labels_of(self, book: bytes, days: dict[str, int]) -> dict[str, str]:
        """Return the labels of these digests, which mean the same ever; beside each is a day of its row."""
        known = self._labels
        labels = {digest: known[digest] for digest in days if digest in known}
        # Around midnight the server's two clocks may be a day apart.
        for apart in (0, -1, 1):
            wanted: dict[int, list[str]] = {}
            for digest, day in days.items():
                if digest not in labels:
                    wanted.setdefault(day + apart, []).append(digest)
            for day, digests in wanted.items():
                texts = self._ask(slot_of(book), "labels", (self._day_key(book, day),), *digests).split("\n")
                labels.update([pair for pair in zip(digests, texts) if pair[1]])
        if len(labels) + len(self._labels) > _REMEMBERED:
            self._labels = {}
        self._labels.update(labels)
        return labels

    def _page(self, book: bytes, day: int) -> tuple[dict[str, str], list[tuple[str, str, list[int]]]]:
        """Return the labels of a day by their digests, and its sums."""
        text = self._ask(slot_of(book), "page", (self._day_key(book, day),))
        labels: dict[str, str] = {}
        sums: list[tuple[str, str, list[int]]] = []
        for line in text.split("\n") if text else ():
            field, _, value = line.partition(" ")
            kind, _, name = field.partition(":")
            if kind == "l":
                labels[name] = value
            else:
                digest, _, ending = name.partition(":")
                sums.append((digest, ending, [int(count) for count in value.split(" ")]))
        return labels, sums

    def _days(self, book: bytes, first: int, end: int) -> list[int]:
        stem = self._day_key(book, 0)[:-1]
        kept = self._verbs.retention.seconds // _DAY + 3
        if end - first <= kept:
            return list(range(first, end))
        # Since ever: whatever is still there, kept by somebody with more patience maybe.
        days = [int(key[len(stem) :]) for key in self._scan("y:*") if key.startswith(stem)]
        return sorted(day for day in days if first <= day < end)

    def _day_key(self, book: bytes, day: int) -> bytes:
        return book[:-1] + b"y:%d" % day

    def _books(self) -> list[bytes]:
        return self._scan("l") if self._verbs.clustered else [self._verbs.book]

    def _scan(self, ending: str) -> list[bytes]:
        """Return the keys of the store that end in this way, in order."""
        pattern = f"{self._verbs.prefix}:{{*}}:{ending}"
        found: set[bytes] = set()
        self.now()  # by the way, a cluster tells which node has which slots
        for slot in self._shards():
            cursor = "0"
            while True:
                cursor, *keys = self._ask(slot, "scan", (), cursor, pattern).split("\n")
                found.update(key.encode() for key in keys)
                if cursor == "0":
                    break
        return sorted(found)

    def _ask(self, slot: int, name: str, keys: tuple[bytes, ...] = (), *args: str) -> str:
        answer: bytes = self._run(self._verbs.ask(slot, name, keys, args))
        return answer.decode()


def _milli(seconds: float) -> int:
    """Return the first millisecond that is not before a time; the rows have no finer one."""
    return math.ceil(round(seconds * 1e6) / 1000)
