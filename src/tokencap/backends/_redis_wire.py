"""How a script gets to a server and its answer back.

redis-py's own clients spend as long on bookkeeping around a command as the command takes. A `Line` takes
a connection of redis-py's from a stack, writes to it, reads from it and puts it back. One that was closed
meanwhile fails the command; it may be made once more on a new one, for a script run twice by the same
attempt does what it does once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Protocol

from .._fork import ForkAware, survive_forks
from ._redis_scripts import Call

__all__ = ["AsyncLink", "AsyncThrough", "Line", "Link", "errors", "pack", "sentinels", "spell", "within"]

# Bounds a block of coroutine code, in seconds. redis-py brings the second one where there is no first.
within: Any = getattr(asyncio, "timeout", None) or import_module("async_timeout").timeout


def pack(parts: Iterable[str | bytes | int]) -> bytes:
    """Spell a command as the server reads it."""
    pieces = [b""]
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    pieces[0] = b"*%d\r\n" % (len(pieces) - 1)
    return b"".join(pieces)


def spell(call: Call, command: str, asking: bool = False) -> list[bytes]:
    """Return the commands of a call. `asking`: to a node that is about to get the slot."""
    what = call.script.sha if command == "EVALSHA" else call.script.text
    packed = pack((command, what, len(call.keys), *call.keys, *call.args))
    return [pack(("ASKING",)), packed] if asking else [packed]


class Link(Protocol):
    """A way to run scripts, for threads. Raises what redis-py raises."""

    def run(self, call: Call) -> bytes:
        """Return the answer of a script."""
        ...

    def refresh(self) -> bool:
        """Let go of connections that may be stale; return whether trying again makes sense."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


class AsyncLink(Protocol):
    """A way to run scripts, for the coroutines of one event loop."""

    async def run(self, call: Call) -> bytes:
        """As `Link.run`."""
        ...

    async def refresh(self) -> bool:
        """As `Link.refresh`."""
        ...

    async def aclose(self) -> None:
        """As `Link.close`."""
        ...


class Line(ForkAware):
    """A `Link` on connections made by a redis-py pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._answered, self._unknown_script = errors()
        self._idle: list[Any] = []
        survive_forks(self)

    def run(self, call: Call, *, asking: bool = False) -> bytes:
        """Return the answer of a script. `asking`: from a node that is about to get the slot."""
        try:
            answer: bytes = self._ask(spell(call, "EVALSHA", asking))
        except self._unknown_script:
            answer = self._ask(spell(call, "EVAL", asking))
        return answer

    def slots(self) -> Any:
        """Return which node of the cluster serves which slots, as the server tells it."""
        return self._ask([pack(("CLUSTER", "SLOTS"))])

    def info(self) -> dict[str, str]:
        """Return what the server says of itself."""
        text: bytes = self._ask([pack(("INFO",))])
        lines = [line.partition(":") for line in text.decode("utf-8", "replace").splitlines()]
        return {name: value for name, colon, value in lines if colon}

    def refresh(self) -> bool:
        """Close the connections that nobody uses at the moment."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()
        return True

    def close(self) -> None:
        """Close the connections, those to sentinels too."""
        self.refresh()
        for sentinel in sentinels(self._pool):
            sentinel.connection_pool.disconnect()

    def _ask(self, commands: list[bytes]) -> Any:
        connection = None
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = None
            if connection is None:
                connection = self._pool.make_connection()
                connection.connect()
            connection.send_packed_command(commands, check_health=False)
            *_, answer = [connection.read_response() for _ in commands]
        except self._answered:
            # An error as an answer leaves the connection as good as it was.
            self._idle.append(connection)
            raise
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise
        self._idle.append(connection)
        return answer

    def after_fork_in_child(self) -> None:
        """See `_fork`: the connections go on being the parent's."""
        self._idle = []


class AsyncThrough:
    """An `AsyncLink` that leaves everything to a client of the caller's own."""

    def __init__(self, client: Any) -> None:
        self._client = client
        _, self._unknown_script = errors()

    async def run(self, call: Call) -> bytes:
        """As `Link.run`."""
        _, script, keys, args = call
        run = self._client.execute_command
        try:
            answer = await run("EVALSHA", script.sha, len(keys), *keys, *args)
        except self._unknown_script:
            answer = await run("EVAL", script.text, len(keys), *keys, *args)
        # A client made by the caller may decode what it reads.
        return answer if isinstance(answer, bytes) else str(answer).encode()

    async def refresh(self) -> bool:
        """Do nothing: the client has done what it can."""
        return False

    async def aclose(self) -> None:
        """Release the client's connections."""
        client = self._client
        await (client.aclose() if hasattr(client, "aclose") else client.close())


def errors() -> tuple[type[Exception], type[Exception]]:
    """Return what redis-py raises for an answer that is an error, and for a script the server has not."""
    from redis.exceptions import NoScriptError, ResponseError

    return ResponseError, NoScriptError


def sentinels(pool: Any) -> Any:
    """Return the clients by which a pool asks for the master, if it asks."""
    return getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
