"""`tokencap doctor`: what is well is said to be, what is wrong is found, and what to do is said with it."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command import Clock, Command, filled, policy, spend

import tokencap
from tokencap import Guard, _coverage
from tokencap._coverage import Coverage
from tokencap._entry import Entry, Label
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.cli import checks, checks_file, checks_store
from tokencap.cli.doctor import render
from tokencap.cli.findings import NOTE, WELL, WRONG, Finding
from tokencap.cli.main import main
from tokencap.cli.text import Look, cells_of
from tokencap.clients.methods import methods_of

AREAS = ["installed", "configuration", "store", "clock", "unseen", "tokenizer", "guarded"]


def levels(found: Iterable[Finding]) -> dict[str, str]:
    """Return the worst level of each area, having seen that what is not well says what to do."""
    worst: dict[str, str] = {}
    for one in found:
        assert one.what
        assert one.level == WELL or one.do, one
        worst[one.area] = max(worst.get(one.area, WELL), one.level, key=[WELL, NOTE, WRONG].index)
    return worst


def only(found: Iterable[Finding], level: str) -> Finding:
    (one,) = [one for one in found if one.level == level]
    return one


def sql(path: Path, statement: str) -> Any:
    """Run one statement and return its first row."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchone()


_methods = functools.cache(methods_of)


@pytest.fixture(autouse=True)
def sources_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the SDKs, which takes a second."""
    monkeypatch.setattr(_coverage, "methods_of", _methods)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with something in it."""
    filled(str(tmp_path / "tokencap.db"))
    return tmp_path / "tokencap.db"


# -- the command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> Coverage:
    """Read the SDKs' sources once, which takes a second."""
    assert _coverage.coverage is tokencap.coverage
    return tokencap.coverage()


@pytest.fixture
def once(seen: Coverage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_coverage, "coverage", lambda: seen)


@pytest.mark.usefixtures("once")
def test_where_all_is_well_it_says_so(place: str, tokencap_: Command, seen: Coverage) -> None:
    filled(place)
    done = tokencap_("doctor", "--json")
    answer = done.json()
    assert (done.status, answer["well"], answer["wrong"]) == (0, True, 0)
    found = [Finding(**one) for one in answer["findings"]]
    assert list(levels(found)) == AREAS
    assert levels(found)["clock"] == levels(found)["unseen"] == WELL
    # The server of the tests keeps nothing on disk, which is noted.
    assert levels(found)["store"] == (WELL if place.endswith(".db") else NOTE)
    assert any(
        one.what == "the 5 calls of the last 7 days were charged what the provider reported" for one in found
    )
    assert answer["sdks"] == seen.sdks
    assert answer["coverage"] == [
        {**row._asdict(), "status": row.status.value, "methods": list(row.methods)} for row in seen.rows
    ]
    for package, version in seen.sdks.items():
        assert any(f"{package} {version}" in one.what for one in found if one.area == "installed")
    assert any("messages.batches.create()" in one.what for one in found if one.area == "guarded")


@pytest.mark.usefixtures("once")
def test_what_is_wrong_is_in_the_exit_status_and_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokencap.toml").write_text("limit = -1\nbackend = 'sqlite:gone/t.db'\n")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "  ✗ tokencap.toml:1: limit" in out
    assert "→ correct that, or say where it is with --backend PATH_OR_URL or in TOKENCAP_BACKEND" in out
    assert out.splitlines()[-1].startswith("2 things are wrong, ")
    Path("tokencap.toml").write_text("[[[")
    assert main(["doctor"]) == 1
    assert "this is not TOML" in capsys.readouterr().out


@pytest.mark.parametrize("look", [Look(40), Look(200, unicode=False), Look(60, colour=True)])
def test_the_screen_fits_the_terminal(look: Look) -> None:
    found = [
        Finding("store", WELL, "whole"),
        Finding("store", WRONG, "long " * 60 + "\x1b[2J", "do this " * 40),
        Finding("clock", NOTE, "x", "y"),
    ]
    lines = render(found, look)
    assert max(map(cells_of, lines)) <= look.width
    assert "\x1b[2J" not in "\n".join(lines)
    assert [line for line in lines if "store" in line and "whole" not in line] == [lines[0]]
    assert "1 thing is wrong, 1 note." in lines[-1]


# -- the store -------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_yet_is_no_fault_and_none_is_made(tmp_path: Path) -> None:
    found = list(checks_store.store(str(tmp_path / "new.db")))
    assert levels(found) == {"store": NOTE}
    assert "the first guarded call makes it" in found[0].do
    assert list(tmp_path.iterdir()) == []
    assert levels(checks_store.store("memory:")) == {"store": NOTE}


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be read as one " * 20)
    sql(tmp_path / "other.db", "CREATE TABLE songs (name)")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    for name in ("notes.txt", "other.db", "", "none/t.db"):
        assert levels(checks_store.store(str(tmp_path / name))) == {"store": WRONG}
    assert levels(checks_store.store("mongodb://user:hunter2@host")) == {"store": WRONG}
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_damaged_file_is_found_out(path: Path) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    assert levels(checks_store.store(str(path))) == {"store": WRONG}


def test_tables_of_another_version_are_left_as_they_are(path: Path) -> None:
    for version, level in ((999, WRONG), (2, NOTE)):
        sql(path, f"PRAGMA user_version = {version}")
        assert f"schema {version}" in only(checks_store.store(str(path)), level).what
        assert sql(path, "PRAGMA user_version") == (version,)


def test_a_file_out_of_wal_mode_is_noted_and_stays_so(path: Path) -> None:
    sql(path, "PRAGMA journal_mode = DELETE")
    assert "delete mode" in only(checks_store.store(str(path)), NOTE).what
    assert sql(path, "PRAGMA journal_mode") == ("delete",)


def test_a_file_that_cannot_be_written_is_wrong(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_file, "_PATIENCE", 0.01)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert "locked against writing" in only(checks_store.store(str(path)), WRONG).what
    holder.close()
    for forbidden in (path, path.parent):
        # Nothing is forbidden to the user that tests often run as.
        monkeypatch.setattr(checks_file.os, "access", lambda what, how, no=forbidden: Path(what) != no)
        assert "cannot be written by this user" in only(checks_store.store(str(path)), WRONG).what


def test_a_server_that_does_not_answer_is_wrong_and_its_password_is_not_told() -> None:
    one = only(checks_store.store("redis://user:hunter2@127.0.0.1:1/0"), WRONG)
    assert "127.0.0.1:1" in one.what
    assert "hunter2" not in str(one)


@pytest.mark.parametrize(
    ("info", "level", "said"),
    [
        ({}, WELL, "answers in 1.0 ms"),
        ({"redis_version": "7.2", "valkey_version": "9.1"}, WELL, "version 9.1"),
        ({"role": "slave"}, WRONG, "takes no writes"),
        ({"maxmemory": "100", "used_memory": "100"}, WRONG, "used up its memory"),
        ({"maxmemory": "100", "used_memory": "99"}, WELL, "answers"),
        ({"maxmemory_policy": "allkeys-lru"}, WRONG, "forgets keys"),
        ({"rdb_last_bgsave_status": "err"}, WRONG, "could not save"),
        ({"aof_enabled": "0", "rdb_saves": "0"}, NOTE, "saved nothing to disk"),
    ],
)
def test_what_a_server_says_of_itself_is_judged(info: dict[str, str], level: str, said: str) -> None:
    found = list(checks_store.of_redis("redis:x", 0.001, info))
    assert levels(found) == {"store": level}
    assert any(said in one.what for one in found)


# -- clock, ledger ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago", "level", "said"),
    [(0, WELL, "agrees"), (10, NOTE, "9 s behind"), (-10, NOTE, "ahead of"), (7_300, WRONG, "2 h behind")],
)
def test_clocks_that_disagree_are_found_out(ago: float, level: str, said: str) -> None:
    clock = Clock(ago)
    one = only(checks_store.clock(MemoryBackend(clock=clock), shared=True), level)
    assert said.split()[-1] in one.what


def test_a_clock_that_was_set_back_is_found_out(tmp_path: Path) -> None:
    backend = SQLiteBackend(str(tmp_path / "t.db"), clock=Clock(ago=-7_000))
    with Guard(policy(tenant=None), {"tenant": "acme"}, backend) as guard:
        spend(guard, 10)
    backend.close()
    found = list(checks_store.store(str(tmp_path / "t.db")))
    assert levels(found)["clock"] == WRONG
    assert "1 h 56 min from now" in only(found, WRONG).what


def test_what_passed_unseen_is_told(path: Path) -> None:
    backend = SQLiteBackend(str(path))
    known = Label("openai", "/responses", "gpt-5", "gpt-5", {"tenant": "acme"}, {})
    rows = [
        Entry(known._replace(endpoint="").text(), "ok", 1_000, 20),
        Entry(known.text(), "expired", 70, 0, estimated=True),
        Entry(known.text(), "ok", 50, 5, estimated=True),
        Entry(known.text(), "cut", 50, 5, estimated=True),
    ]
    backend.record(rows)
    found = list(checks_store.unseen(backend))
    backend.close()
    assert levels(found) == {"unseen": NOTE}
    assert [one.what.partition(":")[0].partition(" (")[0] for one in found] == [
        "1 call",
        "1 call of processes that died",
        "2 calls were charged as estimated",
    ]
    assert "(openai, 1,020 tokens)" in found[0].what
    assert ": 70 tokens" in found[1].what


# -- this Python -----------------------------------------------------------------------------------------


def test_the_configuration_is_read_as_the_app_would(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(checks.configured()) == {"configuration": WELL}
    monkeypatch.setenv("TOKENCAP_LIMTI", "5")
    assert "TOKENCAP_LIMIT" in only(checks.configured(), NOTE).what
    monkeypatch.delenv("TOKENCAP_LIMTI")
    Path("tokencap.toml").write_text("[policy]\nenforce = false\ndimensions.session.limit = 'app:limits'")
    assert "cannot be imported" in only(checks.configured(), NOTE).what
    Path("tokencap.toml").write_text("[policy]\nenforce = false\ndimensions.session.limit = 5")
    assert "nothing is refused" in only(checks.configured(), NOTE).what
    monkeypatch.setenv("TOKENCAP_LIMIT", "many")
    assert "TOKENCAP_LIMIT" in only(checks.configured(), WRONG).what


def test_an_sdk_that_is_too_old_is_wrong_and_none_at_all_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(checks.installed()) == {"installed": WELL}
    versions: dict[str, str] = {"openai": "1.2.0"}
    monkeypatch.setattr(checks, "sdk_version", versions.get)
    one = only(checks.installed(), WRONG)
    assert "openai 1.2.0 is older than 1.40" in one.what
    assert one.do == 'pip install --upgrade "tokencap[openai]"'
    versions.clear()
    assert "no SDK" in only(checks.installed(), NOTE).what


@pytest.mark.parametrize(
    ("version", "least", "old"),
    [("1.39.9", "1.40", True), ("1.40", "1.40.0", False), ("2", "1.40", False), ("0.40.0b1", "0.40", False)],
)
def test_versions_are_compared_by_their_numbers(version: str, least: str, old: bool) -> None:
    assert checks.too_old(version, least) is old


def test_tables_of_the_tokenizer_are_looked_for_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiktoken.load

    fetched: list[Any] = []
    monkeypatch.setattr(tiktoken.load, "read_file", fetched.append)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    one = only(checks.tokenizer(), NOTE)
    assert "no o200k_base and no cl100k_base" in one.what
    assert fetched == []
    assert tiktoken.load.read_file == fetched.append
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: name)
    assert levels(checks.tokenizer()) == {"tokenizer": WELL}
    monkeypatch.setattr(checks, "is_installed", lambda package: False)
    assert "is not installed" in only(checks.tokenizer(), NOTE).what
