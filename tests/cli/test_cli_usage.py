"""`tokencap usage`: where the tokens went, by whatever the ledger knows."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from command import Clock, Command, filled, policy, spend

from tokencap import Guard
from tokencap._usage import Usage, UsageRow
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.cli.main import main
from tokencap.cli.text import Look
from tokencap.cli.usage import render


def test_a_script_gets_rows_and_their_total(place: str, tokencap_: Command) -> None:
    filled(place)
    found = tokencap_("usage", "--by", "tenant,model", "--json").json()
    rows = {(row["tenant"], row["model"]): row for row in found["rows"]}
    assert found["by"] == ["tenant", "model"]
    assert {key: row["tokens"] for key, row in rows.items()} == {
        ("globex", "gpt-5"): 1_025,
        ("acme", "gpt-5"): 400,
        ("acme", "claude-haiku-4-5"): 200,
    }
    assert rows["globex", "gpt-5"]["cached"] == 500
    assert rows["globex", "gpt-5"]["blocked"] == 1
    assert rows["acme", "gpt-5"]["failed"] == 1
    assert found["total"]["tokens"] == 1_625
    assert found["total"]["calls"] == 5
    assert datetime.fromisoformat(found["since"]) < datetime.fromisoformat(found["until"])


def test_by_a_tag_calls_without_it_have_a_row(place: str, tokencap_: Command) -> None:
    filled(place)
    rows = tokencap_("usage", "--by", "agent", "--json").json()["rows"]
    assert {row["agent"]: row["tokens"] for row in rows} == {"": 1_025, "planner": 400, "writer": 200}
    assert "(none)" in tokencap_("usage", "--by", "agent").out


def test_calls_are_chosen_by_name_and_values_of_one_name_add_up(place: str, tokencap_: Command) -> None:
    filled(place)

    def total(*where: str) -> int:
        argv = [part for one in where for part in ("--where", one)]
        return int(tokencap_("usage", "--json", *argv).json()["total"]["tokens"])

    assert total("tenant=acme") == 600
    assert total("tenant=acme", "model=gpt-5") == 400
    assert total("agent=planner", "agent=writer") == 600
    assert total("ending=blocked") == 0


def test_the_screen_has_a_summary_a_plot_and_a_table(place: str, tokencap_: Command) -> None:
    filled(place)
    out = tokencap_("usage").out
    assert "1,625 tokens in 5 calls, 34.5 % of the prompts from a cache, 1 blocked, 1 failed" in out
    assert "tokens per hour (UTC)" in out
    assert "1.6k │" in out
    (line,) = [line for line in out.splitlines() if line.startswith("gpt-5")]
    assert line.split()[1] == "1,425"
    assert "87.7 %" in line
    assert "█" * 10 in line


def test_csv_and_json_lines_are_the_same_rows(place: str, tokencap_: Command) -> None:
    filled(place)
    rows = tokencap_("usage", "--json").json()["rows"]
    lines = tokencap_("usage", "--jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = list(csv.DictReader(io.StringIO(tokencap_("usage", "--csv").out)))
    assert [(row["model"], int(row["tokens"])) for row in table] == [
        (row["model"], row["tokens"]) for row in rows
    ]


def test_a_name_that_no_call_has_is_answered_with_those_there_are(place: str, tokencap_: Command) -> None:
    filled(place)
    for argv in (["--by", "agnet"], ["--where", "agnet=planner"], ["--by", "tag:tenant"]):
        done = tokencap_("usage", *argv)
        assert (done.status, done.out) == (1, "")
        assert "dimensions: session, tenant; tags: agent" in done.err
    # A name that is known, with a value that nobody has, is no mistake.
    assert tokencap_("usage", "--where", "tenant=nobody", "--json").json()["rows"] == []
    assert "No call in this time" in tokencap_("usage", "--where", "tenant=nobody").out


@pytest.mark.parametrize(
    "argv",
    [["--by", "hour,day"], ["--by", "model,model"], ["--where", "ending=lost"]],
)
def test_what_cannot_be_asked_for_is_said(place: str, tokencap_: Command, argv: list[str]) -> None:
    filled(place)
    done = tokencap_("usage", *argv)
    assert done.status == 1
    assert done.err.startswith("tokencap: ")
    assert done.err.count("\n") == 1


def test_a_wrong_command_line_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["usage", "--where", "tenant"],
        ["usage", "--csv", "--jsonl"],
        ["usage", "--csv", "--json"],
        ["usage", "--since", "yesterday"],
        ["usage", "--until", "24x"],
        ["usage", "--until", "ever"],
        ["report", "--since", "yesterday"],
        ["changes", "--since", "yesterday"],
        ["sttaus"],
        ["status", "--window", "x"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_a_time_before_all_others_is_as_good_as_ever(place: str, tokencap_: Command, tmp_path: Path) -> None:
    filled(place)
    for long_ago in ("9999999d", "1960-01-01"):
        assert "1,625 tokens in 5 calls" in tokencap_("usage", "--since", long_ago).out
        assert "no call in this time" in tokencap_("usage", "--until", long_ago).out.lower()
        done = tokencap_("report", "--since", long_ago, "-o", str(tmp_path / "report.html"))
        assert (done.status, done.err) == (0, "")


def test_hours_without_a_call_have_a_place_in_the_plot(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = datetime(2026, 3, 27, 5, 30, tzinfo=timezone.utc).timestamp()
    backend = SQLiteBackend(tmp_path / "tokencap.db", clock=clock)
    with Guard(policy(session=None), {"session": "s"}, backend) as guard:
        spend(guard, 100)
        clock.now += 5 * 3_600
        spend(guard, 100)
        found = guard.usage("hour", since="6h")
        lines = render(found, found, "x", Look(80))
    backend.close()
    at = lines.index("tokens per hour (UTC)")
    drawn = lines[at + 6].partition("│")[2]
    assert drawn == " " * 6 + "█████ " + " " * 24 + "█████"
    assert lines[at + 8].split() == ["27", "Mar", "04:00", "27", "Mar", "10:00"]


@pytest.mark.parametrize("width", [40, 60, 79, 119])
def test_the_screen_fits_the_terminal(width: int) -> None:
    rows = tuple(
        UsageRow((f"model-with-a-long-name-{n}", "t"), n, n * 10**6, n, 0, n, 0, n, 0, 0, 0, 0, n)
        for n in (9, 5)
    )
    now = datetime(2026, 3, 27, 12, tzinfo=timezone.utc)
    usage = Usage(("model", "tenant"), rows, UsageRow((), 14, 14 * 10**6), now - timedelta(days=1), now)
    hours = Usage(("hour",), (UsageRow(("2026-03-27T05:00Z",), 1, 5),), rows[0], usage.since, now)
    lines = render(usage, hours, "sqlite:x", Look(width))
    assert all(len(line) <= width for line in lines[3:])
