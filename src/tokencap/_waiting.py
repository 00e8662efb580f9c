"""Waiting for the holds of other calls: in order of arrival, woken at once by calls of this process.

Holds of other processes give no sign when they end, so the first in the queue also looks now and then.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Callable

from ._flow import running_trio
from ._fork import ForkAware, survive_forks

if TYPE_CHECKING:
    from ._session import CallSession

__all__ = ["POLL_SECONDS", "Queue", "Ticket", "enter", "inside_open_call"]

POLL_SECONDS = 0.05

# A task made while a stream is open inherits it: if it waited for that stream's hold, and the stream's
# consumer for the task, neither would go on.
_inside: contextvars.ContextVar[tuple[CallSession, ...]] = contextvars.ContextVar(
    "tokencap_inside", default=()
)


def enter(session: CallSession) -> None:
    """Note that what this thread or task does next may be done inside this call."""
    _inside.set((*(other for other in _inside.get() if other.open), session))


def inside_open_call() -> bool:
    """Return whether this thread or task is inside a call that is still open."""
    return any(session.open for session in _inside.get())


class Ticket:
    """A place in the queue, and a way to sleep on it in a thread or a task."""

    def __init__(self) -> None:
        # A bare lock, open when somebody has woken us. Of an Event, `set` would wait for its own thread where
        # a signal or the garbage collector has it call `set` in the middle of another `set`.
        self._gate = threading.Lock()
        self._gate.acquire()
        self._rouse: Callable[[], object] | None = None
        """Ends the sleep of a task; callable from any thread."""

    def sleep(self, seconds: float) -> None:
        """Sleep until woken, for at most `seconds`."""
        self._gate.acquire(timeout=seconds)

    async def asleep(self, seconds: float) -> None:
        """Sleep until woken, for at most `seconds`, in a task."""
        if self._gate.acquire(blocking=False):
            return
        trio = running_trio()
        if trio is not None:
            woken = trio.Event()
            self._rouse = partial(trio.lowlevel.current_trio_token().run_sync_soon, woken.set)
            with trio.move_on_after(seconds):
                if self._gate.locked():
                    await woken.wait()
        else:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            self._rouse = lambda: loop.call_soon_threadsafe(_resolve, future)
            handle = loop.call_later(seconds, _resolve, future)
            try:
                if self._gate.locked():
                    await future
            finally:
                handle.cancel()
        self._gate.acquire(blocking=False)

    def wake(self) -> None:
        """End the sleep; callable from any thread."""
        with suppress(RuntimeError):  # open already
            self._gate.release()
        if self._rouse is not None:
            with suppress(RuntimeError):  # that loop is closed, and its sleeper with it
                self._rouse()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Queue(ForkAware):
    """The calls of one Guard that wait, first come, first served.

    Without a lock, so that a call made by a signal handler or a finalizer can wait in the middle of another's
    waiting: what is done to the deque is done at once.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """See `_fork`: those who wait do so in the parent."""
        self._tickets: deque[Ticket] = deque()

    def join(self) -> Ticket:
        """Take the last place."""
        ticket = Ticket()
        self._tickets.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give a place up, and let the next one try."""
        self._tickets.remove(ticket)
        self.wake()

    def is_first(self, ticket: Ticket) -> bool:
        """Return whether it is this ticket's turn."""
        return bool(self._tickets) and self._tickets[0] is ticket

    @property
    def waiting(self) -> bool:
        """True when somebody waits."""
        return bool(self._tickets)

    def wake(self) -> None:
        """Let the first one try again. Costs nothing when nobody waits."""
        try:
            first = self._tickets[0]
        except IndexError:
            return
        first.wake()
