"""The ledger of a store in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from .._entry import Entry, Retention, Sum

__all__ = ["MemoryLedger"]

Row = tuple[float, Entry]


class MemoryLedger:
    """The last calls, oldest first. One thread at a time."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._rows: OrderedDict[int, tuple[float, Entry, str | None]] = OrderedDict()
        self._next = 0
        # By reservation: where the row is that says that it expired.
        self._expired: dict[str, int] = {}

    def write(self, entry: Entry, now: float, expired: str | None = None) -> None:
        """Add a row; `expired` is the reservation it speaks of, if that may still be settled."""
        self._rows[self._next] = (now, entry, expired)
        if expired is not None:
            self._expired[expired] = self._next
        self._next += 1
        oldest = now - self._retention.seconds
        while len(self._rows) > self._retention.rows or next(iter(self._rows.values()))[0] < oldest:
            _, (_, _, gone) = self._rows.popitem(last=False)
            if gone is not None:
                self._expired.pop(gone, None)

    def take_back(self, expired: str) -> None:
        """Take back the row of a reservation that was settled after all."""
        place = self._expired.pop(expired, None)
        if place is not None:
            del self._rows[place]

    def calls(self, since: float, until: float, newest_first: bool) -> list[Row]:
        """As `LedgerBackend.calls`."""
        found = [(at, entry) for at, entry, _ in self._rows.values() if since <= at < until]
        found.sort(key=lambda row: row[0])
        return found[::-1] if newest_first else found

    def sums(self, since: float, until: float, period: int) -> list[Sum]:
        """As `LedgerBackend.sums`."""
        return sum_up(self.calls(since, until, newest_first=False), period)


def sum_up(rows: Iterable[Row], period: int) -> list[Sum]:
    """Sum rows up by label, ending and period."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for at, entry in rows:
        start = int(at // period) * period if period else 0
        sums = found.setdefault((entry.label, start, entry.ending), [0, 0, 0, 0, 0, 0, 0, 0.0])
        for place, amount in enumerate(
            (1, entry.estimated, entry.input, entry.output, entry.cached, entry.written, entry.reasoning)
        ):
            sums[place] += amount
        sums[7] += entry.seconds
    return [Sum._make((*group, *map(int, sums[:7]), sums[7])) for group, sums in found.items()]
