"""`tokencap status`: what it shows, what a script gets, and what is said when there is nothing to show."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command import Clock, Command, filled, policy, spend

import tokencap
from tokencap import Action, BudgetKey, BudgetState, Guard, Threshold
from tokencap._entry import Label, Sum
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.backends.urls import open_url
from tokencap.budget import UNLIMITED
from tokencap.cli.main import main
from tokencap.cli.standing import Burn, Standing, burns_of, standings
from tokencap.cli.status import lasting, render
from tokencap.cli.text import Look


def budgets(tokencap_: Command, *argv: str) -> dict[str, Any]:
    found = tokencap_("status", "--json", *argv).json()["budgets"]
    return {f"{one['dimension']}={one['identifier']}": one for one in found}


def test_a_script_gets_every_budget(place: str, tokencap_: Command) -> None:
    filled(place)
    found = budgets(tokencap_)
    assert set(found) == {"tenant=acme", "tenant=globex", "session=s"}
    acme = found["tenant=acme"]
    assert (acme["used"], acme["reserved"], acme["limit"], acme["remaining"]) == (600, 0, 1_000, 400)
    assert acme["pct_used"] == 0.6
    assert found["tenant=globex"]["exhausted_in_seconds"] == 0
    assert found["session=s"]["limit"] is None
    assert found["session=s"]["used"] == 1_625


def test_calls_in_flight_are_held(place: str, tokencap_: Command) -> None:
    backend = filled(place)
    guard = Guard(policy(tenant=1_000), {"tenant": "acme"}, backend)
    with guard, guard.call(provider="openai", model="gpt-5", estimate=70):
        found = budgets(tokencap_)["tenant=acme"]
    backend.close()
    assert found["calls_in_flight"] == 1
    assert found["reserved"] >= 70
    assert found["remaining"] == 400 - found["reserved"]


def test_the_screen_has_a_line_for_each_budget_with_its_bar(place: str, tokencap_: Command) -> None:
    filled(place)
    done = tokencap_("status")
    lines = {line.split("  ")[0].strip(): line for line in done.out.splitlines()}
    assert done.status == 0
    assert "██████████████▍░░░░░░░░░   60.0 %    600     1,000 " in lines["tenant=acme"]
    assert "102.5 %  1,025     1,000 " in lines["tenant=globex"]
    assert lines["tenant=globex"].endswith("used up")
    assert "1,625  no limit" in lines["session=s"]


def test_one_dimension_or_one_budget_is_asked_for_by_name(place: str, tokencap_: Command) -> None:
    filled(place)
    assert set(budgets(tokencap_, "tenant")) == {"tenant=acme", "tenant=globex"}
    assert set(budgets(tokencap_, "tenant=acme")) == {"tenant=acme"}


def test_a_script_is_told_by_the_exit_status_that_a_budget_is_used_up(place: str, tokencap_: Command) -> None:
    filled(place)
    assert tokencap_("status").status == 0
    assert tokencap_("status", "--check").status == 3
    assert tokencap_("status", "tenant=acme", "--check").status == 0
    assert tokencap_("status", "tenant=acme", "--check", "60").status == 3
    assert tokencap_("status", "tenant=acme", "--check", "60.1").status == 0
    assert tokencap_("status", "session", "--check").status == 0


def test_a_misspelt_name_is_answered_with_those_there_are(place: str, tokencap_: Command) -> None:
    filled(place)
    done = tokencap_("status", "tenannt")
    assert (done.status, done.out) == (1, "")
    assert "no budget has the dimension 'tenannt'; the store knows session, tenant" in done.err
    done = tokencap_("status", "tenant=acne")
    assert done.status == 1
    assert "knows no tenant=acne; there is tenant=acme" in done.err
    assert "names no budget; write DIMENSION=IDENTIFIER" in tokencap_("status", "tenant=").err


def test_the_burn_rate_is_that_of_the_last_hour_or_of_the_life_so_far(tmp_path: Path) -> None:
    clock = Clock(ago=7_200)
    backend = SQLiteBackend(tmp_path / "tokencap.db", clock=clock)
    with Guard(policy(tenant=10_000), {"tenant": "acme"}, backend) as guard:
        spend(guard, 3_000)  # two hours ago: no longer part of it
        clock.now += 5_400
        spend(guard, 600)
        clock.now += 1_740
        spend(guard, 600)
        clock.now += 60
        (one,) = standings(backend, 3_600)
    backend.close()
    # A life of 30 minutes, begun in the minute of the first call.
    assert 1_200 / 31 < one.burn.per_minute <= 1_200 / 30
    assert one.lasts == pytest.approx(5_800 / one.burn.per_minute * 60)


def sums(*spent: tuple[int, int]) -> list[Sum]:
    label = Label("openai", "/x", "m", "m", {"tenant": "acme", "session": "s"}, {}).text()
    return [Sum(label, period, "ok", 1, 0, tokens, 0, 0, 0, 0, 0.0) for period, tokens in spent]


def test_every_budget_of_a_call_burns() -> None:
    found = burns_of(sums((0, 100), (60, 200)), now=120.0, window=3_600)
    assert found == {
        BudgetKey("tenant", "acme"): Burn(150.0, 60),
        BudgetKey("session", "s"): Burn(150.0, 60),
    }
    assert burns_of(sums((0, 0)), 60.0, 3_600) == {}
    assert (
        burns_of(sums((3_000, 900)), now=3_001.0, window=3_600)[BudgetKey("session", "s")].per_minute == 900
    )


def test_the_next_threshold_is_the_first_that_is_ahead(place: str, tokencap_: Command) -> None:
    warn = Action("WARN", lambda status: None)
    steps = [(0.5, [warn]), (0.8, [warn, Action("DEGRADE", degrade_to="gpt-5-nano")])]
    thresholds = [Threshold(*step) for step in [*steps, (1.0, [Action("BLOCK")])]]
    backend = open_url(place)
    steep = tokencap.Policy({"tenant": tokencap.DimensionPolicy(1_000, thresholds)})
    with Guard(steep, {"tenant": "acme"}, backend) as guard:
        for spent, found in [
            (499, {"at_pct": 0.5, "actions": ["WARN"], "at_tokens": 500}),
            (1, {"at_pct": 0.8, "actions": ["WARN", "DEGRADE"], "at_tokens": 800}),
            (300, {"at_pct": 1.0, "actions": ["BLOCK"], "at_tokens": 1_000}),
            (200, None),
        ]:
            spend(guard, spent)
            assert budgets(tokencap_)["tenant=acme"]["next_threshold"] == found
            if spent == 1:
                assert "WARN, DEGRADE at 80 %" in tokencap_("status").out
        # The share stays, the limit may move.
        guard.set_limit("tenant", 10_000)
        assert budgets(tokencap_)["tenant=acme"]["next_threshold"]["at_tokens"] == 5_000
    backend.close()


def standing(used: int, limit: int, per_minute: float, resets_at: int | None = None) -> Standing:
    state = BudgetState(BudgetKey("tenant", "acme"), limit, used)
    if resets_at is not None:
        state = state._replace(resets_at=resets_at)
    return Standing(state, None, Burn(per_minute, 0), now=1_000.0)


@pytest.mark.parametrize(
    ("one", "seconds", "words"),
    [
        (standing(400, 1_000, 10), 3_600.0, "1 h"),
        (standing(400, 1_000, 0), None, "idle"),
        (standing(1_000, 1_000, 10), 0.0, "used up"),
        (standing(1_200, 1_000, 0), 0.0, "used up"),
        (standing(400, UNLIMITED, 10), None, ""),
        (standing(400, 1_000, 10, resets_at=4_000), None, "resets in 50 min"),
        (standing(400, 1_000, 10, resets_at=4_601), 3_600.0, "1 h"),
        (standing(1_000, 1_000, 10, resets_at=1_600), 0.0, "used up, resets in 10 min"),
    ],
)
def test_how_long_a_budget_lasts_knows_of_limit_rate_and_reset(
    one: Standing, seconds: float | None, words: str
) -> None:
    assert one.lasts == seconds
    assert lasting(one) == words
    assert one.to_dict()["exhausted_in_seconds"] == seconds


def test_of_many_budgets_the_first_are_shown_and_the_rest_are_counted() -> None:
    many = [standing(n, 1_000, 0) for n in range(25)]
    lines = render(many, "sqlite:x", 0.0, Look(100), 20)
    assert len(lines) == 2 + 1 + 20 + 2
    assert lines[-1] == "5 more, less in need of a look: tokencap status --all"


@pytest.mark.parametrize("width", [40, 60, 79, 119])
def test_the_screen_fits_the_terminal(width: int) -> None:
    one = standing(123_456_789, 987_654_321, 12_345)
    one = one._replace(state=one.state._replace(key=BudgetKey("tenant", "n" * 60)))
    assert all(len(line) <= width for line in render([one], "s", 0.0, Look(width)))


def test_what_a_hostile_tenant_is_called_does_not_reach_the_terminal(place: str, tokencap_: Command) -> None:
    backend = open_url(place)
    with Guard(policy(tenant=1_000), {"tenant": "\x1b[2J\r\nroot"}, backend) as guard:
        spend(guard, 10)
    backend.close()
    for argv in (["status"], ["usage", "--by", "tenant"]):
        out = tokencap_(*argv).out
        assert "\\x1b[2J\\x0d\\x0aroot" in out
        assert "\x1b" not in out
    assert budgets(tokencap_)["tenant=\x1b[2J\r\nroot"]["used"] == 10


def test_a_budget_that_starts_anew_is_shown_in_the_window_of_the_moment(
    place: str, tokencap_: Command
) -> None:
    short = tokencap.Policy({"tenant": tokencap.DimensionPolicy(limit=100, window=timedelta(seconds=1))})
    day = tokencap.Policy({"team": tokencap.DimensionPolicy(limit=100, reset_every="day")})  # type: ignore[arg-type]
    backend = open_url(place)
    for one in (short, day):
        with tokencap.Guard(one, dict.fromkeys(one.dimensions, "acme"), backend) as guard:
            with guard.call(provider="openai", model="gpt-4o", estimate=10) as call:
                call.settle(60)
            guard.grant(next(iter(one.dimensions)), "acme", 5)
    time.sleep(1.1)
    backend.close()
    found = budgets(tokencap_)
    assert (found["tenant=acme"]["used"], found["tenant=acme"]["limit"]) == (0, 100)
    assert found["tenant=acme"]["resets_at"] is None
    team = found["team=acme"]
    assert team["used"] + team["previous_used"] == 60
    assert 0 < team["resets_at"] - time.time() <= 86_400


# -- stores that are not there ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["status"], ["usage"]])
def test_reading_never_makes_a_store_and_says_where_to_look(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"there is no store at {tmp_path / 'tokencap.db'}" in err
    assert "--backend" in err
    assert "TOKENCAP_BACKEND" in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be read as one " * 20)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE songs (name)")
    (tmp_path / "empty.db").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, said in [
        ("notes.txt", "cannot be read as a store"),
        ("other.db", "without the tables of tokencap"),
        ("empty.db", "without the tables of tokencap"),
        (".", "is a folder"),
    ]:
        assert main(["status", "--backend", name]) == 1
        assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_store_is_named_by_the_option_else_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(str(tmp_path / "here.db"))
    monkeypatch.setenv("TOKENCAP_BACKEND", str(tmp_path / "here.db"))
    assert main(["status"]) == 0
    assert "here.db" in capsys.readouterr().out
    monkeypatch.setenv("TOKENCAP_BACKEND", f"sqlite:{tmp_path / 'here.db'}")
    assert main(["status"]) == 0
    assert "here.db" in capsys.readouterr().out
    assert main(["status", "--backend", "elsewhere.db"]) == 1
    assert "elsewhere.db" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@127.0.0.1:1/0",
        "redis://user:hunter2@127.0.0.1:none/0",
        "postgres://user:hunter2@127.0.0.1/0",
        "redis://user:hunter2@127.0.0.1:1/0?what=hunter2",
        "redis://user:hunter2@127.0.0.1:1/0#bad{prefix}",
    ],
)
def test_no_password_is_ever_printed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["status"], ["usage", "--json"]):
        assert main([*argv, "--backend", url]) == 1
        out, err = capsys.readouterr()
        assert "hunter2" not in out + err
        assert err.startswith("tokencap: ")
        assert "Traceback" not in err


def test_a_store_that_fails_is_said_with_what_looks_closer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--backend", "redis://127.0.0.1:1/0"]) == 1
    assert capsys.readouterr().err.endswith("; `tokencap doctor` looks closer\n")


def test_a_file_of_the_first_schema_keeps_its_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = sqlite3.connect(tmp_path / "tokencap.db")
    old.executescript(
        "CREATE TABLE budgets (key_dimension TEXT, key_identifier TEXT, used_tokens INTEGER, limit_ INTEGER);"
        "INSERT INTO budgets VALUES ('session', 's', 77, 100)"
    )
    old.close()
    assert main(["status", "--json"]) == 0
    assert '"used": 77' in capsys.readouterr().out
