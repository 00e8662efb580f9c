"""`tokencap limit`, `grant`, `reset` and `changes`: a running app obeys, and it is known who it was."""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest
from command import PLACES, Command, filled, place_of, policy, spend

from tokencap import DimensionPolicy, Guard, Policy
from tokencap.backends.urls import open_url

# Makes one call of so many tokens for every line it reads, and says what became of it.
APP = """
import sys
sys.path[:0] = sys.argv[2:]
from command import policy, spend
from tokencap import Guard
from tokencap.backends.urls import open_url
with Guard(policy(tenant=1_000), {"tenant": "acme"}, open_url(sys.argv[1])) as guard:
    for line in sys.stdin:
        print("done" if spend(guard, int(line)) else "refused", flush=True)
"""
TESTS = Path(__file__).parents[1]


class App:
    """A program that was started before anything was changed."""

    def __init__(self, place: str, pipes: tuple[IO[str], IO[str]]) -> None:
        self.place = place
        self._pipes = pipes

    def spend(self, tokens: int) -> str:
        into, out = self._pipes
        into.write(f"{tokens}\n")
        into.flush()
        return out.readline().strip()


@pytest.fixture(scope="module", params=PLACES)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    place = place_of(request.param, tmp_path_factory.mktemp("app"))
    with subprocess.Popen(
        [sys.executable, "-c", APP, place, str(TESTS), str(TESTS / "cli")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stuck = threading.Timer(120, process.kill)
        stuck.start()
        yield App(place, (process.stdin, process.stdout))
        process.stdin.close()
        assert process.wait() == 0
        stuck.cancel()


def test_a_running_app_obeys_from_its_next_call_on(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    tokencap_ = Command(app.place, capsys)
    assert app.spend(1_000) == "done"
    assert app.spend(1) == "refused"
    for change, then in [
        (["grant", "tenant", "acme", "10"], ["done", "refused"]),
        (["limit", "tenant", "acme", "5k"], ["done"]),
        (["limit", "tenant", "acme", "500"], ["refused"]),
        (["reset", "tenant", "acme"], ["done"]),
        (["limit", "tenant", "acme", "default"], ["done", "refused"]),
    ]:
        assert tokencap_(*change, "--yes").status == 0
        assert [app.spend(500) for _ in then] == then


def test_before_it_is_done_the_change_is_shown(
    place: str, tokencap_: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(place)
    for answer, status in (("n\n", 1), ("", 1), ("y\n", 0)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        done = tokencap_("limit", "tenant", "acme", "2k")
        assert done.status == status
        for line in ("tenant=acme", "limit  1,000 → 2,000", "used   600", "left   400 → 1,400"):
            assert line in done.err
        assert f"limit tenant=acme in {open_url(place).name}? [y/N]" in done.err
        assert ("nothing was changed" in done.err) == (status == 1)
        assert ("limit  1,000 → 2,000" in done.out) == (status == 0)
    assert limit_of(tokencap_) == 2_000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def limit_of(tokencap_: Command, budget: str = "tenant=acme") -> object:
    return tokencap_("status", budget, "--json").json()["budgets"][0]["limit"]


@pytest.mark.parametrize("command", ["limit", "grant", "reset"])
def test_without_a_terminal_and_without_yes_nothing_is_changed(
    place: str, tokencap_: Command, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    done = tokencap_(command, "tenant", "acme", *([] if command == "reset" else ["5k"]))
    assert (done.status, done.out) == (2, "")
    assert "nothing was changed: there is no terminal to ask on; add --yes" in done.err
    assert limit_of(tokencap_) == 1_000
    assert tokencap_("changes", "--json").json()["changes"] == []


def test_who_changed_what_is_known_to_whoever_asks(
    place: str, tokencap_: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(place)
    before = time.time()
    monkeypatch.delenv("SUDO_USER", raising=False)
    made = [
        tokencap_(*argv, "--yes", "--json").json()
        for argv in (
            ["limit", "tenant", "acme", "2k"],
            ["grant", "tenant", "acme", "500"],
            ["reset", "tenant", "acme"],
        )
    ]
    backend = open_url(place)
    with Guard(policy(tenant=1_000), {"tenant": "globex"}, backend) as guard:
        guard.set_limit("tenant", None)
    backend.close()
    found = tokencap_("changes", "--json").json()["changes"]
    assert [{**each, "backend": made[0]["backend"]} for each in found[:3]] == [
        pytest.approx({**each, "time": each["time"]}) for each in made
    ]
    assert [tuple(each.values())[1:] for each in found] == [
        ("tenant", "acme", "limit", 2_000, ME, HOST, 1_000, 2_000, 600, 600),
        ("tenant", "acme", "grant", 500, ME, HOST, 2_000, 2_500, 600, 600),
        ("tenant", "acme", "reset", None, ME, HOST, 2_500, 2_000, 600, 0),
        ("tenant", "globex", "limit", None, ME, HOST, 1_000, 1_000, 1_025, 1_025),
    ]
    assert before - 1 <= found[0]["time"] <= time.time() + 1
    lines = tokencap_("changes").out.splitlines()
    assert [" ".join(line.split()[3:]) for line in lines[3:]] == [
        f"tenant=acme limit 1,000 → 2,000 {ME}@{HOST}",
        f"tenant=acme grant 2,000 → 2,500 {ME}@{HOST}",
        f"tenant=acme reset used 600 → 0 {ME}@{HOST}",
        f"tenant=globex limit 1,000 → 1,000 (as configured) {ME}@{HOST}",
    ]
    assert len(tokencap_("changes", "tenant=globex", "--json").json()["changes"]) == 1
    for since, many in (("1h", 4), ("2026-01-31", 4), ("ever", 4), ("2999-01-31", 0)):
        assert len(tokencap_("changes", "--since", since, "--json").json()["changes"]) == many
    assert tokencap_("changes", "session", "--json").json()["changes"] == []


ME, HOST = getpass.getuser(), socket.gethostname()


def test_whoever_uses_sudo_is_named(place: str, tokencap_: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(place)
    monkeypatch.setenv("SUDO_USER", "mo")
    done = tokencap_("reset", "tenant", "acme", "--yes")
    assert f"done, by mo (as {ME}) on {HOST}" in done.out


def test_a_budget_that_is_not_there_is_answered_with_those_that_are(place: str, tokencap_: Command) -> None:
    filled(place)
    for dimension, identifier, said in [
        ("tenannt", "acme", "no budget has the dimension 'tenannt'; the store knows session, tenant"),
        ("tenant", "acne", "knows no tenant=acne; there is tenant=acme"),
    ]:
        for argv in (
            ["limit", dimension, identifier, "5", "--yes"],
            ["grant", dimension, identifier, "5", "--yes"],
            ["reset", dimension, identifier, "--yes"],
            ["changes", f"{dimension}={identifier}"],
        ):
            done = tokencap_(*argv)
            assert (done.status, done.out) == (1, "")
            assert said in done.err
    assert tokencap_("changes", "--json").json()["changes"] == []


def test_a_limit_can_be_set_before_the_first_call(place: str, tokencap_: Command) -> None:
    filled(place)
    done = tokencap_("limit", "tenant", "initech", "50", "--new", "--yes")
    assert "limit  no limit → 50" in done.out
    backend = open_url(place)
    with Guard(policy(tenant=1_000), {"tenant": "initech"}, backend) as guard:
        assert spend(guard, 60)
        assert not spend(guard, 1)
    backend.close()


def test_a_grant_is_for_the_window_of_the_moment(place: str, tokencap_: Command) -> None:
    hour = Policy({"tenant": DimensionPolicy(limit=100, window=timedelta(hours=1))})
    backend = open_url(place)
    with Guard(hour, {"tenant": "acme"}, backend) as guard:
        spend(guard, 30)
        assert tokencap_("grant", "tenant", "acme", "20", "--yes").status == 0
        state = guard.get_status().dimensions["tenant"]
        assert (state.limit, state.used) == (120, 30)
    backend.close()


def test_a_budget_that_refused_its_first_call_is_listed(place: str, tokencap_: Command) -> None:
    backend = open_url(place)
    with Guard(policy(tenant=10), {"tenant": "acme"}, backend) as guard, contextlib.suppress(Exception):
        guard.call(provider="openai", model="gpt-5", estimate=500).__enter__()
    backend.close()
    (found,) = tokencap_("status", "--json").json()["budgets"]
    assert (found["identifier"], found["limit"], found["used"]) == ("acme", 10, 0)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users with numbers")
def test_somebody_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokencap._audit import who

    monkeypatch.setattr(getpass, "getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found")))
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert who().user == f"uid {os.getuid()}"
