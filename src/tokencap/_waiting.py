"""Waiting for the holds of other calls: in order of arrival, woken at once by calls of this process.

Holds of other processes give no sign when they end, so the first in a queue also looks now and then.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Callable

from ._flow import running_trio
from ._fork import ForkAware, survive_forks

if TYPE_CHECKING:
    from ._session import CallSession
    from .budget import BudgetKey

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

    def __init__(self, keys: Collection[BudgetKey], wants: Iterable[BudgetKey]) -> None:
        self.keys = keys
        """The budgets of the call."""
        self.wants = frozenset(wants)
        """Those that it waits for."""
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
    """The calls of one Guard that wait: for each budget first come, first served.

    Without a lock, so that a call made by a signal handler or a finalizer can wait in the middle of another's
    waiting: what is done to the deque is done at once.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """See `_fork`: those who wait do so in the parent."""
        self._tickets: deque[Ticket] = deque()

    def join(self, keys: Collection[BudgetKey], wants: Iterable[BudgetKey]) -> Ticket:
        """Take the last place. For `keys` and `wants` see `Ticket`."""
        ticket = Ticket(keys, wants)
        self._tickets.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give a place up, and let those try who stood behind it."""
        self._tickets.remove(ticket)
        self._wake(ticket.wants, lambda behind: behind.keys)

    def wait_for(self, ticket: Ticket, wants: Iterable[BudgetKey]) -> None:
        """Wait for these budgets from now on, and let those try who stood behind it for others."""
        before, ticket.wants = ticket.wants, frozenset(wants)
        self._wake(before - ticket.wants, lambda one: () if one is ticket else one.keys)

    def is_first(self, ticket: Ticket) -> bool:
        """Return whether nobody has waited for longer for a budget of this ticket's call."""
        for other in list(self._tickets):
            if other is ticket or not other.wants.isdisjoint(ticket.keys):
                return other is ticket
        return False

    def waited_for(self, keys: Iterable[BudgetKey]) -> list[BudgetKey]:
        """Return those of these budgets that somebody waits for."""
        if not self._tickets:
            return []
        wanted = frozenset().union(*[ticket.wants for ticket in list(self._tickets)])
        return [key for key in keys if key in wanted]

    def wake(self, keys: Iterable[BudgetKey]) -> None:
        """Let the first ones try again that wait for these budgets. Costs nothing when nobody waits."""
        if self._tickets:
            self._wake(frozenset(keys), lambda ticket: ticket.wants)

    def _wake(self, keys: frozenset[BudgetKey], minding: Callable[[Ticket], Collection[BudgetKey]]) -> None:
        """Wake those with nobody before them for whom it matters that something has changed about `keys`."""
        ahead: set[BudgetKey] = set()
        for ticket in list(self._tickets):
            if ahead.isdisjoint(ticket.keys) and not keys.isdisjoint(minding(ticket)):
                ticket.wake()
            ahead |= ticket.wants
            if ahead.issuperset(keys):
                return
