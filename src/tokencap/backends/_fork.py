"""Keep what has locks and threads usable after `os.fork`, whatever the other threads did at that moment."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["ForkAware", "survive_forks"]


class ForkAware(Protocol):
    """A store, or whatever else wants to know about forks."""

    def before_fork(self) -> None:
        """Come to rest: no other thread inside, nothing the child must not inherit."""
        ...

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Make new locks: the threads that may have held the old ones do not exist here."""
        ...


_all: weakref.WeakSet[ForkAware] = weakref.WeakSet()
# Those at rest, and the thread that forks: others may come, go, and fork meanwhile.
_resting: list[ForkAware] = []
_forking = threading.Lock()


def survive_forks(one: ForkAware) -> None:
    """Tell `one` about every fork for as long as it exists."""
    _all.add(one)


def _before() -> None:
    _forking.acquire()
    for one in list(_all):
        one.before_fork()
        _resting.append(one)


def _after_in_parent() -> None:
    try:
        while _resting:
            _resting.pop().after_fork_in_parent()
    finally:
        _forking.release()


def _after_in_child() -> None:
    global _forking
    _forking = threading.Lock()
    _resting.clear()
    for one in list(_all):
        one.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
