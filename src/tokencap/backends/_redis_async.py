"""The verbs of `RedisBackend` for coroutines: a client for each event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._flow import aside
from ..errors import BackendError
from . import _redis_topology as topology
from ._redis_cluster import AsyncClusterLink
from ._redis_pump import AsyncLine
from ._redis_scripts import Call, Flow, Verbs
from ._redis_wire import AsyncLink, AsyncThrough, within

if TYPE_CHECKING:
    from .._entry import Entry
    from ..budget import BudgetState, Grant, Hold, Mark, Reservation, Settlement
    from ._rules import Question
    from .protocol import LedgerBackend

__all__ = ["AsyncRedisBackend"]

T = TypeVar("T")

# Verbs of one event loop under way at a time; more would only queue in the server.
_WIDTH = 64


class _Loop:
    """What one event loop has: its connections, whose turn it is to use them, and who closes them."""

    def __init__(self, link: AsyncLink) -> None:
        self.link = link
        self.turns = asyncio.Semaphore(_WIDTH)
        self.silent_at = 0.0
        """When a verb was last given up for want of an answer, by `time.monotonic`."""
        self.ending: AsyncGenerator[None, None] | None = None


class AsyncRedisBackend:
    """See `RedisBackend.as_async`."""

    def __init__(
        self,
        backend: LedgerBackend,
        verbs: Verbs,
        where: topology.Topology,
        factory: Callable[[], Any] | None,
        timeout: float,
    ) -> None:
        self._backend = backend
        self._verbs = verbs
        self._topology = where
        self._factory = factory
        self._timeout = timeout
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def reserve(
        self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = ""
    ) -> Grant:
        """As `Backend.reserve`; raises ValueError when a key appears twice."""
        loop = _running_loop()
        if loop is None:
            return await aside(lambda: self._backend.reserve(id, holds, charge, lease, about))
        return await self._run(loop, self._verbs.reserve(id, holds, charge, lease, about))

    async def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`."""
        loop = _running_loop()
        if loop is None:
            return await aside(lambda: self._backend.settle(reservation, tokens, marks, entry))
        return await self._run(loop, self._verbs.settle(reservation, tokens, marks, entry))

    async def record(self, entries: Sequence[Entry]) -> None:
        """As `LedgerBackend.record`."""
        loop = _running_loop()
        if loop is None:
            return await aside(lambda: self._backend.record(entries))
        return await self._run(loop, self._verbs.record(entries))

    async def pass_marks(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        """As `Backend.pass_marks`."""
        loop = _running_loop()
        if loop is None:
            return await aside(lambda: self._backend.pass_marks(marks))
        return await self._run(loop, self._verbs.pass_marks(marks))

    async def get_states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...]:
        """As `Backend.get_states`."""
        loop = _running_loop()
        if loop is None:
            return await aside(lambda: self._backend.get_states(keys))
        return await self._run(loop, self._verbs.get_states(keys))

    async def aclose(self) -> None:
        """Release the connections of this event loop."""
        loop = _running_loop()
        entry = self._loops.pop(loop, None) if loop is not None else None
        if entry is not None and entry.ending is not None:
            await entry.ending.aclose()

    def close(self) -> None:
        """Let every running loop release its connections when it comes to it; a resting one keeps them."""
        for loop, entry in list(self._loops.items()):
            if loop.is_running():
                self._loops.pop(loop, None)
                loop.call_soon_threadsafe(self._start_closing, loop, entry)

    def _start_closing(self, loop: asyncio.AbstractEventLoop, entry: _Loop) -> None:
        task = loop.create_task(entry.link.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _run(self, loop: asyncio.AbstractEventLoop, flow: Flow[T]) -> T:
        entry = self._loops.get(loop) or await self._open(loop)
        came = time.monotonic()
        # Waiting for the turn does not count: a long queue, or a loop that is busy, is no silent store.
        async with entry.turns:
            if entry.silent_at > came:
                raise self._no_answer()  # for those in front, so for those behind them, too
            try:
                async with within(self._timeout):
                    result = await self._perform(entry, flow)
                    if self._verbs.doubtful:
                        with suppress(BackendError):
                            await self._perform(entry, self._verbs.dispel())
                    return result
            except asyncio.TimeoutError as error:
                entry.silent_at = time.monotonic()
                raise self._no_answer() from error

    def _no_answer(self) -> BackendError:
        return BackendError(f"{self._topology.name}: no answer in {self._timeout:g} seconds")

    async def _perform(self, entry: _Loop, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    answer = await self._call(entry, call)
                except BaseException as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _call(self, entry: _Loop, call: Call) -> bytes:
        """Run one script, a second time where the first found that the connection had gone stale."""
        try:
            try:
                return await entry.link.run(call)
            except Exception as error:
                if not topology.stale(error) or not await entry.link.refresh():
                    raise
            return await entry.link.run(call)
        except topology.failures() as error:
            raise topology.translated(self._topology.name, error) from error

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        for other in list(self._loops):
            if other.is_closed():
                self._loops.pop(other, None)
        entry = _Loop(self._connect())
        self._loops[loop] = entry
        # `asyncio.run` finishes the loop's async generators before it closes the loop: the one moment at
        # which connections that nobody closed can still be closed in order.
        entry.ending = self._until_the_end(loop, entry)
        await entry.ending.__anext__()
        return entry

    def _connect(self) -> AsyncLink:
        if self._factory is not None:
            return AsyncThrough(self._factory())
        where = self._topology
        if where.clustered:
            patience = self._timeout / topology.CLUSTER_SHARE
            return AsyncClusterLink(where.nodes, partial(where.async_pool, self._timeout), patience)
        return AsyncLine(where.async_pool(self._timeout))

    async def _until_the_end(
        self, loop: asyncio.AbstractEventLoop, entry: _Loop
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self._loops.get(loop) is entry:
                del self._loops[loop]
            await entry.link.aclose()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
