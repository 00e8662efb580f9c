"""Keep what has locks and threads usable after `os.fork`, whatever the other threads did at that moment."""

from __future__ import annotations

import codecs
import os
import threading
import weakref

__all__ = ["ForkAware", "Mutex", "load_before_forks", "survive_forks"]


class ForkAware:
    """A store, or whatever else wants to know about forks."""

    def before_fork(self) -> None:
        """Come to rest: no other thread inside, nothing the child must not inherit."""

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""

    def after_fork_in_child(self) -> None:
        """Make new locks: the threads that may have held the old ones do not exist here."""


class _Forks:
    """Who wants to know, and who is at rest while this process forks."""

    def __init__(self) -> None:
        self.aware: weakref.WeakSet[ForkAware] = weakref.WeakSet()
        self._resting: list[ForkAware] = []
        # Held from before a fork until after it: others may come, go and fork meanwhile.
        self.lock = threading.RLock()

    def before(self) -> None:
        self.lock.acquire()
        for one in list(self.aware):
            one.before_fork()
            self._resting.append(one)

    def after_in_parent(self) -> None:
        try:
            while self._resting:
                self._resting.pop().after_fork_in_parent()
        finally:
            self.lock.release()

    def after_in_child(self) -> None:
        self.lock = threading.RLock()
        self._resting.clear()
        for one in list(self.aware):
            one.after_fork_in_child()


_forks = _Forks()


def load_before_forks() -> None:
    """Import what sockets import when they first look up a name.

    Were it a thread that does so while another one forks, the child would wait for that import for ever.
    """
    codecs.lookup("idna")


def survive_forks(one: ForkAware) -> None:
    """Tell `one` about every fork for as long as it exists."""
    with _forks.lock:
        _forks.aware.add(one)


class Mutex(ForkAware):
    """A `lock` that is open in a forked child, whichever other thread of its parent held it.

    A fork waits at most `patience` seconds for whoever holds it. To be held by `with mutex.lock`, which an
    interrupt cannot leave locked, as it can whatever is written in Python; and by one thread more than once,
    for a finalizer or a signal handler that makes a call in the middle of another's.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._patience = patience
        self._resting = False
        self.after_fork_in_child()
        survive_forks(self)

    def before_fork(self) -> None:
        """See `ForkAware`."""
        self._resting = self._patience > 0 and self.lock.acquire(timeout=self._patience)

    def after_fork_in_parent(self) -> None:
        """See `ForkAware`."""
        if self._resting:
            self.lock.release()

    def after_fork_in_child(self) -> None:
        """See `ForkAware`."""
        self.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forks.before,
        after_in_parent=_forks.after_in_parent,
        after_in_child=_forks.after_in_child,
    )
