"""Turn a synchronous store into one for coroutines.

`InlineAsyncBackend` for a store that never waits, `ThreadedAsyncBackend` for one that may.
Neither needs anything of the store but the verbs of `Backend`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from .._flow import Ready, aside

if TYPE_CHECKING:
    from .._entry import Entry
    from ..budget import BudgetState, Grant, Hold, Mark, Reservation, Settlement
    from ._rules import Question
    from .protocol import Backend, LedgerBackend

__all__ = ["InlineAsyncBackend", "ThreadedAsyncBackend", "Threads"]

T = TypeVar("T")


class Threads:
    """A few private threads that finish what they are given, even when nobody waits any more.

    Private, because the loop's default executor may be full of the caller's own slow work.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    async def run(self, step: Callable[[], T]) -> T:
        """Perform `step` off the event loop; here and now where no loop is running."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return await aside(step)
        try:
            done = loop.run_in_executor(self._executor(), step)
        except RuntimeError:
            # The main thread has ended, and no thread begins anything new: this loop is one of the last.
            return step()
        # The shield leaves a started or queued step alone when the waiting task is cancelled.
        return await asyncio.shield(done)

    def close(self) -> None:
        """Let the threads end once they have done what they were given."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown(wait=False)

    def _executor(self) -> ThreadPoolExecutor:
        # A forked child inherits the pool but not its threads.
        if self._pool is None or self._pid != os.getpid():
            self._pool = ThreadPoolExecutor(self._size, thread_name_prefix="tokencap-store")
            self._pid = os.getpid()
        return self._pool


class ThreadedAsyncBackend:
    """Any `Backend` for coroutines: each verb runs in a thread. A cancelled step is still finished."""

    def __init__(self, backend: Backend, *, threads: int = 4) -> None:
        self._backend = backend
        self._threads = Threads(threads)

    async def reserve(
        self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = ""
    ) -> Grant:
        """As `Backend.reserve`."""
        more = (about,) if about else ()
        return await self._threads.run(partial(self._backend.reserve, id, holds, charge, lease, *more))

    async def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`."""
        more = () if entry is None else (entry,)
        return await self._threads.run(partial(self._backend.settle, reservation, tokens, marks, *more))

    async def record(self, entries: Sequence[Entry]) -> None:
        """As `LedgerBackend.record`."""
        await self._threads.run(partial(cast("LedgerBackend", self._backend).record, entries))

    async def pass_marks(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        """As `Backend.pass_marks`."""
        return await self._threads.run(partial(self._backend.pass_marks, marks))

    async def get_states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...]:
        """As `Backend.get_states`."""
        return await self._threads.run(partial(self._backend.get_states, keys))

    async def aclose(self) -> None:
        """Let the threads end; the store itself stays open."""
        self._threads.close()


class InlineAsyncBackend:
    """A `Backend` whose verbs never wait, for coroutines: each verb runs where it is asked for."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def reserve(
        self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = ""
    ) -> Ready[Grant]:
        """As `Backend.reserve`."""
        more = (about,) if about else ()
        return Ready(self._backend.reserve(id, holds, charge, lease, *more))

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Ready[Settlement]:
        """As `Backend.settle`."""
        more = () if entry is None else (entry,)
        return Ready(self._backend.settle(reservation, tokens, marks, *more))

    def record(self, entries: Sequence[Entry]) -> Ready[None]:
        """As `LedgerBackend.record`."""
        cast("LedgerBackend", self._backend).record(entries)
        return Ready(None)

    def pass_marks(self, marks: Sequence[Mark]) -> Ready[tuple[Mark, ...]]:
        """As `Backend.pass_marks`."""
        return Ready(self._backend.pass_marks(marks))

    def get_states(self, keys: Sequence[Question]) -> Ready[tuple[BudgetState, ...]]:
        """As `Backend.get_states`."""
        return Ready(self._backend.get_states(keys))

    async def aclose(self) -> None:
        """Nothing to release."""
