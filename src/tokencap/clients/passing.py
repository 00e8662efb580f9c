"""How often guarded clients went where no budget is charged, in this process. For the coverage report."""

from __future__ import annotations

from collections.abc import Callable

from .._fork import Mutex
from ..policy import Provider
from ..providers import UNLISTED, endpoint_of
from ..providers.coverage import CoverageStatus, Place, place_of
from ..providers.dialect import Endpoint

__all__ = ["listen", "note_passing", "passed", "row_of"]

_MOST = 1_000
_mutex = Mutex()
_passed: dict[Place, int] = {}
_listeners: list[Callable[[Place], None]] = []


def row_of(provider: Provider, method: str, path: str) -> Endpoint | None:
    """Return the row of a request, and note it where it goes past all budgets."""
    endpoint = endpoint_of(provider, method, path)
    if endpoint is None or endpoint is UNLISTED:
        note_passing(provider, method, path)
    return endpoint


def note_passing(provider: Provider, method: str, path: str) -> None:
    """Count a request that no row catches, unless it is known to be free."""
    if method.lower() != "post":
        return
    place = place_of(provider, path)
    if place.status in (CoverageStatus.NOT_SEEN, CoverageStatus.UNKNOWN):
        with _mutex.lock:
            if place in _passed or len(_passed) < _MOST:
                _passed[place] = _passed.get(place, 0) + 1
        for listener in _listeners:
            listener(place)


def listen(listener: Callable[[Place], None]) -> None:
    """Have `listener` called at every such request, in the thread that makes it."""
    _listeners.append(listener)


def passed() -> dict[Place, int]:
    """Return how many requests went to each such place."""
    with _mutex.lock:
        return dict(_passed)
