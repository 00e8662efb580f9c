"""Calendar windows against a count of every quarter of an hour by the clocks of the zone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import date, datetime, timezone
from functools import lru_cache
from itertools import accumulate
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokencap._periods import SLOTS, calendar, rolling

QUARTER = 900
DAY = 24 * 60
YEARS = (2011, 2018, 2024)

# The clocks of these change at midnight, by half an hour, in the south, back over midnight, not at all; and
# in the years looked at, Samoa leaves out a day, Caracas moves by half an hour, Pyongyang by as much, Turkey
# stays in summer, Morocco takes its summer back for Ramadan, Egypt starts again.
ZONES = [
    "Europe/Berlin",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Santiago",
    "America/Scoresbysund",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "UTC",
]


@pytest.fixture(params=ZONES, scope="module")
def zone(request: pytest.FixtureRequest) -> str:
    """All tests of one zone run one after the other: its clocks are looked at once."""
    return str(request.param)


@lru_cache(maxsize=len(YEARS))
def clocks(zone: str, year: int) -> tuple[list[int], list[int], list[int]]:
    """Every quarter of an hour of a year and some weeks around it; what the clocks show then, in minutes; and
    the most that they have shown so far."""
    begin = int(datetime(year, 1, 1, tzinfo=timezone.utc).timestamp()) - 40 * 86_400
    moments = list(range(begin, begin + 445 * 86_400, QUARTER))
    there = ZoneInfo(zone)

    def look(moment: int) -> int:
        now = datetime.fromtimestamp(moment, there)
        return (now.toordinal() - 1) * DAY + now.hour * 60 + now.minute

    shown = []
    for day in range(begin, begin + 445 * 86_400, 86_400):
        first = look(day)
        # Where a day is as long as most, the clocks have been left alone.
        changed = look(day + 86_400) - first != DAY
        shown += [look(day + n * QUARTER) if changed else first + n * 15 for n in range(96)]
    return moments, shown, list(accumulate(shown, max))


def beginnings(zone: str, year: int, every: str, reset_at: int) -> list[int]:
    """When a window begins: when the clocks first show that much. They may show several at once."""
    moments, _, most = clocks(zone, year)
    days = range(most[0] // DAY + 1, most[-1] // DAY)
    # Day 0 is a Monday.
    wanted = {
        "day": days,
        "week": [day for day in days if day % 7 == 0],
        "month": [day for day in days if date.fromordinal(day + 1).day == 1],
    }[every]
    begin = [bisect_left(most, day * DAY + reset_at) for day in wanted]
    return sorted({moments[n] for n in begin if 0 < n < len(moments)})


@settings(max_examples=30, deadline=None)
@given(
    year=st.sampled_from(YEARS),
    every=st.sampled_from(["day", "week", "month"]),
    quarter=st.sampled_from([0, 1, 2, 4, 8, 9, 10, 11, 12, 24, 92, 95]),
    share=st.floats(0, 1),
    near=st.booleans(),
)
def test_a_day_week_or_month_begins_when_the_clocks_first_show_it(
    zone: str, year: int, every: str, quarter: int, share: float, near: bool
) -> None:
    begin = beginnings(zone, year, every, quarter * 15)
    at = begin[0] + share * (begin[-1] - begin[0] - 1)
    if near:
        at = begin[int(share * (len(begin) - 2))] + share - 0.5
    n = bisect_right(begin, at)
    if n:
        period = calendar(every, zone, quarter * 15)
        assert (period.start_of(at), period.next_after(at)) == (begin[n - 1], begin[n])


@pytest.mark.parametrize(("every", "reset_at"), [("day", 0), ("day", 135), ("week", 0)])
def test_all_windows_of_some_years(zone: str, every: str, reset_at: int) -> None:
    for year in YEARS:
        begin = beginnings(zone, year, every, reset_at)
        period = calendar(every, zone, reset_at)
        assert [period.next_after(each) for each in begin[:-1]] == begin[1:]
        assert [period.start_of(each - 1) for each in begin[1:]] == begin[:-1]


def test_an_hour_begins_on_the_hour_and_where_the_clocks_are_changed(zone: str) -> None:
    for year in YEARS:
        moments, shown, _ = clocks(zone, year)
        begin = [
            after
            for (before, was), (after, now) in zip(zip(moments, shown), zip(moments[1:], shown[1:]))
            if now % 60 == 0 or (now - was) * 60 != after - before
        ]
        hour, minute = calendar("hour", zone), calendar("minute", zone)
        around = [
            (start, end)
            for n, (start, end) in enumerate(zip(begin, begin[1:]))
            # Most hours are like the others.
            if n % 7 == 0 or any(a + 3600 != b for a, b in zip(begin[n - 1 : n + 2], begin[n : n + 3]))
        ]
        assert [(start, hour.next_after(start)) for start, _ in around] == around
        assert [(hour.start_of(end - 1), end) for _, end in around] == around
        for each in begin[::97]:
            assert minute.start_of(each + 59) == minute.next_after(each - 1) == each


@settings(max_examples=100, deadline=None)
@given(
    at=st.floats(-2e9, 1e10),
    every=st.sampled_from(["minute", "hour", "day", "week", "month"]),
    zone=st.sampled_from(ZONES),
    reset_at=st.integers(0, 1439),
)
def test_every_moment_is_in_one_window(at: float, every: str, zone: str, reset_at: int) -> None:
    period = calendar(every, zone, 0 if every in ("minute", "hour") else reset_at)
    start, end = period.start_of(at), period.next_after(at)
    assert start <= at < end
    assert (period.start_of(start), period.next_after(start)) == (start, end)
    assert (period.start_of(end - 1), period.next_after(end - 1)) == (start, end)
    assert period.start_of(end) == end
    bounds = period.around(at)
    assert bounds[2:4] == (start, end)
    assert list(bounds) == sorted(set(bounds))


@given(at=st.floats(0, 4e9), seconds=st.floats(1, 3e7))
def test_a_rolling_window_counts_for_its_length_and_at_most_a_step_longer(at: float, seconds: float) -> None:
    period = rolling(seconds)
    booked = period.slot_of(at)
    slack = 1e-6 * seconds
    assert booked >= period.slot_of(at + seconds - slack) - SLOTS
    assert booked < period.slot_of(at + seconds * (1 + 1 / SLOTS) + slack) - SLOTS
