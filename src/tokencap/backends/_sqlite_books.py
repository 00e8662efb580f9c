"""The verbs of a SQLite store, each inside a transaction that the caller begins and ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Union

from .._audit import GRANT, LIMIT, Change, Who
from .._entry import Entry, Retention
from .._periods import Period, Rolling
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
from ._rules import PRUNE_SECONDS, TOMBSTONE_SECONDS, Question, admit, in_force, in_full, resets_at, turn
from ._sqlite_changes import note
from ._sqlite_ledger import LedgerWriter
from ._sqlite_windows import READ_COUNTER, Row, Windows

__all__ = ["READ", "REMEMBERED", "WRITE", "Books"]

Text = Union[str, bytes]

WRITE = "BEGIN IMMEDIATE"
READ = "BEGIN"

_FIND = "SELECT key FROM counters WHERE dimension = ? AND identifier = ?"
_ADD = "INSERT INTO counters (dimension, identifier) VALUES (?, ?)"
_TAKE = "UPDATE counters SET reserved = reserved + ?, calls = calls + 1, configured = ? WHERE key = ?"
_GIVE = (
    "UPDATE counters SET used = used + ?, expired = expired + ?, reserved = reserved - ?, calls = calls - ?"
    " WHERE key = ?"
)
_RESET = (
    "UPDATE counters SET used = 0, reserved = 0, calls = 0, expired = 0, life = life + 1, last_life = 0,"
    " previous = 0, granted = 0 WHERE key = ?"
)
_GRANT = "UPDATE counters SET granted = granted + ? WHERE key = ?"
_OVERRIDE = "UPDATE counters SET override = ? WHERE key = ?"
_CONFIGURE = "UPDATE counters SET configured = ? WHERE key = ? AND configured <> ?"
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
_CHARGED = "SELECT charge, entry, at FROM ended WHERE id = ?"
_FORGET = "DELETE FROM ended WHERE id = ?"
_PRUNE = "DELETE FROM ended WHERE at <= ?"
_BOOK_ONCE = "INSERT OR IGNORE INTO ended (id, charge, at) VALUES (?, NULL, ?)"
_TELL = "INSERT OR REPLACE INTO thresholds VALUES (?, ?)"
_MARK = "INSERT OR IGNORE INTO marks VALUES (?, ?, ?)"
_UNMARK = "DELETE FROM marks WHERE key = ?"

_NEW: Row = (0, 0, 0, 0, 1, None, 0, "", 0, 0, 0, 0)
_ENDED = Settlement(())
# Of keys, and of marks; about 2 MB each.
REMEMBERED = 10_000


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
        self.connection = cursor.connection
        self.ledger = LedgerWriter(cursor, retention)
        self._prefix = f"{store}:"
        self._clock = clock
        self._swept_at = clock()
        self._pruned_at = 0.0
        self._windows = Windows(cursor)
        # (number of the key, life, at_pct) known to be passed: saves asking the file at every settlement.
        self._passed: set[tuple[int, int, float]] = set()
        self._numbers: dict[BudgetKey, int] = {}
        # By number: the thresholds that this process has left in the file.
        self._told: dict[int, str] = {}

    def forget(self) -> None:
        """Drop what was remembered: it may come from a transaction that was rolled back."""
        self._passed.clear()
        self._numbers.clear()
        self._told.clear()
        self.ledger.forget()

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = "") -> Grant:
        """As `Backend.reserve`."""
        now = self._clock()
        if not -1.0 < now - self._swept_at < 1.0:
            self._sweep(now)
        plain_id = _text(id)
        counters, states = self._read_all(holds, now)
        admission = admit(holds, states)
        if admission.short:
            again = self._again(plain_id, id, holds, now, lease)
            if again is not None:
                return again
            if self._sweep(now):
                counters, states = self._read_all(holds, now)
                admission = admit(holds, states)
            if admission.refused:
                for hold, (number, _) in zip(holds, counters):
                    self.cursor.execute(_CONFIGURE, (hold.limit, number, hold.limit))
                    self._tell(number, hold.thresholds)
                return Grant(None, tuple(states), admission.refused)
        expires_at = now + lease
        execute = self.cursor.execute
        label = self.ledger.label(about, now) if about else 0
        held: list[Held] = []
        try:
            for hold, (number, life), amount in zip(holds, counters, admission.amounts):
                execute(_HOLD, (plain_id, len(held), number, life, amount, charge, expires_at, label))
                execute(_TAKE, (amount, hold.limit, number))
                self._tell(number, hold.thresholds)
                held.append(Held(hold.key, f"{self._prefix}{life}", amount, hold.period))
        except sqlite3.IntegrityError:
            # The first hold has its place already, and nothing else was written yet.
            again = self._again(plain_id, id, holds, now, lease)
            if again is not None:
                return again
            self._sweep(now)
            return Books.reserve(self, id, holds, charge, lease, about)
        return Grant(Reservation(id, tuple(held), charge), tuple(states))

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark], entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`."""
        holds = reservation.holds
        plain_id = _text(reservation.id)
        execute = self.cursor.execute
        mine = not holds or holds[0].epoch.startswith(self._prefix)
        now = self._clock()
        back, used, expired, charged_at = 0, tokens, 0, now
        if not mine:
            self._prune(now)
            if execute(_BOOK_ONCE, (plain_id, now)).rowcount < 1:
                return _ENDED
            alive = self._held(plain_id, holds)[0]
            holds, mine = alive or holds, bool(alive)
        if not mine:
            pass
        elif execute(_DROP, (plain_id,)).rowcount > 0:
            back = 1
        else:
            charged = execute(_CHARGED, (plain_id,)).fetchone()
            if charged is None or charged[0] is None:
                return _ENDED
            execute(_FORGET, (plain_id,))
            used, expired, charged_at = tokens - charged[0], -charged[0], charged[2]
            if charged[1] is not None:
                self.ledger.erase(charged[1])
        if entry is not None:
            self.ledger.write(entry, now)
        numbers, prefix = self._numbers, self._prefix
        limits = {mark.key: mark.limit for mark in marks}
        states: list[BudgetState] = []
        touched: dict[BudgetKey, tuple[int, Row]] = {}
        for key, epoch, amount, period in holds:
            number = numbers.get(key) or self._number(key)
            row: Row = execute(READ_COUNTER, (number,)).fetchone()
            if period is not None:
                row = self._windows.turn(number, row, period, now)
            life = row[4]
            if not mine or epoch == f"{prefix}{life}":
                give = (used, expired)
                if isinstance(period, Rolling):
                    give = self._spend_rolling(number, period, tokens, -expired, charged_at, now)
                amount *= back
                execute(_GIVE, (*give, amount, back, number))
                row = (row[0] + give[0], row[1] - amount, row[2] - back, row[3] + give[1], *row[4:])
                touched[key] = (number, row)
            elif row[9] and epoch == f"{prefix}{row[9]}":
                self._windows.late(number, row[9], used)
                row = (*row[:10], row[10] + used, row[11])
            states.append(_state(key, limits.get(key, row[6]), row, period))
        passed = []
        for mark in marks:
            counter = touched.get(mark.key)
            if counter is not None:
                number, row = counter
                limit = in_force(row[5] or mark.limit, row[11])
                if row[0] >= share_ceil(limit, mark.at_pct) and self._pass(mark, number, row):
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

    def states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...] | None:
        """Return the states without writing; None when `tidy` has something to do first."""
        now = self._clock()
        if self.cursor.execute(_ANY_DEAD, (now,)).fetchone() is not None:
            return None
        states = []
        for key, limit, period in map(in_full, keys):
            number = self._find(key)
            row = _NEW if number is None else self._row(number)
            if period is not None:
                if number is None:
                    row = (*_NEW[:8], turn(period, "", 0, now).window, *_NEW[9:])
                elif self._windows.due(row, period, now):
                    return None
            states.append(_state(key, limit, row, period))
        return tuple(states)

    def tidy(self, keys: Sequence[Question]) -> None:
        """Charge the reservations whose owners died, and bring these counters into their windows."""
        now = self._clock()
        self._sweep(now)
        for key, _, period in map(in_full, keys):
            number = self._find(key)
            if number is not None and period is not None:
                self._windows.turn(number, self._row(number), period, now)

    def set_limit(self, key: BudgetKey, limit: int | None) -> None:
        """As `Backend.set_limit`."""
        self.cursor.execute(_OVERRIDE, (limit, self._number(key)))

    def grant(self, key: BudgetKey, tokens: int, period: Period | None) -> None:
        """As `Backend.grant`."""
        number, now = self._number(key), self._clock()
        if period is not None:
            self._windows.turn(number, self._row(number), period, now)
        if isinstance(period, Rolling):
            self._windows.spend(number, period, now, 0, tokens)
        self.cursor.execute(_GRANT, (tokens, number))

    def reset(self, key: BudgetKey) -> None:
        """As `Backend.reset`: the holds of the old life stay behind and count for nothing."""
        number = self._number(key)
        self.cursor.execute(_RESET, (number,))
        self.cursor.execute(_UNMARK, (number,))
        self._windows.empty(number)

    def change(
        self, key: BudgetKey, action: str, tokens: int | None, who: Who, period: Period | None
    ) -> Change:
        """As `LedgerBackend.change`."""
        number, now = self._number(key), self._clock()
        row = self._row(number)
        if period is not None:
            row = self._windows.turn(number, row, period, now)
        before = _state(key, row[6], row, period)
        if action == LIMIT:
            self.set_limit(key, tokens)
        elif action == GRANT:
            self.grant(key, tokens or 0, period)
        else:
            self.reset(key)
        after = _state(key, row[6], self._row(number), period)
        counts = (before.limit, after.limit, before.used, after.used)
        change = Change(now, key, action, tokens, who, *counts)
        note(self.cursor, number, change, _text)
        return change

    def _find(self, key: BudgetKey) -> int | None:
        """Return the number of `key` in this file; None for a new one."""
        number = self._numbers.get(key)
        if number is None:
            row = self.cursor.execute(_FIND, (_text(key.dimension), _text(key.identifier))).fetchone()
            if row is not None:
                number = int(row[0])
                if len(self._numbers) >= REMEMBERED:
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

    def _tell(self, number: int, thresholds: str) -> None:
        """Leave in the file, for whoever looks at it, what is ahead of a budget."""
        if self._told.get(number, "") != thresholds:
            if len(self._told) >= REMEMBERED:
                self._told.clear()
            self.cursor.execute(_TELL, (number, thresholds))
            self._told[number] = thresholds

    def _row(self, number: int) -> Row:
        row: Row = self.cursor.execute(READ_COUNTER, (number,)).fetchone()
        return row

    def _read_all(self, holds: Iterable[Hold], now: float) -> tuple[list[tuple[int, int]], list[BudgetState]]:
        """Return the number and the life of each key, and their states."""
        counters: list[tuple[int, int]] = []
        states: list[BudgetState] = []
        numbers = self._numbers
        execute = self.cursor.execute
        for hold in holds:
            key = hold.key
            number = numbers.get(key) or self._number(key)
            row: Row = execute(READ_COUNTER, (number,)).fetchone()
            period = hold.period
            if period is not None:
                row = self._windows.turn(number, row, period, now)
            counters.append((number, row[4]))
            states.append(_state(key, hold.limit, row, period))
        return counters, states

    def _spend_rolling(
        self, number: int, period: Rolling, tokens: int, charge: int, charged_at: float, now: float
    ) -> tuple[int, int]:
        """Return what to add to `used` and to `expired` in place of a charge, if that is still counted."""
        self._windows.spend(number, period, now, tokens)
        if charge and self._windows.take_back(number, period, charge, charged_at):
            return tokens - charge, -charge
        return tokens, 0

    def _again(
        self, plain_id: Text, id: str, holds: Sequence[Hold], now: float, lease: float
    ) -> Grant | None:
        """Answer a reserve whose id is alive already; None when it is not."""
        held, charge, expires_at = self._held(plain_id, holds)
        if expires_at <= now:
            return None
        self.cursor.execute(_EXTEND, (now + lease, plain_id, now))
        own = {(one.key, one.epoch): one.amount for one in held}
        counters, states = self._read_all(holds, now)
        for n, ((_, life), state) in enumerate(zip(counters, states)):
            amount = own.get((state.key, f"{self._prefix}{life}"))
            if amount is not None:
                states[n] = state._replace(reserved=state.reserved - amount, calls=state.calls - 1)
        return Grant(Reservation(id, held, charge), tuple(states))

    def _held(self, plain_id: Text, asked: Iterable[Hold | Held]) -> tuple[tuple[Held, ...], int, float]:
        """Return what an id holds, what its expiry is charged, and when it expires; nothing, 0 and 0."""
        rows = self.cursor.execute(_HELD, (plain_id,)).fetchall()
        periods = {one.key: one.period for one in asked}
        held = []
        for dimension, identifier, life, amount, _, _ in rows:
            key = BudgetKey(_string(dimension), _string(identifier))
            held.append(Held(key, f"{self._prefix}{life}", amount, periods.get(key)))
        return (tuple(held), *rows[0][4:]) if rows else ((), 0, 0.0)

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
        for _, key, life, _, charge, _ in dead:
            self._windows.late(key, life, charge)
            self._windows.charged(key, life, now, charge)
        self.cursor.execute(_BURY, (now,))
        self._prune(now)
        return True

    def _prune(self, now: float) -> None:
        if not -PRUNE_SECONDS < now - self._pruned_at < PRUNE_SECONDS:
            self._pruned_at = now
            self.cursor.execute(_PRUNE, (now - TOMBSTONE_SECONDS,))

    def _note_expired(self, left: tuple[int, int], now: float) -> int | None:
        charge, about = left
        text = self.ledger.text(about) if about else None
        return None if text is None else self.ledger.write(Entry.expired(text, charge), now)

    def _pass_now(self, mark: Mark) -> bool:
        number = self._number(mark.key)
        return self._pass(mark, number, self._row(number))

    def _pass(self, mark: Mark, number: int, row: Row) -> bool:
        known = (number, row[4], mark.at_pct)
        if row[7].startswith("rolling"):
            # Another process may have found that it can be passed again.
            return self.cursor.execute(_MARK, known).rowcount > 0
        if known in self._passed:
            return False
        if len(self._passed) >= REMEMBERED:
            self._passed.clear()
        self._passed.add(known)
        return self.cursor.execute(_MARK, known).rowcount > 0


def _state(key: BudgetKey, limit: int, row: Row, period: Period | None) -> BudgetState:
    used, reserved, calls, expired, _, override, _, _, window, _, previous, granted = row
    limit = override or limit
    if granted:
        limit = in_force(limit, granted)
    end = None if period is None else resets_at(period, window)
    return BudgetState(key, limit, used, reserved, calls, expired, end, previous, granted)
