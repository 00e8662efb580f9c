"""When windows begin and end: examples that a person can check on a calendar."""

from __future__ import annotations

import pickle
import zoneinfo
from datetime import datetime, timezone

import pytest

from tokencap._periods import calendar, parse, rolling
from tokencap.errors import ConfigurationError


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def window(every: str, zone: str, at: str, reset_at: str = "00:00") -> tuple[str, str, float]:
    """Return the window that `at` is in, by the clocks of the zone, and its length in hours."""
    hours, minutes = reset_at.split(":")
    period = calendar(every, zone, int(hours) * 60 + int(minutes))
    start, end = period.start_of(instant(at)), period.next_after(instant(at))
    there = zoneinfo.ZoneInfo(zone)
    shown = [datetime.fromtimestamp(each, there).isoformat() for each in (start, end)]
    return shown[0], shown[1], (end - start) / 3600


@pytest.mark.parametrize(
    ("every", "start", "end"),
    [
        ("minute", "2026-03-27T10:59:00+00:00", "2026-03-27T11:00:00+00:00"),
        ("hour", "2026-03-27T10:00:00+00:00", "2026-03-27T11:00:00+00:00"),
        ("day", "2026-03-27T00:00:00+00:00", "2026-03-28T00:00:00+00:00"),
        ("week", "2026-03-23T00:00:00+00:00", "2026-03-30T00:00:00+00:00"),
        ("month", "2026-03-01T00:00:00+00:00", "2026-04-01T00:00:00+00:00"),
    ],
)
def test_each_period_begins_at_its_first_moment(every: str, start: str, end: str) -> None:
    period = calendar(every)
    for at in (instant(start), instant("2026-03-27T10:59:30+00:00") + 0.5, instant(end) - 1e-3):
        assert (period.start_of(at), period.next_after(at)) == (instant(start), instant(end))


def test_the_day_the_clocks_go_forward_has_23_hours_and_the_other_25() -> None:
    assert window("day", "Europe/Berlin", "2026-03-29T12:00+02:00") == (
        "2026-03-29T00:00:00+01:00",
        "2026-03-30T00:00:00+02:00",
        23,
    )
    assert window("day", "Europe/Berlin", "2026-10-25T12:00+01:00") == (
        "2026-10-25T00:00:00+02:00",
        "2026-10-26T00:00:00+01:00",
        25,
    )


def test_a_midnight_that_is_skipped_is_the_moment_the_clocks_go_forward() -> None:
    assert window("day", "America/Sao_Paulo", "2018-11-04T12:00-02:00") == (
        "2018-11-04T01:00:00-02:00",
        "2018-11-05T00:00:00-02:00",
        23,
    )
    assert window("month", "America/Asuncion", "2017-10-01T12:00-03:00")[0] == "2017-10-01T01:00:00-03:00"


def test_a_midnight_that_comes_twice_counts_the_first_time() -> None:
    assert window("day", "America/Havana", "2024-11-03T00:30-05:00") == (
        "2024-11-03T00:00:00-04:00",
        "2024-11-04T00:00:00-05:00",
        25,
    )


def test_a_time_of_day_that_is_skipped_is_the_moment_the_clocks_go_forward() -> None:
    assert window("day", "Europe/Berlin", "2026-03-29T12:00+02:00", "02:30") == (
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
        23.5,
    )


def test_a_time_of_day_that_comes_twice_counts_the_first_time() -> None:
    for at in ("2026-10-25T02:30+02:00", "2026-10-25T02:10+01:00", "2026-10-25T02:45+01:00"):
        assert window("day", "Europe/Berlin", at, "02:30") == (
            "2026-10-25T02:30:00+02:00",
            "2026-10-26T02:30:00+01:00",
            25,
        )


def test_before_the_time_of_day_it_is_still_the_day_before() -> None:
    assert window("day", "Europe/Berlin", "2026-05-02T05:59+02:00", "06:00")[0] == "2026-05-01T06:00:00+02:00"
    assert window("week", "Europe/Berlin", "2026-05-04T05:59+02:00", "06:00")[0] == (
        "2026-04-27T06:00:00+02:00"
    )
    assert window("month", "Asia/Kathmandu", "2026-05-01T05:59+05:45", "06:00")[:2] == (
        "2026-04-01T06:00:00+05:45",
        "2026-05-01T06:00:00+05:45",
    )


def test_a_day_that_a_zone_left_out_is_no_window() -> None:
    assert window("day", "Pacific/Apia", "2011-12-31T12:00+14:00")[:2] == (
        "2011-12-31T00:00:00+14:00",
        "2012-01-01T00:00:00+14:00",
    )
    assert window("day", "Pacific/Apia", "2011-12-29T12:00-10:00")[1] == "2011-12-31T00:00:00+14:00"


def test_february_has_its_leap_day() -> None:
    assert window("month", "UTC", "2028-02-29T23:59+00:00")[2] == 29 * 24
    assert window("month", "UTC", "2027-02-28T23:59+00:00")[2] == 28 * 24
    assert window("day", "UTC", "2028-02-29T23:59+00:00")[1] == "2028-03-01T00:00:00+00:00"
    assert window("month", "UTC", "2026-12-31T23:59+00:00")[1] == "2027-01-01T00:00:00+00:00"


def test_an_hour_that_comes_twice_is_two_windows_of_an_hour() -> None:
    assert window("hour", "Europe/Berlin", "2026-10-25T02:30+02:00")[1:] == ("2026-10-25T02:00:00+01:00", 1)
    assert window("hour", "Europe/Berlin", "2026-10-25T02:30+01:00")[::2] == ("2026-10-25T02:00:00+01:00", 1)


def test_hours_follow_the_clocks_of_the_zone() -> None:
    assert window("hour", "Asia/Kolkata", "2026-05-01T00:00+00:00")[:2] == (
        "2026-05-01T05:00:00+05:30",
        "2026-05-01T06:00:00+05:30",
    )
    # Half an hour forward, in the middle of an hour that thus has thirty minutes.
    assert window("hour", "Australia/Lord_Howe", "2026-10-04T02:40+11:00") == (
        "2026-10-04T02:30:00+11:00",
        "2026-10-04T03:00:00+11:00",
        0.5,
    )


def test_times_before_the_epoch_and_far_ahead_work() -> None:
    assert window("day", "Europe/Berlin", "1940-04-01T12:00+02:00")[2] == 23
    assert window("month", "Europe/Berlin", "2400-02-29T12:00+01:00")[2] == 29 * 24


def test_the_windows_around_a_moment_are_neighbours() -> None:
    period = calendar("month", "Europe/Berlin", 360)
    at = instant("2026-03-27T11:00+01:00")
    bounds = period.around(at)
    assert bounds == period.around(at)
    assert bounds[2] <= at < bounds[3]
    assert all(period.next_after(one) == other for one, other in zip(bounds, bounds[1:]))
    assert period.around(bounds[3])[1:4] == bounds[2:]


@pytest.mark.parametrize(
    "period", [calendar("minute"), calendar("week", "America/Argentina/Buenos_Aires", 90), rolling(0.1 * 3)]
)
def test_a_period_can_be_written_down_and_sent_away(period: object) -> None:
    assert parse(period.text) == period  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(period)) == period
    assert hash(parse(period.text)) == hash(period)  # type: ignore[attr-defined]
    assert " " not in period.text  # type: ignore[attr-defined]


def test_periods_that_differ_are_not_equal() -> None:
    periods = [calendar("day"), calendar("day", "UTC", 1), calendar("day", "Europe/Berlin"), rolling(86400.0)]
    assert len(set(periods)) == len(periods)
    assert calendar("day") != "day/UTC/0"


def test_a_step_of_a_rolling_window_is_a_sixtieth() -> None:
    hour = rolling(3600.0)
    assert [hour.slot_of(at) for at in (-0.1, 0.0, 59.9, 60.0, 3600.0)] == [-1, 0, 0, 1, 60]


@pytest.mark.parametrize("name", ["Europe/Atlantis", "Europe", "../etc/passwd", "/etc/passwd", "", "x" * 300])
def test_a_zone_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"timezone is .*like 'Europe/Berlin'"):
        calendar("day", name)


def test_a_machine_without_time_zones_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    monkeypatch.setattr(zoneinfo, "available_timezones", set)

    def unknown(key: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}")

    monkeypatch.setattr(zoneinfo, "ZoneInfo", unknown)
    with pytest.raises(ConfigurationError, match="pip install tzdata"):
        calendar("day", "Europe/Madrid")
    assert calendar("day", "UTC").next_after(0) == 86_400


def test_utc_is_what_is_meant_by_default() -> None:
    assert calendar("day") is calendar("day", "UTC", 0)
    assert datetime.fromtimestamp(calendar("day").next_after(0), timezone.utc).day == 2
