"""What `tokencap doctor` finds, in words: what is so and, unless it is well, what to do next."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["NOTE", "WELL", "WRONG", "Finding", "note", "well", "wrong"]

WELL, NOTE, WRONG = "well", "note", "wrong"


class Finding(NamedTuple):
    """One thing that was looked at."""

    area: str
    level: str
    """well; note: good to know; wrong: budgets are not kept as they should be."""
    what: str
    do: str = ""
    """What to do next."""

    def to_dict(self) -> dict[str, Any]:
        """Return it in types that JSON knows."""
        return self._asdict()


def well(area: str, what: str) -> Finding:
    """Return a finding about something as it should be."""
    return Finding(area, WELL, what)


def note(area: str, what: str, do: str) -> Finding:
    """Return a finding that is good to know."""
    return Finding(area, NOTE, what, do)


def wrong(area: str, what: str, do: str) -> Finding:
    """Return a finding that something is to be done about."""
    return Finding(area, WRONG, what, do)
