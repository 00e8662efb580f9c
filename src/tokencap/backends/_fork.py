"""Keep stores usable after `os.fork`, whatever the other threads were doing at that moment."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "survive_forks"]


class ForkAware(Protocol):
    """A store that wants to know about forks."""

    def before_fork(self) -> None:
        """Bring the store to rest: no other thread inside it, nothing the child must not inherit."""
        ...

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Make new locks: the threads that may have held the old ones do not exist here."""
        ...


_stores: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def survive_forks(store: ForkAware) -> None:
    """Tell `store` about every fork for as long as it exists."""
    _stores.add(store)


def _before() -> None:
    for store in list(_stores):
        store.before_fork()


def _after_in_parent() -> None:
    for store in list(_stores):
        store.after_fork_in_parent()


def _after_in_child() -> None:
    for store in list(_stores):
        store.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
