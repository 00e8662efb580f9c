"""A SQLite store for coroutines."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .._flow import Ready
from ._rules import check_holds
from ._sqlite_books import READ, WRITE, Books
from ._sqlite_straight import StraightBooks
from .aio import Threads

if TYPE_CHECKING:
    from .._entry import Entry
    from ..budget import BudgetState, Grant, Hold, Mark, Reservation, Settlement
    from ._rules import Question
    from .sqlite import SQLiteBackend

__all__ = ["AsyncSQLiteBackend", "WouldWaitError"]

T = TypeVar("T")


class WouldWaitError(Exception):
    """The step cannot be done at once."""


class AsyncSQLiteBackend:
    """A SQLite store for coroutines.

    A step takes tens of microseconds, less than a change of threads, so it runs in place unless
    it would have to wait for another thread or process.
    """

    def __init__(self, backend: SQLiteBackend) -> None:
        self._backend = backend
        self._threads = Threads(2)

    def reserve(
        self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = ""
    ) -> Awaitable[Grant]:
        """As `Backend.reserve`."""
        check_holds(holds)
        return self._perform(StraightBooks.reserve, id, holds, charge, lease, about, begin="")

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Awaitable[Settlement]:
        """As `Backend.settle`."""
        return self._perform(StraightBooks.settle, reservation, tokens, marks, entry, begin="")

    def record(self, entries: Sequence[Entry]) -> Awaitable[None]:
        """As `LedgerBackend.record`."""
        return self._perform(Books.record, entries)

    def pass_marks(self, marks: Sequence[Mark]) -> Awaitable[tuple[Mark, ...]]:
        """As `Backend.pass_marks`."""
        return self._perform(Books.pass_marks, marks)

    async def get_states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...]:
        """As `Backend.get_states`."""
        while True:
            states = await self._perform(Books.states, keys, begin=READ)
            if states is not None:
                return states
            await self._perform(Books.tidy, keys)

    async def aclose(self) -> None:
        """Let the threads end; the file stays open for the others in this process."""
        self._threads.close()

    def _perform(self, body: Callable[..., T], *args: Any, begin: str = WRITE) -> Awaitable[T]:
        backend = self._backend
        try:
            return Ready(backend.perform(body, *args, begin=begin, patient=False))
        except WouldWaitError:
            # The time in the queue counts: many steps behind a locked file all fail in time.
            deadline = time.monotonic() + backend.timeout
        return self._threads.run(
            functools.partial(backend.perform, body, *args, begin=begin, deadline=deadline)
        )
