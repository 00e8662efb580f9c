"""How often guarded clients went where no budget is charged, in this process. For the coverage report."""

from __future__ import annotations

import threading

from ..policy import Provider
from ..providers.coverage import CoverageStatus, Place, place_of

__all__ = ["note_passing", "passed"]

_MOST = 1_000
_lock = threading.Lock()
_passed: dict[Place, int] = {}


def note_passing(provider: Provider, method: str, path: str) -> None:
    """Count a request that no row catches, unless it is known to be free."""
    if method.lower() != "post":
        return
    place = place_of(provider, path)
    if place.status in (CoverageStatus.NOT_SEEN, CoverageStatus.UNKNOWN):
        with _lock:
            if place in _passed or len(_passed) < _MOST:
                _passed[place] = _passed.get(place, 0) + 1


def passed() -> dict[Place, int]:
    """Return how many requests went to each such place."""
    with _lock:
        return dict(_passed)
