"""What the ledger answers, decided from sums alone."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta, timezone

import pytest

from tokencap import ConfigurationError, TokenUsage
from tokencap._entry import Entry, Label, Sum, entry_of
from tokencap._usage import UsageRow, fold, names_of, period_of, seconds_of
from tokencap.ledger import Retention

ACME = Label("openai", "/chat/completions", "gpt-4o", "gpt-4o", {"tenant": "acme"}, {"agent": "a"}).text()
CHEAP = Label("openai", "/chat/completions", "gpt-4o", "gpt-4o-mini", {"tenant": "acme"}, {}).text()
OTHER = Label("anthropic", "/v1/messages", "opus", "opus", {"tenant": "other"}, {"tenant": "tagged"}).text()
HOUR = 3_600 * 500_000

SUMS = [
    Sum(ACME, HOUR, "ok", 3, 1, 300, 30, 100, 10, 5, 1.5),
    Sum(ACME, HOUR + 3_600, "blocked", 2, 0, 0, 0, 0, 0, 0, 0.0),
    Sum(CHEAP, HOUR, "cut", 1, 1, 50, 5, 0, 0, 0, 0.5),
    Sum(OTHER, HOUR, "failed", 4, 0, 1000, 0, 0, 0, 0, 4.0),
]


def ask(by=None, **where):
    return fold(SUMS, names_of(by), where, 0.0, HOUR + 7_200.0)


def tokens(by, **where):
    return {row.key: row.tokens for row in ask(by, **where)}


def test_rows_have_every_count():
    acme = ask("tenant")[1]
    assert acme == UsageRow(
        ("acme",), calls=6, input=350, cached=100, written=10, output=35, reasoning=5, blocked=2, cut=1,
        degraded=1, estimated=2, seconds=2.0,
    )  # fmt: skip
    assert (acme.tokens, acme.ok, acme.key) == (385, 3, "acme")


def test_the_total_is_of_all_rows():
    for by in (None, "model", ("hour", "ending")):
        total = ask(by).total
        assert (total.calls, total.tokens, total.blocked, total.failed) == (10, 1385, 2, 4)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("model", {"gpt-4o": 330, "gpt-4o-mini": 55, "opus": 1000}),
        ("model_asked", {"gpt-4o": 385, "opus": 1000}),
        ("provider", {"openai": 385, "anthropic": 1000}),
        ("endpoint", {"/chat/completions": 385, "/v1/messages": 1000}),
        ("ending", {"ok": 330, "blocked": 0, "cut": 55, "failed": 1000}),
        ("tenant", {"acme": 385, "other": 1000}),
        ("dimension:tenant", {"acme": 385, "other": 1000}),
        ("tag:tenant", {"": 385, "tagged": 1000}),
        ("agent", {"a": 330, "": 1055}),
        ("no such name", {"": 1385}),
        (("provider", "tenant"), {"openai, acme": 385, "anthropic, other": 1000}),
    ],
)  # fmt: skip
def test_calls_are_grouped_by_anything_they_have_in_common(by, expected):
    assert tokens(by) == expected


def test_periods_come_in_order_and_the_rest_by_tokens():
    assert [row.group for row in ask(("hour", "model"))] == [
        ("2027-01-15T08:00Z", "opus"),
        ("2027-01-15T08:00Z", "gpt-4o"),
        ("2027-01-15T08:00Z", "gpt-4o-mini"),
        ("2027-01-15T09:00Z", "gpt-4o"),
    ]
    assert [row.key for row in ask("day")] == ["2027-01-15"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"tenant": "acme"}, 385),
        ({"tenant": ["acme", "other"]}, 1385),
        ({"tenant": "acme", "model": "gpt-4o-mini"}, 55),
        ({"ending": ("ok", "cut")}, 385),
        ({"tag:agent": "a"}, 330),
        ({"tenant": "nobody"}, 0),
    ],
)
def test_calls_are_chosen_by_anything_they_have_in_common(where, expected):
    assert ask(**where).total.tokens == expected


def test_the_answer_knows_its_range():
    answer = ask("model")
    assert answer.since == datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert answer.until == datetime(2027, 1, 15, 10, tzinfo=timezone.utc)
    assert fold([], (), None, None, 0.0).since is None


def test_the_answer_is_a_sequence():
    answer = ask("model")
    assert len(answer) == 3
    assert answer[0] == next(iter(answer)) == answer.rows[0]
    assert [row.key for row in answer[1:]] == ["gpt-4o", "gpt-4o-mini"]


def test_it_is_exported_as_dicts_json_lines_and_csv_alike():
    answer = ask(("tenant", "model"))
    dicts = answer.to_dicts()
    assert dicts[1]["tenant"] == "acme"
    assert dicts[1]["tokens"] == 330
    assert [json.loads(line) for line in answer.to_jsonl().splitlines()] == dicts
    read = list(csv.DictReader(io.StringIO(answer.to_csv())))
    assert read == [{name: str(value) for name, value in row.items()} for row in dicts]


def test_a_spreadsheet_does_not_take_a_name_for_a_formula():
    label = Label("openai", "/x", "=1+1", "=1+1", {}, {}).text()
    answer = fold([Sum(label, 0, "ok", 1, 0, 1, 0, 0, 0, 0, 0.0)], ("model",), None, None, 0.0)
    assert answer.to_csv().splitlines()[1].startswith("'=1+1,")
    assert answer.to_dicts()[0]["model"] == "=1+1"


@pytest.mark.parametrize("by", ["", ["model", ""], [5], ["model", "model"], ["hour", "day"]])
def test_what_cannot_be_grouped_by_is_a_mistake(by):
    with pytest.raises(ConfigurationError):
        names_of(by)


@pytest.mark.parametrize("where", [{"hour": "x"}, {"model": 5}, {"model": [5]}, {"ending": "okay"}])
def test_what_cannot_be_chosen_by_is_a_mistake(where):
    with pytest.raises(ConfigurationError):
        ask("model", **where)


def test_periods():
    assert [period_of(names_of(by)) for by in ("model", "hour", ("day", "model"))] == [0, 3_600, 86_400]


NOW = 1_900_000_000.0
BEGINNING = datetime(1, 1, 1, tzinfo=timezone.utc).timestamp()
END = datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (None, None),
        ("24h", NOW - 86_400),
        ("30m", NOW - 1_800),
        ("1.5d", NOW - 129_600),
        ("2w", NOW - 1_209_600),
        ("10s", NOW - 10),
        (timedelta(hours=2), NOW - 7_200),
        (datetime(2030, 1, 31, tzinfo=timezone.utc), 1_896_048_000.0),
        ("2030-01-31T00:00:00+00:00", 1_896_048_000.0),
        ("2030-01-31T00:00:00Z", 1_896_048_000.0),
        ("2030-01-31", datetime(2030, 1, 31).timestamp()),
        # As good as ever and never.
        ("99999999d", BEGINNING),
        ("9" * 400 + "d", BEGINNING),
        (timedelta.max, BEGINNING),
        (datetime.min, BEGINNING),
        ("0001-01-01", BEGINNING),
        (timedelta.min, END),
        (datetime.max, END),
    ],
)
def test_times_are_said_in_many_ways(moment, expected):
    assert seconds_of(moment, NOW, "since") == expected


@pytest.mark.parametrize("moment", ["", "h", "24", "-1h", "1e3h", "yesterday", "²h", 5])
def test_what_is_not_a_time_is_a_mistake(moment):
    with pytest.raises(ConfigurationError, match="since is"):
        seconds_of(moment, NOW, "since")


@pytest.mark.parametrize(
    "fields", [{"days": 0}, {"days": -1}, {"days": True}, {"days": "9"}, {"rows": 0}, {"rows": 1.5}]
)
def test_a_retention_that_cannot_be_is_a_mistake(fields):
    with pytest.raises(ConfigurationError):
        Retention(**fields)


def test_a_label_says_the_same_twice_and_survives_anything():
    label = Label("p", "/e", "asked", "used", {"tenant": 'a"\\\n\ud800ü'}, {"b": "2", "a": "1"})
    text = label.text()
    assert text.isascii()
    assert Label.parse(text) == label
    assert text == label._replace(tags={"a": "1", "b": "2"}).text()


def test_a_name_of_a_megabyte_does_not_fill_the_ledger():
    assert len(Label("p", "/e", "x" * 10**6, "y" * 10**6, {}, {}).text()) < 1_000


USAGE = TokenUsage(100, 20, 30, 40, 5)


@pytest.mark.parametrize(
    ("tokens", "usage", "expected"),
    [
        (120, USAGE, (100, 20, 30, 40, 5)),
        (150, USAGE, (100, 50, 30, 40, 5)),
        (60, None, (50, 10, 0, 0, 0)),
        (50, None, (50, 0, 0, 0, 0)),
        (0, None, (0, 0, 0, 0, 0)),
        (0, USAGE, (0, 0, 0, 0, 0)),
    ],
)
def test_input_and_output_come_to_what_was_charged(tokens, usage, expected):
    entry = entry_of("x", "ok", tokens, usage, 50, False, 1.0)
    assert tuple(entry[2:7]) == expected
    assert entry == Entry("x", "ok", *expected, 50, False, 1.0)
