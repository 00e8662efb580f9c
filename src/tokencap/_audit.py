"""What is changed about a budget while programs run, and who did it."""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple

from .budget import UNLIMITED, BudgetKey

__all__ = ["GRANT", "LIMIT", "RESET", "Change", "Who", "who"]

LIMIT, GRANT, RESET = "limit", "grant", "reset"


class Who(NamedTuple):
    """Whoever makes a change, as their system calls them: a record and no proof."""

    user: str
    host: str


class Change(NamedTuple):
    """One change, as the store made it. Amounts are tokens."""

    at: float
    """By the clock of the store."""
    key: BudgetKey
    action: str
    """`LIMIT`, `GRANT` or `RESET`."""
    tokens: int | None
    """The new limit (None: as configured again), or what was granted; None for a reset."""
    who: Who
    limit_before: int
    """The limit in force, with what was granted."""
    limit_after: int
    used_before: int
    used_after: int

    def to_dict(self) -> dict[str, Any]:
        """Return the change in types that JSON knows; no limit is None."""
        return {
            "time": self.at,
            "dimension": self.key.dimension,
            "identifier": self.key.identifier,
            "action": self.action,
            "tokens": self.tokens,
            "user": self.who.user,
            "host": self.who.host,
            **{
                name: None if name.startswith("limit") and tokens >= UNLIMITED else tokens
                for name, tokens in zip(self._fields[5:], self[5:])
            },
        }


def who() -> Who:
    """Return who runs this process, and where."""
    import getpass
    import socket

    user = ""
    with contextlib.suppress(Exception):  # a container may run as somebody without a name
        user = getpass.getuser()
    user = user or (f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown")
    sudo = os.environ.get("SUDO_USER")
    return Who(f"{sudo} (as {user})" if sudo and sudo != user else user, socket.gethostname())
