"""Budgets in a SQLite file, shared by every process on the machine.

Each verb is one transaction with one commit. Nobody waits for a lock of SQLite's with the
connection in hand: whoever finds the file locked lets go of everything and tries again.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .._audit import Change, Who
from .._entry import Entry, KnownBudget, Retention, Sum
from .._fork import ForkAware, survive_forks
from ..errors import BackendError, ConfigurationError
from ._rules import check_change, check_grant, check_holds, check_limit
from ._sqlite_async import AsyncSQLiteBackend, WouldWaitError
from ._sqlite_books import READ, WRITE, Books
from ._sqlite_file import FileBusyError, Opened, check_path, check_sqlite, checkpoint, is_busy, open_file, say
from ._sqlite_ledger import LedgerReader
from ._sqlite_schema import UnusableFileError
from ._sqlite_straight import StraightBooks

if TYPE_CHECKING:
    from typing import Literal

    from .._periods import Period
    from ..budget import BudgetKey, BudgetState, Grant, Hold, Mark, Reservation, Settlement
    from ._rules import Question

__all__ = ["SQLiteBackend"]

T = TypeVar("T")

# Others usually hold the lock for some 15 us and an attempt takes 4, so a few in a row mostly succeed.
# Sleeping after each would leave a process starving beside one that never pauses.
_ATTEMPTS_IN_A_ROW = 12
_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.002
_COMMITS_PER_CHECKPOINT = 2000


class SQLiteBackend(ForkAware):
    """Budgets in the SQLite file at `path`, made with mode 0600 when it is first needed.

    `synchronous="NORMAL"` survives a crash of any process and may lose the last moments when the
    machine itself goes down; `"FULL"` does not, at the price of a disk flush per step. `timeout`
    is how many seconds a step waits for other processes before it raises `BackendError`. `clock`
    returns seconds and must be the same for all processes on the file. `retention` says how much of
    the ledger is kept: 90 days and 5,000,000 calls, some 210 MB, if nothing is said.

    Raises ConfigurationError for arguments that cannot work.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "tokencap.db",
        *,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
        retention: Retention | None = None,
    ) -> None:
        check_sqlite()
        given = os.fspath(path)
        self._path = check_path(given)
        if synchronous not in ("NORMAL", "FULL"):
            raise ConfigurationError(f'synchronous is "NORMAL" or "FULL", not {synchronous!r}')
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise ConfigurationError(f"timeout is a positive number of seconds, not {timeout!r}")
        self.timeout = timeout
        self._name = f"sqlite:{given}"
        self._synchronous = synchronous
        self._clock = clock
        self._retention = retention or Retention()
        self._reader = LedgerReader(self, self._path)
        self._lock = threading.RLock()
        self._inside = False
        self._commits = 0
        self._opened: Opened | None = None
        self._device = self._inode = 0
        self._books: StraightBooks | None = None
        # Connections of a parent process: closing one here would disturb the file it still uses.
        self._abandoned: list[Opened] = []
        self._async: AsyncSQLiteBackend | None = None
        survive_forks(self)

    @property
    def name(self) -> str:
        """The path as it was given: `sqlite:tokencap.db`."""
        return self._name

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = "") -> Grant:
        """As `Backend.reserve`; raises ValueError when a key appears twice."""
        check_holds(holds)
        return self.perform(StraightBooks.reserve, id, holds, charge, lease, about, begin="")

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`."""
        return self.perform(StraightBooks.settle, reservation, tokens, marks, entry, begin="")

    def renew(self, ids: Collection[str], lease: float) -> set[str]:
        """As `Backend.renew`."""
        return self.perform(Books.renew, ids, lease)

    def pass_marks(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        """As `Backend.pass_marks`."""
        return self.perform(Books.pass_marks, marks)

    def get_states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...]:
        """As `Backend.get_states`."""
        while True:
            states = self.perform(Books.states, keys, begin=READ)
            if states is not None:
                return states
            self.perform(Books.tidy, keys)

    def set_limit(self, key: BudgetKey, limit: int | None) -> None:
        """As `Backend.set_limit`; raises ConfigurationError for a limit below 1 token."""
        check_limit(limit)
        self.perform(Books.set_limit, key, limit)

    def grant(self, key: BudgetKey, tokens: int, period: Period | None = None) -> None:
        """As `Backend.grant`."""
        check_grant(tokens)
        self.perform(Books.grant, key, tokens, period)

    def reset(self, key: BudgetKey) -> None:
        """As `Backend.reset`."""
        self.perform(Books.reset, key)

    def record(self, entries: Sequence[Entry]) -> None:
        """As `LedgerBackend.record`."""
        self.perform(Books.record, entries)

    def now(self) -> float:
        """As `LedgerBackend.now`."""
        return self._clock()

    def sums(self, since: float, until: float, period: int = 0) -> Sequence[Sum]:
        """As `LedgerBackend.sums`."""
        return self._reader.sums(since, until, period)

    def calls(self, since: float, until: float, newest_first: bool = False) -> Iterator[tuple[float, Entry]]:
        """As `LedgerBackend.calls`."""
        return self._reader.calls(since, until, newest_first)

    def budgets(self) -> Sequence[KnownBudget]:
        """As `LedgerBackend.budgets`."""
        return self._reader.budgets()

    def change(
        self, key: BudgetKey, action: str, tokens: int | None, who: Who, period: Period | None = None
    ) -> Change:
        """As `LedgerBackend.change`."""
        check_change(action, tokens)
        return self.perform(Books.change, key, action, tokens, who, period)

    def changes(self) -> Sequence[Change]:
        """As `LedgerBackend.changes`; 10,000 are kept."""
        return self._reader.changes()

    def as_async(self) -> AsyncSQLiteBackend:
        """Return this store for coroutines: a step that would wait leaves the event loop."""
        if self._async is None:
            self._async = AsyncSQLiteBackend(self)
        return self._async

    def close(self) -> None:
        """Close the file; it is opened again when it is next used."""
        with self._lock:
            if self._opened is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._opened.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._close()

    def before_fork(self) -> None:
        """See `_fork`. SQLite's locks belong to a process, so a child must not inherit any."""
        self._lock.acquire()
        self._close()

    def after_fork_in_parent(self) -> None:
        """See `_fork`."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """See `_fork`."""
        self._lock = threading.RLock()
        self._inside = False
        if self._opened is not None:
            self._abandoned.append(self._opened)
            self._opened = self._books = None

    def perform(
        self,
        body: Callable[..., T],
        *args: Any,
        begin: str = WRITE,
        patient: bool = True,
        deadline: float = 0.0,
    ) -> T:
        """Run `body(books, *args)` in a transaction, within `timeout` or by `deadline` (monotonic).

        Where `begin` is empty, `body` begins one itself, or needs none.
        """
        attempts = 0
        while True:
            if not patient and (self._inside or self._books is None or self._synchronous == "FULL"):
                raise WouldWaitError
            try:
                # Nothing but `with` takes a lock so that an interrupt cannot leave it taken; and nobody is
                # inside who would have to be waited for.
                with self._lock:
                    if self._inside:
                        # A finalizer, run by a garbage collection in the middle of another verb.
                        raise BackendError(
                            f"{self._name} is in use by this very thread, try again in a moment"
                        )
                    self._inside = True
                    try:
                        books = self._books
                        if books is None or not self._still_there():
                            books = self._open()
                        if begin:
                            books.cursor.execute(begin)
                        result = body(books, *args)
                        if books.connection.in_transaction:
                            books.cursor.execute("COMMIT")
                    except BaseException as error:
                        self._undo(error)
                        raise
                    finally:
                        self._inside = False
            except (sqlite3.Error, OSError, FileBusyError, UnusableFileError) as error:
                attempts += 1
                deadline = deadline or time.monotonic() + self.timeout
                self._wait_after(error, attempts, deadline, patient)
                continue
            self._commits += 1
            if self._commits >= _COMMITS_PER_CHECKPOINT:
                self._commits = 0
                self._shorten_log()
            return result

    def _wait_after(self, error: Exception, attempts: int, deadline: float, patient: bool) -> None:
        """Return when it is time for another attempt, or say why there is none."""
        if not is_busy(error):
            if attempts == 1 and isinstance(error, sqlite3.Error) and not self._still_there():
                # Deleted or replaced between our look at the path and the statement that failed.
                return
            raise BackendError(f"{self._name} {say(error)}") from error
        rounds, rest = divmod(attempts, _ATTEMPTS_IN_A_ROW)
        if rest:
            return
        if not patient:
            raise WouldWaitError
        left = deadline - time.monotonic()
        if left <= 0:
            raise BackendError(
                f"{self._name} was kept locked by another process for more than {self.timeout:g} s"
            ) from error
        time.sleep(min(_FIRST_PAUSE * 2 ** min(rounds, 10), _LONGEST_PAUSE, left))

    def _still_there(self) -> bool:
        """Tell whether the path still leads to the open file: about a microsecond."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return found.st_ino == self._inode and found.st_dev == self._device

    def _open(self) -> StraightBooks:
        """Open what is at the path now, if it is not what is open."""
        old = self._opened
        opened = open_file(self._path, self._synchronous, old.wal if old else None)
        if old:
            # Only now: while it is open, its inodes cannot be given to a new file.
            old.close()
        self._opened = opened
        self._device, self._inode = opened.identity
        self._books = StraightBooks(opened.cursor, opened.store, self._clock, self._retention)
        return self._books

    def _shorten_log(self) -> None:
        """Move the log into the file: a flush to disk, some milliseconds, once in a thousand calls.

        Done by hand, because SQLite's own way is a flush at every commit as soon as several
        processes write without a pause.
        """
        with self._lock:
            if self._inside or self._opened is None:
                return
            self._inside = True
            try:
                checkpoint(self._opened.connection, self._path)
            except (sqlite3.Error, OSError):
                # What was asked for is committed; whatever is wrong with the file, the next verb says it.
                pass
            finally:
                self._inside = False

    def _undo(self, error: BaseException) -> None:
        """Leave no transaction open. After a real failure start from the file again."""
        if self._opened is None or self._books is None:
            return
        if is_busy(error) and not self._opened.connection.in_transaction:
            return
        self._books.forget()
        try:
            if self._opened.connection.in_transaction:
                self._books.cursor.execute("ROLLBACK")
        except sqlite3.Error:
            self._close()
        else:
            if isinstance(error, sqlite3.Error) and not is_busy(error):
                self._close()

    def _close(self) -> None:
        opened, self._opened, self._books = self._opened, None, None
        if opened is not None:
            opened.close()
