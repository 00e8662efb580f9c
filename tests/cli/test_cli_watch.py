"""`tokencap watch` in a real terminal: what is on its screen, how it follows, and how it leaves."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from command import PLACES, Command, filled, place_of, policy, spend
from terminal import Terminal, running

from tokencap import BudgetKey, BudgetState, Guard, TokenUsage
from tokencap._entry import Ahead, Entry, Label
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.urls import open_url
from tokencap.cli import live as following
from tokencap.cli.live import Follower, Live, Rate, Seen
from tokencap.cli.main import main
from tokencap.cli.standing import Burn, Standing
from tokencap.cli.text import Look, cells_of
from tokencap.cli.watch import render


def calls(terminal: Terminal) -> list[str]:
    """Return what is said of the last calls, without when they were and how long they took."""
    found = [line.split() for line in terminal.lines if re.match(r"\d\d:\d\d:\d\d ", line)]
    return [" ".join([*words[1:4], *words[6:]]) for words in found]


@pytest.mark.parametrize("kind", PLACES)
def test_the_screen_says_what_the_store_says_and_follows_it(kind: str, tmp_path: Path) -> None:
    place = place_of(kind, tmp_path)
    filled(place)
    with running("watch", "--backend", place, "--interval", "0.1") as terminal:
        terminal.until(lambda: len(calls(terminal)) == 5 and "q: leave" in terminal.lines[-1])
        assert re.match(r"tenant=acme \S+ 60.0 % 600 1,000 ", terminal.line("tenant=acme"))
        assert re.match(r"tenant=globex \S+ 102.5 % 1,025 1,000 .*used up$", terminal.line("tenant=globex"))
        assert terminal.line("session=s").startswith("session=s 1,625 no limit")
        assert calls(terminal) == [
            "gpt-5 0 failed tenant=acme session=s",
            "gpt-5 0 blocked tenant=globex session=s",
            "gpt-5 1,025 ok tenant=globex session=s",
            "claude-haiku-4-5 200 ok tenant=acme session=s",
            "gpt-5 400 ok tenant=acme session=s",
        ]
        # 1,425 tokens in the window of a minute, which grows by no more than an interval.
        rate = terminal.line("gpt-5").split()
        assert rate[2] == "1.4k"
        backend = open_url(place)
        with Guard(policy(tenant=1_000, session=None), {"tenant": "acme", "session": "s"}, backend) as guard:
            with guard.call(provider="openai", model="gpt-5-mini", estimate=7) as call:
                terminal.until(lambda: "1 in flight" in terminal.lines[1])
                call.settle(TokenUsage(30, 20))
            terminal.until(lambda: " 65.0 % 650 1,000" in terminal.line("tenant=acme"))
            terminal.until(lambda: terminal.line("gpt-5-mini"))
            terminal.until(lambda: "in flight" not in terminal.lines[1])
            # One that nobody has heard of before.
            spend(guard, 5, tenant="initech")
            terminal.until(lambda: " 0.5 % 5 1,000" in terminal.line("tenant=initech"))
        backend.close()
        terminal.resize(121, 40)
        terminal.until(lambda: "q: leave" in terminal.lines[39])
        assert terminal.line("budget") == "budget used limit held per min next lasts"
        assert " BLOCK at 100 % " in terminal.line("tenant=acme")
        assert not terminal.given_back
        terminal.type(b"q")
        assert terminal.ended() == 0
        assert terminal.given_back


@pytest.mark.parametrize("end", ["Ctrl-C", "SIGTERM", "SIGHUP"])
def test_however_it_ends_the_terminal_is_as_it_was(end: str, tmp_path: Path) -> None:
    place = str(tmp_path / "tokencap.db")
    filled(place)
    with running("watch", "--backend", place) as terminal:
        terminal.until(lambda: "q: leave" in terminal.lines[-1])
        if end == "Ctrl-C":
            terminal.type(b"\x03")
        else:
            os.kill(terminal.process.pid, getattr(signal, end))
        assert terminal.ended() == 128 + (2 if end == "Ctrl-C" else getattr(signal, end))
        assert terminal.given_back


def test_a_store_that_fails_is_said_and_watched_on(tmp_path: Path) -> None:
    place = tmp_path / "tokencap.db"
    filled(str(place))
    with running("watch", "--backend", str(place), "--interval", "0.1") as terminal:
        terminal.until(lambda: "q: leave" in terminal.lines[-1])
        whole = place.read_bytes()
        place.unlink()
        place.mkdir()
        terminal.until(lambda: "sqlite:" in terminal.lines[-1])
        assert " 60.0 % " in terminal.line("tenant=acme")
        place.rmdir()
        (tmp_path / "whole").write_bytes(whole)
        (tmp_path / "whole").rename(place)
        terminal.until(lambda: "q: leave" in terminal.lines[-1])
        terminal.type(b"q")
        assert terminal.ended() == 0


def test_without_a_terminal_it_is_said_what_to_do_instead(place: str, tokencap_: Command) -> None:
    filled(place)
    done = tokencap_("watch")
    assert (done.status, done.out) == (2, "")
    assert "there is no terminal to draw on; `tokencap status`" in done.err


def test_an_unknown_budget_is_answered_before_the_screen_is_taken(tmp_path: Path) -> None:
    place = str(tmp_path / "tokencap.db")
    filled(place)
    with running("watch", "tenannt", "--backend", place) as terminal:
        assert terminal.ended() == 1
        assert "the store knows session, tenant" in " ".join(terminal.lines)
        assert b"\x1b[?1049h" not in terminal.raw


# -- what is read ------------------------------------------------------------------------------------------


class Counting(MemoryBackend):
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        super().__init__(clock=lambda: self.time)
        self.asked = {"budgets": 0, "states": 0}

    def budgets(self) -> Any:
        self.asked["budgets"] += 1
        return super().budgets()

    def get_states(self, keys: Any) -> Any:
        self.asked["states"] += len(keys)
        return super().get_states(keys)


def test_every_call_is_counted_once_and_forgotten_after_the_window() -> None:
    backend = Counting()
    follower = Follower(backend, 60.0)
    with Guard(policy(tenant=100_000), {"tenant": "acme"}, backend) as guard:
        for second in range(90):
            spend(guard, 100)
            backend.time += 0.5
            spend(guard, 100)
            backend.time += 0.5
            live = follower.look()
            # Of the first minute the rest is empty; then it is full.
            assert live.total.tokens == pytest.approx(min(second + 1, 60) * 200, abs=410)
            assert live.total == Follower(backend, 60.0).look().total
    assert [one.burn.per_minute for one in live.standings] == [live.total.tokens]
    assert live.total.calls == pytest.approx(120, abs=3)
    assert [(name, rate.tokens) for name, rate in live.models] == [("gpt-5", live.total.tokens)]
    assert len(live.calls) == 100
    backend.time += 3_600
    assert follower.look().total == Rate()


def test_without_a_ledger_budgets_have_rates_all_the_same() -> None:
    backend = Counting()
    follower = Follower(backend, 60.0)
    with Guard(policy(tenant=100_000), {"tenant": "acme"}, backend, ledger=False) as guard:
        spend(guard, 1)
        rates = []
        for second in range(100):
            live = follower.look()
            rates.append(live.standings[0].burn.per_minute)
            spend(guard, 100 if second < 70 else 0)
            backend.time += 1
    assert rates[0] == 0
    assert set(rates[1:70]) == {6_000}
    assert rates[99] == pytest.approx(6_000 * 31 / 60)
    assert (live.calls, live.models) == ([], [])


def test_of_too_many_calls_the_newest_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_MOST_CALLS", 50)
    backend = Counting()
    with Guard(policy(tenant=None), {"tenant": "acme"}, backend) as guard:
        for _ in range(400):
            spend(guard, 10)
            backend.time += 0.01
    backend.time += 0.25
    assert Follower(backend, 60.0).look().total.tokens == pytest.approx(60_000, rel=0.05)


def test_of_many_budgets_only_those_worth_a_look_are_asked_for_often() -> None:
    backend = Counting()
    with Guard(policy(tenant=1_000), {"tenant": "t"}, backend) as guard:
        for number in range(300):
            spend(guard, number, tenant=f"t{number}")
        follower = Follower(backend, 60.0)
        backend.time += 1
        assert follower.look().known == 300
        assert backend.asked == {"budgets": 1, "states": 300}
        spend(guard, 900, tenant="t5")
        backend.time += 1
        live = follower.look()
    assert backend.asked["budgets"] == 1
    assert backend.asked["states"] <= 300 + 101
    assert [one.state.used for one in live.standings][:2] == [905, 299]


# -- what is drawn -----------------------------------------------------------------------------------------


def busy(many: int = 30) -> Live:
    label = Label("openai", "/x", "gpt-5", "gpt-5", {"tenant": "n" * 30, "session": "\x1b[2J"}, {})
    standings = [
        Standing(
            BudgetState(BudgetKey("tenant", f"{'n' * n}-{n}"), 10**9, 10**8 + n, 5, 2),
            None,
            Burn(12_345.6, 0),
            1e9,
            (Ahead(0.8, ("WARN", "DEGRADE")),),
        )
        for n in range(many)
    ]
    models = [(f"model-{n}", Rate(60.0, 1e6, 1e5, 1e5, 3.0)) for n in range(many)]
    calls = [Seen(1e9, label, Entry("", "blocked", 123_456, 7)) for _ in range(many)]
    return Live("sqlite:x", 1e9, standings, many + 5, models, Rate(*[1e4] * 5), calls)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(("width", "height"), [(79, 24), (119, 40), (39, 10), (250, 70), (5, 2), (1, 1)])
def test_it_fits_every_terminal(width: int, height: int, colour: bool) -> None:
    for live in (busy(), busy(1), Live("s", 0.0, [], 0, [], Rate(), [])):
        lines = render(live, Look(width, colour), height, "the store failed: " + "x" * 300)
        assert len(lines) == max(height, 1)
        assert all(cells_of(line) <= width for line in lines)
        assert not any("\x1b[2J" in line for line in lines)


def test_a_small_terminal_has_some_of_everything() -> None:
    lines = render(busy(), Look(79), 24)
    assert sum(line.startswith("tenant=") for line in lines) >= 6
    assert sum(line.startswith("model-") for line in lines) >= 2
    assert sum("blocked" in line for line in lines[2:]) >= 4
    assert "60 in flight" in lines[1]
    assert lines[3].startswith(f"budget ({35 - sum(line.startswith('tenant=') for line in lines)} more) ")


def test_the_help_names_the_status_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["watch", "--interval", "0"])
    assert stop.value.code == 2
    assert "no number above 0" in capsys.readouterr().err
