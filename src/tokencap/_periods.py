"""How long a counter runs before it starts anew: calendar windows and rolling ones. Pure.

Times are seconds since the epoch, by whatever clock the caller goes by. Windows begin at whole seconds.
"""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Callable, Union

from .errors import ConfigurationError

__all__ = ["EVERY", "SLOTS", "Calendar", "Period", "Rolling", "calendar", "parse", "rolling"]

EVERY = ("minute", "hour", "day", "week", "month")
"""The calendar windows there are. The last three begin at a time of day that can be chosen."""

SLOTS = 60
"""A rolling window forgets in steps of this share of its length."""

_SIZES = {"minute": 60, "hour": 3600}
_UTC_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECOND = timedelta(seconds=1)


class Calendar:
    """Windows that begin when the clocks of a time zone say so; every moment is in exactly one.

    A day, week (from Monday) or month begins at the first moment at which the clocks show its first
    `reset_at` (minutes after midnight) or later: where they skip it, when they have been put forward; where
    they show it twice, the first time. So it has the 23 or 25 hours that it has there. An hour or minute
    begins at a full one by those clocks, and wherever they are changed.
    """

    __slots__ = ("_around", "_known", "_size", "_zone", "every", "reset_at", "text", "timezone")

    def __init__(self, every: str, zone: str, reset_at: int) -> None:
        self.every = str(every)
        self.timezone = zone
        self.reset_at = reset_at
        self.text = f"{every}/{zone}/{reset_at}"
        """The same in one word, for `parse`."""
        self._size = _SIZES.get(every, 0)
        self._zone = _zone(zone)
        # The window asked for last. Replaced as a whole, so that threads need no lock.
        self._known = (0, 0)
        self._around: tuple[int, ...] = ()

    def start_of(self, at: float) -> int:
        """Return when the window began that `at` is in."""
        return self._window(at)[0]

    def next_after(self, at: float) -> int:
        """Return when the window ends that `at` is in, and the next one begins."""
        return self._window(at)[1]

    def around(self, at: float) -> tuple[int, ...]:
        """Return where the windows begin around `at`: the two before, its own, and two more."""
        start, end = self._window(at)
        known = self._around
        if known[2:4] != (start, end):
            before = self._find(start - 1)[0]
            known = (self._find(before - 1)[0], before, start, end, self._find(end)[1])
            self._around = known
        return known

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calendar) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Calendar({self.text!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return parse, (self.text,)

    def _window(self, at: float) -> tuple[int, int]:
        known = self._known
        if not known[0] <= at < known[1]:
            known = self._known = self._find(at)
        return known

    def _find(self, at: float) -> tuple[int, int]:
        if self._size:
            return self._full(int(at // 1))
        # The clocks may have been put back since, from what began another day, but not by two.
        n = self._index(_shown(at, self._zone).date()) + 2
        start = self._begin(n)
        while start > at:
            n -= 1
            start = self._begin(n)
        end = self._begin(n + 1)
        while end <= at:  # days that a zone has left out
            n += 1
            end = self._begin(n + 1)
        return start, end

    def _full(self, at: int) -> tuple[int, int]:
        """Return the minute or hour that `at` is in."""
        offset = self._offset(at)
        start = at - (at + offset) % self._size
        end = start + self._size
        if self._offset(start) != offset:
            start = _first(lambda t: self._offset(t) == offset, start, at)
        if self._offset(end - 1) != offset:
            end = _first(lambda t: self._offset(t) != offset, at, end - 1)
        return start, end

    def _offset(self, at: int) -> int:
        offset = datetime.fromtimestamp(at, self._zone).utcoffset()
        return 0 if offset is None else offset // _SECOND

    def _index(self, day: date) -> int:
        """Return the number of the day, week or month that `day` is in."""
        if self.every == "month":
            return day.year * 12 + day.month - 1
        return day.toordinal() if self.every == "day" else (day.toordinal() - 1) // 7

    def _begin(self, n: int) -> int:
        """Return when day, week or month `n` begins."""
        if self.every == "month":
            day = date(n // 12, n % 12 + 1, 1)
        else:
            day = date.fromordinal(n if self.every == "day" else n * 7 + 1)
        nominal = datetime(day.year, day.month, day.day, *divmod(self.reset_at, 60))
        begin = _epoch(nominal.replace(tzinfo=self._zone))
        if _shown(begin, self._zone) == nominal:
            return begin
        # Skipped: read by the clocks as they were before, and as they are after, it is on either side.
        early = _epoch(nominal.replace(tzinfo=self._zone, fold=1))
        return _first(lambda t: _shown(t, self._zone) >= nominal, early, begin)


class Rolling:
    """The time just gone, `seconds` long. It never ends.

    What is counted is counted for at least `seconds` and at most `seconds / SLOTS` longer.
    """

    __slots__ = ("seconds", "text")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.text = f"rolling/{seconds!r}"
        """The same in one word, for `parse`."""

    def slot_of(self, at: float) -> int:
        """Return the number of the step that `at` is in. One `SLOTS + 1` before it is forgotten."""
        return math.floor(at * SLOTS / self.seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rolling) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Rolling({self.seconds!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return rolling, (self.seconds,)


Period = Union[Calendar, Rolling]


def calendar(every: str, zone: str = "UTC", reset_at: int = 0) -> Calendar:
    """Return the windows of a zone; `ConfigurationError` when this machine does not know the zone.

    The same object for the same arguments: it remembers the window of the moment.
    """
    return _shared(every, zone, reset_at)


@lru_cache(maxsize=256)
def _shared(every: str, zone: str, reset_at: int) -> Calendar:
    return Calendar(every, zone, reset_at)


@lru_cache(maxsize=256)
def rolling(seconds: float) -> Rolling:
    """Return the rolling window of so many seconds."""
    return Rolling(seconds)


@lru_cache(maxsize=256)
def parse(text: str) -> Period:
    """Return the period whose `text` this is."""
    every, _, rest = text.partition("/")
    if every == "rolling":
        return rolling(float(rest))
    zone, _, reset_at = rest.rpartition("/")
    return calendar(every, zone, int(reset_at))


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return timezone.utc  # known without any tables
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        if zoneinfo.available_timezones():
            raise ConfigurationError(
                f"timezone is {name!r}; it must be the name of a time zone, like 'Europe/Berlin' or 'UTC'"
            ) from None
        raise ConfigurationError(
            f"timezone is {name!r}, and this machine has no time zone tables to look it up in: "
            "pip install tzdata"
        ) from None


def _shown(at: float, zone: tzinfo) -> datetime:
    """Return what the clocks of `zone` show."""
    return datetime.fromtimestamp(at // 1, zone).replace(tzinfo=None, fold=0)


def _epoch(moment: datetime) -> int:
    return (moment - _UTC_EPOCH) // _SECOND


def _first(true_at: Callable[[int], bool], low: int, high: int) -> int:
    """Return the first second after `low` at which `true_at` is true; it is at `high`, and stays so."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if true_at(middle) else (middle, high)
    return high
