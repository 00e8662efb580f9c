"""The verbs of a SQLite store, each inside a transaction that the caller begins and ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Optional, Union

from .._entry import Entry, Retention
from ..budget import (
    BudgetKey,
    BudgetState,
    Grant,
    Held,
    Hold,
    Mark,
    Reservation,
    Settlement,
    share_ceil,
)
from ._rules import TOMBSTONE_SECONDS, admit
from ._sqlite_ledger import LedgerWriter

__all__ = ["Books"]

Text = Union[str, bytes]
Row = tuple[int, int, int, int, int, Optional[int], int]

_FIND = "SELECT key FROM counters WHERE dimension = ? AND identifier = ?"
_ADD = "INSERT INTO counters (dimension, identifier) VALUES (?, ?)"
_READ = "SELECT used, reserved, calls, expired, life, override, configured FROM counters WHERE key = ?"
_TAKE = "UPDATE counters SET reserved = reserved + ?, calls = calls + 1, configured = ? WHERE key = ?"
_GIVE = (
    "UPDATE counters SET used = used + ?, expired = expired + ?, reserved = reserved - ?, calls = calls - ?"
    " WHERE key = ?"
)
_RESET = "UPDATE counters SET used = 0, reserved = 0, calls = 0, expired = 0, life = life + 1 WHERE key = ?"
_OVERRIDE = "UPDATE counters SET override = ? WHERE key = ?"
_HOLD = (
    "INSERT INTO holds (id, n, key, life, amount, charge, expires_at, about) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_HELD = (
    "SELECT dimension, identifier, holds.life, amount, charge, expires_at"
    " FROM holds JOIN counters USING (key) WHERE id = ? ORDER BY n"
)
_DROP = "DELETE FROM holds WHERE id = ?"
_EXTEND = "UPDATE holds SET expires_at = ? WHERE id = ? AND expires_at > ?"
_ANY_DEAD = "SELECT 1 FROM holds WHERE expires_at <= ? LIMIT 1"
_DEAD = "SELECT id, key, life, amount, charge, about FROM holds WHERE expires_at <= ?"
_BURY = "DELETE FROM holds WHERE expires_at <= ?"
_TOMBSTONE = "INSERT OR REPLACE INTO ended (id, charge, at, entry) VALUES (?, ?, ?, ?)"
_CHARGED = "SELECT charge, entry FROM ended WHERE id = ?"
_FORGET = "DELETE FROM ended WHERE id = ?"
_PRUNE = "DELETE FROM ended WHERE at <= ?"
_BOOK_ONCE = "INSERT OR IGNORE INTO ended (id, charge, at) VALUES (?, NULL, ?)"
_MARK = "INSERT OR IGNORE INTO marks VALUES (?, ?, ?)"
_UNMARK = "DELETE FROM marks WHERE key = ?"

_NEW: Row = (0, 0, 0, 0, 1, None, 0)
_ENDED = Settlement(())
# Of keys, and of marks; about 2 MB each.
_REMEMBERED = 10_000


def _text(text: str) -> Text:
    """Return what stands for `text` in the file: lone surrogates have no UTF-8, so those are blobs."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-8", "surrogatepass")
    return text


def _string(text: Text) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "surrogatepass")


class Books:
    """One open file and what this process remembers about it. One thread at a time."""

    def __init__(
        self, cursor: sqlite3.Cursor, store: str, clock: Callable[[], float], retention: Retention
    ) -> None:
        self.cursor = cursor
        self.ledger = LedgerWriter(cursor, retention)
        self._prefix = f"{store}:"
        self._clock = clock
        self._swept_at = clock()
        # (number of the key, life, at_pct) known to be passed: saves asking the file at every settlement.
        self._passed: set[tuple[int, int, float]] = set()
        self._numbers: dict[BudgetKey, int] = {}

    def forget(self) -> None:
        """Drop what was remembered: it may come from a transaction that was rolled back."""
        self._passed.clear()
        self._numbers.clear()
        self.ledger.forget()

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = "") -> Grant:
        """As `Backend.reserve`."""
        now = self._clock()
        if not -1.0 < now - self._swept_at < 1.0:
            self._sweep(now)
        plain_id = _text(id)
        counters, states = self._read_all(holds)
        admission = admit(holds, states)
        if admission.short:
            again = self._again(plain_id, id, holds, now, lease)
            if again is not None:
                return again
            if self._sweep(now):
                counters, states = self._read_all(holds)
                admission = admit(holds, states)
            if admission.refused:
                return Grant(None, tuple(states), admission.refused)
        expires_at = now + lease
        execute = self.cursor.execute
        label = self.ledger.label(about, now) if about else 0
        held: list[Held] = []
        try:
            for hold, (number, life), amount in zip(holds, counters, admission.amounts):
                execute(_HOLD, (plain_id, len(held), number, life, amount, charge, expires_at, label))
                execute(_TAKE, (amount, hold.limit, number))
                held.append(Held(hold.key, f"{self._prefix}{life}", amount))
        except sqlite3.IntegrityError:
            # The first hold has its place already, and nothing else was written yet.
            again = self._again(plain_id, id, holds, now, lease)
            if again is not None:
                return again
            self._sweep(now)
            return self.reserve(id, holds, charge, lease, about)
        return Grant(Reservation(id, tuple(held), charge), tuple(states))

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark], entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`."""
        holds = reservation.holds
        plain_id = _text(reservation.id)
        execute = self.cursor.execute
        mine = not holds or holds[0].epoch.startswith(self._prefix)
        back, used, expired = 0, tokens, 0
        if not mine:
            if execute(_BOOK_ONCE, (plain_id, self._clock())).rowcount < 1:
                return _ENDED
        elif execute(_DROP, (plain_id,)).rowcount > 0:
            back = 1
        else:
            charged = execute(_CHARGED, (plain_id,)).fetchone()
            if charged is None or charged[0] is None:
                return _ENDED
            execute(_FORGET, (plain_id,))
            used, expired = tokens - charged[0], -charged[0]
            if charged[1] is not None:
                self.ledger.erase(charged[1])
        if entry is not None:
            self.ledger.write(entry, self._clock())
        numbers = self._numbers
        limits = {mark.key: mark.limit for mark in marks}
        states: list[BudgetState] = []
        touched: dict[BudgetKey, tuple[int, int, int, int | None]] = {}
        for key, epoch, amount in holds:
            number = numbers.get(key) or self._number(key)
            row: Row = execute(_READ, (number,)).fetchone()
            before_used, reserved, calls, before_expired, life, override, configured = row
            if not mine or epoch == f"{self._prefix}{life}":
                amount *= back
                execute(_GIVE, (used, expired, amount, back, number))
                before_used += used
                reserved -= amount
                calls -= back
                before_expired += expired
                touched[key] = (number, life, before_used, override)
            limit = override or limits.get(key, configured)
            states.append(BudgetState(key, limit, before_used, reserved, calls, before_expired))
        passed = []
        for mark in marks:
            counter = touched.get(mark.key)
            if counter is not None:
                number, life, reached, override = counter
                if reached >= share_ceil(override or mark.limit, mark.at_pct) and self._pass(
                    mark, number, life
                ):
                    passed.append(mark)
        return Settlement(tuple(states), tuple(passed))

    def renew(self, ids: Collection[str], lease: float) -> set[str]:
        """As `Backend.renew`."""
        now = self._clock()
        return {
            each for each in ids if self.cursor.execute(_EXTEND, (now + lease, _text(each), now)).rowcount < 1
        }

    def record(self, entries: Sequence[Entry]) -> None:
        """As `LedgerBackend.record`."""
        now = self._clock()
        for entry in entries:
            self.ledger.write(entry, now)

    def pass_marks(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        """As `Backend.pass_marks`."""
        return tuple([mark for mark in marks if self._pass_now(mark)])

    def states(self, keys: Sequence[tuple[BudgetKey, int]]) -> tuple[BudgetState, ...] | None:
        """Return the states without writing; None when there are dead reservations to charge first."""
        if self.cursor.execute(_ANY_DEAD, (self._clock(),)).fetchone() is not None:
            return None
        states = []
        for key, limit in keys:
            number = self._find(key)
            row = _NEW if number is None else self._row(number)
            states.append(_state(key, limit, row))
        return tuple(states)

    def sweep(self) -> None:
        """Charge the reservations whose owners died."""
        self._sweep(self._clock())

    def set_limit(self, key: BudgetKey, limit: int | None) -> None:
        """As `Backend.set_limit`."""
        self.cursor.execute(_OVERRIDE, (limit, self._number(key)))

    def reset(self, key: BudgetKey) -> None:
        """As `Backend.reset`: the holds of the old life stay behind and count for nothing."""
        number = (self._number(key),)
        self.cursor.execute(_RESET, number)
        self.cursor.execute(_UNMARK, number)

    def _find(self, key: BudgetKey) -> int | None:
        """Return the number of `key` in this file; None for a new one."""
        number = self._numbers.get(key)
        if number is None:
            row = self.cursor.execute(_FIND, (_text(key.dimension), _text(key.identifier))).fetchone()
            if row is not None:
                number = int(row[0])
                if len(self._numbers) >= _REMEMBERED:
                    self._numbers.clear()
                self._numbers[key] = number
        return number

    def _number(self, key: BudgetKey) -> int:
        """Return the number of `key` in this file, added if it is new."""
        number = self._find(key)
        if number is None:
            self.cursor.execute(_ADD, (_text(key.dimension), _text(key.identifier)))
            number = self._find(key)
            assert number is not None
        return number

    def _row(self, number: int) -> Row:
        row: Row = self.cursor.execute(_READ, (number,)).fetchone()
        return row

    def _read_all(self, holds: Iterable[Hold]) -> tuple[list[tuple[int, int]], list[BudgetState]]:
        """Return the number and the life of each key, and their states."""
        counters: list[tuple[int, int]] = []
        states: list[BudgetState] = []
        numbers = self._numbers
        execute = self.cursor.execute
        for hold in holds:
            key = hold.key
            number = numbers.get(key) or self._number(key)
            row: Row = execute(_READ, (number,)).fetchone()
            counters.append((number, row[4]))
            states.append(_state(key, hold.limit, row))
        return counters, states

    def _again(
        self, plain_id: Text, id: str, holds: Sequence[Hold], now: float, lease: float
    ) -> Grant | None:
        """Answer a reserve whose id is alive already; None when it is not."""
        rows = self.cursor.execute(_HELD, (plain_id,)).fetchall()
        if not rows or rows[0][5] <= now:
            return None
        self.cursor.execute(_EXTEND, (now + lease, plain_id, now))
        held = []
        own = {}
        for dimension, identifier, life, amount, _, _ in rows:
            key = BudgetKey(_string(dimension), _string(identifier))
            held.append(Held(key, f"{self._prefix}{life}", amount))
            own[key] = (life, amount)
        counters, states = self._read_all(holds)
        for n, ((_, life), state) in enumerate(zip(counters, states)):
            its_life, amount = own.get(state.key, (0, 0))
            if its_life == life:
                states[n] = state._replace(reserved=state.reserved - amount, calls=state.calls - 1)
        return Grant(Reservation(id, tuple(held), rows[0][4]), tuple(states))

    def _sweep(self, now: float) -> bool:
        """Charge the reservations whose owners died; return whether there were any."""
        self._swept_at = now
        dead = self.cursor.execute(_DEAD, (now,)).fetchall()
        if not dead:
            return False
        self.cursor.executemany(
            _GIVE + " AND life = ?",
            [(charge, charge, amount, 1, key, life) for _, key, life, amount, charge, _ in dead],
        )
        calls = {each: (charge, about) for each, _, _, _, charge, about in dead}
        self.cursor.executemany(
            _TOMBSTONE,
            [(each, left[0], now, self._note_expired(left, now)) for each, left in calls.items()],
        )
        self.cursor.execute(_BURY, (now,))
        self.cursor.execute(_PRUNE, (now - TOMBSTONE_SECONDS,))
        return True

    def _note_expired(self, left: tuple[int, int], now: float) -> int | None:
        charge, about = left
        text = self.ledger.text(about) if about else None
        return None if text is None else self.ledger.write(Entry.expired(text, charge), now)

    def _pass_now(self, mark: Mark) -> bool:
        number = self._number(mark.key)
        return self._pass(mark, number, self._row(number)[4])

    def _pass(self, mark: Mark, number: int, life: int) -> bool:
        known = (number, life, mark.at_pct)
        if known in self._passed:
            return False
        if len(self._passed) >= _REMEMBERED:
            self._passed.clear()
        self._passed.add(known)
        return self.cursor.execute(_MARK, known).rowcount > 0


def _state(key: BudgetKey, limit: int, row: Row) -> BudgetState:
    used, reserved, calls, expired, _, override, _ = row
    return BudgetState(key, override or limit, used, reserved, calls, expired)
