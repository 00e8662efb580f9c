"""What the ledger answers: sums of calls, grouped and chosen by what the calls have in common. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from typing import Any, Union

from ._entry import ENDINGS, Label, Sum
from .errors import ConfigurationError

__all__ = ["Moment", "Usage", "UsageRow", "Where", "chooser", "fold", "names_of", "period_of", "seconds_of"]

Moment = Union[datetime, timedelta, str, None]
"""A time, or how long ago: a `datetime`, a `timedelta`, "24h" (s, m, h, d, w) or an ISO 8601 text."""
Where = Mapping[str, Union[str, Sequence[str]]]

_HOUR, _DAY = 3_600, 86_400
_PERIODS = {"hour": _HOUR, "day": _DAY}
_UNITS = {"s": 1, "m": 60, "h": _HOUR, "d": _DAY, "w": 7 * _DAY}
_FIRST, _LAST = [datetime(*date, tzinfo=timezone.utc).timestamp() for date in ((1, 1, 1), (9999, 12, 31))]
_FIELDS: dict[str, Callable[[Label], str]] = {
    "provider": lambda label: label.provider,
    "endpoint": lambda label: label.endpoint,
    "model": lambda label: label.model,
    "model_asked": lambda label: label.model_asked,
}

Group = tuple[str, ...]
Namer = Callable[[Label, Sum], str]


@dataclass(frozen=True)
class UsageRow:
    """What the calls of one group came to. Amounts are tokens."""

    group: Group
    """One value for each name in `by`; empty text: the calls have none."""
    calls: int = 0
    """All of them, however they ended."""
    input: int = 0
    """All of the prompts, cache reads and writes included."""
    cached: int = 0
    """The part of `input` that was read from a cache."""
    written: int = 0
    """The part of `input` that was written to a cache."""
    output: int = 0
    """All that was generated, reasoning included."""
    reasoning: int = 0
    """The part of `output` the caller does not see."""
    blocked: int = 0
    """Calls that were refused, so never sent."""
    failed: int = 0
    cancelled: int = 0
    cut: int = 0
    """Calls whose stream ended early."""
    expired: int = 0
    """Calls whose process died."""
    degraded: int = 0
    """Calls sent to another model than the one asked for."""
    estimated: int = 0
    """Calls whose amounts are not all the provider's own report."""
    seconds: float = 0.0
    """How long the calls took, together."""

    @property
    def key(self) -> str:
        """`group` as one text."""
        return ", ".join(self.group)

    @property
    def tokens(self) -> int:
        """What the budgets were charged."""
        return self.input + self.output

    @property
    def ok(self) -> int:
        """Calls that ended as they should."""
        return self.calls - self.blocked - self.failed - self.cancelled - self.cut - self.expired


_COUNTS = [field.name for field in fields(UsageRow) if field.name != "group"]
_EXPORTED = ["calls", "tokens", *_COUNTS[1:]]


@dataclass(frozen=True)
class Usage(Sequence[UsageRow]):
    """The rows of an answer, those with most tokens first; periods in order of time."""

    by: Group
    rows: tuple[UsageRow, ...]
    total: UsageRow
    """All rows together."""
    since: datetime | None
    until: datetime

    def __iter__(self) -> Iterator[UsageRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one flat dict a row: the names of `by`, then the counts."""
        return [
            {**dict(zip(self.by, row.group)), **{name: getattr(row, name) for name in _EXPORTED}}
            for row in self.rows
        ]

    def to_csv(self) -> str:
        """Return the rows as CSV with a line of names, safe to open in a spreadsheet."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow([*self.by, *_EXPORTED])
        for row in self.rows:
            table.writerow([*map(_harmless, row.group), *[getattr(row, name) for name in _EXPORTED]])
        return out.getvalue()

    def to_jsonl(self) -> str:
        """Return the rows as JSON Lines."""
        return "".join([json.dumps(row) + "\n" for row in self.to_dicts()])


def _harmless(text: str) -> str:
    """Keep a spreadsheet from taking the name of something for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def names_of(by: str | Sequence[str] | None) -> Group:
    """Return `by` as a tuple of names; raise ConfigurationError for what is not one."""
    names = (by,) if isinstance(by, str) else tuple(by or ())
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"by is {by!r}; it is a name, or several, like 'model' or 'tenant'")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"by names {by!r}, the same thing twice")
    if sum(name in _PERIODS for name in names) > 1:
        raise ConfigurationError("by names both 'hour' and 'day'; one of them is enough")
    return names


def period_of(names: Group) -> int:
    """Return how long the periods are that `names` ask for, in seconds; 0: they ask for none."""
    return max([_PERIODS.get(name, 0) for name in names], default=0)


def seconds_of(moment: Moment, now: float, name: str) -> float | None:
    """Return seconds since the epoch, of a year there is. A `datetime` without a zone is local time."""
    if moment is None:
        return None
    seconds = None
    if isinstance(moment, timedelta):
        seconds = now - moment.total_seconds()
    elif isinstance(moment, datetime):
        seconds = _timestamp(moment)
    elif isinstance(moment, str):
        count, unit = moment[:-1], moment[-1:]
        if unit in _UNITS and count.replace(".", "", 1).isdecimal() and count.isascii():
            seconds = now - float(count) * _UNITS[unit]
        else:
            with suppress(ValueError):
                seconds = _timestamp(datetime.fromisoformat(moment.replace("Z", "+00:00")))
    if seconds is None:
        raise ConfigurationError(
            f"{name} is {moment!r}; it is a datetime, a timedelta, or a text "
            "like '24h', '30m', '7d' or '2030-01-31'"
        )
    return min(max(seconds, _FIRST), _LAST)


def _timestamp(moment: datetime) -> float:
    try:
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):  # local time next to an end of the calendar
        return moment.replace(tzinfo=timezone.utc).timestamp()


def _namer(name: str) -> Namer:
    """Return the function that says what a name of `by` or `where` is for some calls."""
    if name in _FIELDS:
        field = _FIELDS[name]
        return lambda label, _: field(label)
    if name == "ending":
        return lambda _, calls: calls.ending
    if name in _PERIODS:
        shown = "%Y-%m-%dT%H:00Z" if name == "hour" else "%Y-%m-%d"
        return lambda _, calls: datetime.fromtimestamp(calls.period, timezone.utc).strftime(shown)
    kind, _, rest = name.partition(":")
    if kind == "dimension" and rest:
        return lambda label, _: label.identifiers.get(rest, "")
    if kind == "tag" and rest:
        return lambda label, _: label.tags.get(rest, "")
    return lambda label, _: label.identifiers.get(name) or label.tags.get(name, "")


def chooser(where: Where | None) -> Callable[[Label, Sum], bool]:
    """Return the function that tells which calls `where` is about; raise ConfigurationError."""
    tests: list[tuple[Namer, frozenset[str]]] = []
    for name, wanted in (where or {}).items():
        values = (wanted,) if isinstance(wanted, str) or not isinstance(wanted, Iterable) else tuple(wanted)
        if name in _PERIODS or not all(isinstance(value, str) for value in values):
            raise ConfigurationError(
                f"where names {name!r}: {wanted!r}; it maps names like 'model' or 'tenant' to a text or "
                "several, and times are chosen with since and until"
            )
        if name == "ending" and not set(values) <= set(ENDINGS):
            raise ConfigurationError(f"where asks for the ending {wanted!r}; there is {', '.join(ENDINGS)}")
        tests.append((_namer(name), frozenset(values)))
    return lambda label, calls: all(namer(label, calls) in values for namer, values in tests)


def fold(sums: Iterable[Sum], by: Group, where: Where | None, since: float | None, until: float) -> Usage:
    """Return the answer that `sums` come to."""
    namers = [_namer(name) for name in by]
    chosen = chooser(where)
    labels: dict[str, Label] = {}
    counts: dict[Group, dict[str, Any]] = {}
    for each in sums:
        label = labels.get(each.label)
        if label is None:
            label = labels[each.label] = Label.parse(each.label)
        if chosen(label, each):
            group = tuple([namer(label, each) for namer in namers])
            _add(counts.setdefault(group, dict.fromkeys(_COUNTS, 0)), label, each)
    rows = [UsageRow(group, **count) for group, count in counts.items()]
    timed = [index for index, name in enumerate(by) if name in _PERIODS]
    rows.sort(key=lambda row: (*[row.group[index] for index in timed], -row.tokens, -row.calls, row.group))
    total = UsageRow((), **{name: sum([getattr(row, name) for row in rows]) for name in _COUNTS})
    return Usage(by, tuple(rows), total, None if since is None else _time(since), _time(until))


def _add(count: dict[str, Any], label: Label, calls: Sum) -> None:
    for name in ("calls", "estimated", "input", "output", "cached", "written", "reasoning", "seconds"):
        count[name] += getattr(calls, name)
    if calls.ending in count:
        count[calls.ending] += calls.calls
    if label.model != label.model_asked:
        count["degraded"] += calls.calls


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
