"""One connection to a server for all coroutines of an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from ._redis_scripts import Call
from ._redis_wire import errors, pack, sentinels, spell

__all__ = ["AsyncLine"]


class _Asked(NamedTuple):
    """What one coroutine asked of an `AsyncLine`."""

    commands: list[bytes]
    answer: asyncio.Future[Any]
    """Of the last command."""


class AsyncLine:
    """An `AsyncLink` on one connection of a redis-py pool, with many commands under way at a time.

    What is asked while answers are awaited goes out together, so a crowd pays for a few trips and not
    for one each.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._answered, self._unknown_script = errors()
        self._connection: Any = None
        self._unsent: list[_Asked] = []
        self._sent: deque[_Asked] = deque()
        self._pumping: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, call: Call, *, asking: bool = False) -> bytes:
        """As `Line.run`."""
        try:
            answer: bytes = await self._ask(spell(call, "EVALSHA", asking))
        except self._unknown_script:
            answer = await self._ask(spell(call, "EVAL", asking))
        return answer

    async def slots(self) -> Any:
        """As `Line.slots`."""
        return await self._ask([pack(("CLUSTER", "SLOTS"))])

    async def refresh(self) -> bool:
        """As `Line.refresh`."""
        if not self._in_use():
            await self._disconnect()
        return True

    async def aclose(self) -> None:
        """As `Line.close`. A connection in use is closed once what was asked of it is answered."""
        self._closed = True
        await self.refresh()
        for sentinel in sentinels(self._pool):
            await sentinel.connection_pool.disconnect()

    async def _ask(self, commands: list[bytes]) -> Any:
        asked = _Asked(commands, asyncio.get_running_loop().create_future())
        self._unsent.append(asked)
        if not self._in_use():
            self._pumping = asyncio.ensure_future(self._pump())
        try:
            return await asked.answer
        except asyncio.CancelledError:
            # Given up for want of an answer; so the others had better try another connection.
            if self._pumping is not None:
                self._pumping.cancel()
            raise

    def _in_use(self) -> bool:
        # A task that is cancelled before it begins has no chance to say that it ended.
        return self._pumping is not None and not self._pumping.done()

    async def _pump(self) -> None:
        """Send what is asked and hand out the answers, until there is nothing left to do."""
        try:
            while self._unsent or self._sent:
                if self._connection is None:
                    self._connection = self._pool.make_connection()
                    await self._connection.connect()
                if self._unsent:
                    # What was given up meanwhile is not begun.
                    asked = [one for one in self._unsent if not one.answer.done()]
                    self._unsent.clear()
                    self._sent.extend(asked)
                    commands = [command for one in asked for command in one.commands]
                    await self._connection.send_packed_command(commands, check_health=False)
                if self._sent:
                    await self._hand_out()
            self._pumping = None
            if self._closed:
                await self._disconnect()
        except BaseException as error:
            # First, so that nobody who gives up now interrupts what follows.
            self._pumping = None
            self._fail(error)
            await self._disconnect()
            if not isinstance(error, Exception):
                raise

    async def _hand_out(self) -> None:
        commands, future = self._sent[0]
        answer: Any = None
        error: Exception | None = None
        for _ in commands:
            try:
                answer, error = await self._connection.read_response(), None
            except self._answered as refusal:
                # An error as an answer leaves the connection as good as it was.
                error = refusal
        self._sent.popleft()
        if future.done():
            return
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)

    def _fail(self, error: BaseException) -> None:
        from redis.exceptions import ConnectionError as GoneError

        if not isinstance(error, Exception):
            error = GoneError("the connection was given up")
        for _, future in [*self._sent, *self._unsent]:
            if not future.done():
                future.set_exception(error)
        self._sent.clear()
        self._unsent.clear()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
