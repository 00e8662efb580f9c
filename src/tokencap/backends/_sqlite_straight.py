"""The straight way of a call through a SQLite store: one statement to reserve, one to settle.

Most calls ask for a fixed amount of one budget that runs for ever, and most of those find nothing out of
the ordinary. Such a step is a single INSERT into a view of this connection, whose trigger does all of it.
It begins and ends its own transaction, and does nothing at all when anything is out of the ordinary:
`_sqlite_books` then looks closely. The file knows nothing of the views.
"""

from __future__ import annotations

import functools
import math
import sqlite3
import struct
from collections.abc import Callable, Sequence

from .._entry import Entry, Retention
from ..budget import (
    BudgetState,
    Grant,
    Held,
    Hold,
    Mark,
    Reservation,
    Settlement,
    share_ceil,
    share_floor,
)
from ._sqlite_books import REMEMBERED, WRITE, Books
from ._sqlite_ledger import NEXT_N

__all__ = ["StraightBooks"]

# Of a NamedTuple: its own constructor is a function in Python, and a call makes six.
_new = tuple.__new__

# Hands numbers of a row, as they were before the change, to this process, and counts one call. In C all
# through: an exception that a signal handler raised in a function written in Python would be lost here.
_ONE_SEEN = "ifnull(seen(life, used, reserved, calls, expired, configured, previous), 1)"
_NUMBERS = struct.Struct("7q")
_NOTHING = bytes(_NUMBERS.size)

# A stored limit or a grant is out of the ordinary.
_ORDINARY = "override IS NULL AND granted = 0"

_RESERVE = ("id", "key", "configured", "amount", "need", "ceiling", "charge", "expires_at", "about")
_RESERVING = f"""
    UPDATE counters
        SET reserved = reserved + NEW.amount, configured = NEW.configured, calls = calls + {_ONE_SEEN}
        WHERE key = NEW.key AND {_ORDINARY}
        AND used + reserved < NEW.ceiling AND used + reserved + NEW.need <= NEW.ceiling;
    INSERT INTO holds (id, n, key, life, amount, charge, expires_at, about)
        SELECT NEW.id, 0, key, life, NEW.amount, NEW.charge, NEW.expires_at, NEW.about
        FROM counters WHERE key = NEW.key AND changes() = 1;
"""  # noqa: S608

_SETTLE = ("id", "key", "life", "tokens", "amount", "below")
_ROW = (
    "at", "label", "ending", "estimated", "input", "output", "cached", "written", "reasoning", "estimate",
    "ms",
)  # fmt: skip
_SETTLING = f"""
    UPDATE counters
        SET used = used + NEW.tokens, reserved = reserved - NEW.amount, calls = calls - {_ONE_SEEN}
        WHERE key = NEW.key AND life = NEW.life AND period = '' AND {_ORDINARY}
        AND used + NEW.tokens < NEW.below;
    SELECT RAISE(IGNORE) WHERE changes() <> 1;
    DELETE FROM holds WHERE id = NEW.id;
    SELECT RAISE(ROLLBACK, 'ended before') WHERE changes() <> 1;
"""  # noqa: S608
_ENTERING = f"""
    INSERT INTO calls (n, {", ".join(_ROW)})
        VALUES ({NEXT_N}, {", ".join(f"NEW.{column}" for column in _ROW)});
"""  # noqa: S608

_VIEWS = (
    ("reserving", _RESERVE, _RESERVING),
    ("settling", _SETTLE, _SETTLING),
    ("entering", _SETTLE + _ROW, _SETTLING + _ENTERING),
)
_NO_CEILING = 2**62
_LONG_AGO = -math.inf


def _insert(view: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {view} VALUES ({', '.join('?' * len(columns))})"  # noqa: S608


_INTO_RESERVING, _INTO_SETTLING, _INTO_ENTERING = (_insert(view, columns) for view, columns, _ in _VIEWS)


class StraightBooks(Books):
    """Books that go the straight way where they can."""

    def __init__(
        self, cursor: sqlite3.Cursor, store: str, clock: Callable[[], float], retention: Retention
    ) -> None:
        super().__init__(cursor, store, clock, retention)
        # By number: when a reservation was last not made the straight way. The next will hardly be either.
        self._strayed: dict[int, float] = {}
        self._seen = bytearray(_NUMBERS.size)
        cursor.connection.create_function("seen", 7, functools.partial(_NUMBERS.pack_into, self._seen, 0))
        for view, columns, body in _VIEWS:
            shown = ", ".join(f"NULL AS {column}" for column in columns)
            self.cursor.execute(f"CREATE TEMP VIEW {view} AS SELECT {shown}")
            self.cursor.execute(
                f"CREATE TEMP TRIGGER {view}_done INSTEAD OF INSERT ON {view} BEGIN {body} END"
            )

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = "") -> Grant:
        """As `Backend.reserve`; begins the transaction itself."""
        if len(holds) == 1:
            key, limit, share, need, amount, elastic, period, thresholds = holds[0]
            now = self._clock()
            number = self._numbers.get(key)
            label = self.ledger.known(about, now) if about else 0
            if (
                number is not None
                and label is not None
                and not elastic
                and period is None
                and id.isascii()
                and self._told.get(number, "") == thresholds
                and -1.0 < now - self._swept_at < 1.0
                and not -1.0 < now - self._strayed.get(number, _LONG_AGO) < 1.0
            ):
                ceiling = _NO_CEILING if share is None else share_floor(limit, share)
                row = (id, number, limit, amount, need, ceiling, charge, now + lease, label)
                self._seen[:] = _NOTHING
                try:
                    self.cursor.execute(_INTO_RESERVING, row)
                except sqlite3.IntegrityError:
                    self._seen[:] = _NOTHING  # this id has a hold already
                life, used, reserved, calls, expired, _, previous = _NUMBERS.unpack(self._seen)
                if life:
                    held = _new(Held, (key, f"{self._prefix}{life}", amount, None))
                    state = _new(BudgetState, (key, limit, used, reserved, calls, expired, None, previous, 0))
                    return _new(Grant, (_new(Reservation, (id, (held,), charge)), (state,), ()))
                if len(self._strayed) >= REMEMBERED:
                    self._strayed.clear()
                self._strayed[number] = now
        self.cursor.execute(WRITE)
        return super().reserve(id, holds, charge, lease, about)

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark], entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`; begins the transaction itself."""
        holds = reservation.holds
        if len(holds) == 1:
            key, epoch, amount, period = holds[0]
            prefix = self._prefix
            number = self._numbers.get(key)
            now = self._clock()
            if (
                number is not None
                and period is None
                and reservation.id.isascii()
                and epoch.startswith(prefix)
                and not -1.0 < now - self._strayed.get(number, _LONG_AGO) < 1.0
            ):
                life = int(epoch[len(prefix) :])
                below, limit = _NO_CEILING, 0
                for mark in marks:
                    if mark.key == key:
                        limit = mark.limit
                        if (number, life, mark.at_pct) not in self._passed:
                            below = min(below, share_ceil(limit, mark.at_pct))
                row = (reservation.id, number, life, tokens, amount, below)
                written = None if entry is None else self.ledger.row(entry, now)
                self._seen[:] = _NOTHING
                try:
                    if entry is None:
                        self.cursor.execute(_INTO_SETTLING, row)
                    elif written is not None:
                        self.cursor.execute(_INTO_ENTERING, row + written)
                except sqlite3.IntegrityError:
                    # It had ended already, or another process wrote into the ledger at this very moment.
                    self._seen[:] = _NOTHING
                life, used, reserved, calls, expired, configured, previous = _NUMBERS.unpack(self._seen)
                if life:
                    if written is not None:
                        self.ledger.wrote(written[0])
                    limit = limit or configured
                    used, reserved, calls = used + tokens, reserved - amount, calls - 1
                    state = _new(BudgetState, (key, limit, used, reserved, calls, expired, None, previous, 0))
                    return _new(Settlement, ((state,), ()))
        self.cursor.execute(WRITE)
        return super().settle(reservation, tokens, marks, entry)
