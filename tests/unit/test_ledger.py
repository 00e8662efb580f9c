"""The ledger of a Guard: what is in it after calls that end in every way, and what is not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from calls import aspend, block, call, degrade, policy, python, spend

import tokencap
from tokencap import (
    BackendError,
    BudgetExceededError,
    ConfigurationError,
    Guard,
    Provider,
    TokenUsage,
    ledger,
)
from tokencap._flow import run
from tokencap._session import Ending
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.errors import TokencapError


def guard_on(backend: Any, limit: int = 10_000, **kwargs: Any) -> Guard:
    return Guard(
        policy(limit, (0.5, [degrade("gpt-4o-mini")]), (1.0, [block()])), {"session": "s"}, backend, **kwargs
    )


def end(guard: Guard, how: str) -> None:
    """Make a call that ends in this way."""
    session = call(guard, prompt="x" * 400)
    run(session.begin())
    if how == "ok":
        session.tally.usage = TokenUsage(100, 20, 30, 40, 5)
        run(session.settle())
    elif how == "ok without usage":
        run(session.settle())
    elif how == "cut":
        session.tally.usage = TokenUsage(100, 20)
        run(session.settle(Ending.CUT))
    elif how == "failed":
        run(session.release(Ending.FAILED))
    else:
        run(session.release(Ending.CANCELLED, billed=True))


def test_a_call_is_recorded_with_what_it_was_charged() -> None:
    with guard_on(MemoryBackend()) as guard:
        end(guard, "ok")
        (only,) = guard.calls()
    assert only.time.tzinfo is not None
    assert (only.provider, only.endpoint, only.model_asked, only.model) == (
        "openai", "/chat/completions", "gpt-4o", "gpt-4o",
    )  # fmt: skip
    assert (only.tokens, only.input, only.output) == (120, 100, 20)
    assert (only.cached, only.written, only.reasoning) == (30, 40, 5)
    assert (only.ending, only.estimated, only.identifiers, only.tags) == ("ok", False, {"session": "s"}, {})
    assert 0 < only.estimate <= 120
    assert only.seconds >= 0
    assert json.loads(json.dumps(only.to_dict()))["tokens"] == 120


@pytest.mark.parametrize(
    ("how", "ending", "charged", "estimated"),
    [
        ("ok", "ok", True, False),
        ("ok without usage", "ok", True, True),
        ("cut", "cut", True, False),
        ("failed", "failed", False, False),
        ("cancelled", "cancelled", True, True),
    ],
)
def test_every_ending_is_recorded(how: str, ending: str, charged: bool, estimated: bool) -> None:
    with guard_on(MemoryBackend()) as guard:
        end(guard, how)
        (only,) = guard.calls()
        used = guard.get_status().dimensions["session"].used
    assert (only.ending, only.tokens, only.estimated) == (ending, used, estimated)
    assert (used > 0) is charged


def test_a_refused_call_is_recorded() -> None:
    with guard_on(MemoryBackend(), limit=100) as guard:
        spend(guard, 100)
        with pytest.raises(BudgetExceededError):
            spend(guard, 1)
        refused = list(guard.calls())[1]
        assert guard.usage("ending").total.blocked == 1
    assert (refused.ending, refused.tokens, refused.model) == ("blocked", 0, "gpt-4o")
    assert refused.estimate > 0


def test_a_refused_async_call_is_recorded() -> None:
    async def main(guard: Guard) -> None:
        await aspend(guard, 100)
        with pytest.raises(BudgetExceededError):
            await aspend(guard, 1)

    with guard_on(SQLiteBackend(), limit=100) as guard:
        asyncio.run(main(guard))
        assert [each.ending for each in guard.calls()] == ["ok", "blocked"]
        guard.backend.close()


def test_a_degraded_call_says_both_models() -> None:
    with guard_on(MemoryBackend(), limit=100) as guard:
        spend(guard, 60)
        spend(guard, 10)
        assert [(each.model_asked, each.model) for each in guard.calls()] == [
            ("gpt-4o", "gpt-4o"),
            ("gpt-4o", "gpt-4o-mini"),
        ]
        assert guard.usage().total.degraded == 1


def test_guards_on_one_store_share_a_ledger() -> None:
    store = MemoryBackend()
    with guard_on(store) as one, Guard(policy(1_000), {"session": "t"}, store) as other:
        spend(one, 5)
        spend(other, 7, model="opus", provider=Provider.ANTHROPIC)
        assert {row.key: row.tokens for row in one.usage("session")} == {"s": 5, "t": 7}
        assert one.usage("model", where={"session": "t"}).total.tokens == 7
        assert [each.tokens for each in other.calls(where={"provider": "openai"})] == [5]
        assert [each.tokens for each in other.calls(newest_first=True)] == [7, 5]


def test_usage_has_what_was_dropped_a_moment_ago() -> None:
    with guard_on(MemoryBackend()) as guard:
        session = call(guard)
        run(session.begin())
        session.tally.usage = TokenUsage(9)
        session.drop()
        assert guard.usage().total.tokens == 9


def test_since_and_until_choose_calls_by_their_time() -> None:
    now = [1_000_000_000.0]
    with guard_on(MemoryBackend(clock=lambda: now[0])) as guard:
        for tokens in (1, 2, 4):
            spend(guard, tokens)
            now[0] += 3_600
        assert guard.usage(since="90m").total.tokens == 4
        assert guard.usage(since="2h", until="1h").total.tokens == 2
        assert [each.tokens for each in guard.calls(until="2h")] == [1]
        assert [row.tokens for row in guard.usage("hour")] == [1, 2, 4]


def test_a_mistake_is_said_before_anything_is_iterated() -> None:
    with guard_on(MemoryBackend()) as guard:
        with pytest.raises(ConfigurationError):
            guard.calls(since="yesterday")
        with pytest.raises(ConfigurationError):
            guard.usage(where={"ending": "okay"})


def test_without_a_ledger_nothing_is_recorded() -> None:
    store = MemoryBackend()
    with guard_on(store, limit=100, ledger=False) as guard:
        spend(guard, 100)
        with pytest.raises(BudgetExceededError):
            spend(guard, 1)
        assert list(guard.calls()) == []
    tokencap.init(policy(100), backend=store, ledger=False, quiet=True)
    assert not tokencap._default._process.guard.runtime.ledger  # type: ignore[attr-defined,union-attr]


class Plain:
    """A store with the verbs of `Backend` and no others."""

    def __init__(self) -> None:
        self._store = MemoryBackend()
        for verb in ("renew", "pass_marks", "get_states", "set_limit", "grant", "reset", "close"):
            setattr(self, verb, getattr(self._store, verb))

    name = "plain"

    def reserve(self, id: str, holds: Any, charge: int, lease: float) -> Any:
        return self._store.reserve(id, holds, charge, lease)

    def settle(self, reservation: Any, tokens: int, marks: Any = ()) -> Any:
        return self._store.settle(reservation, tokens, marks)

    def as_async(self) -> Any:
        from tokencap.backends.aio import ThreadedAsyncBackend

        return ThreadedAsyncBackend(self)  # type: ignore[arg-type]


def test_a_store_without_a_ledger_is_changed_all_the_same() -> None:
    with guard_on(Plain(), limit=100) as guard:
        spend(guard, 50)
        guard.set_limit("session", 70)
        guard.grant("session", "s", 5)
        assert guard.get_status().dimensions["session"].limit == 75
        guard.reset("session")
        assert guard.get_status().dimensions["session"].used == 0


def test_a_store_without_a_ledger_counts_all_the_same() -> None:
    with guard_on(Plain(), limit=100) as guard:
        spend(guard, 50)
        asyncio.run(aspend(guard, 50))
        with pytest.raises(BudgetExceededError):
            spend(guard, 1)
        assert guard.get_status().dimensions["session"].used == 100
        with pytest.raises(ConfigurationError, match="plain keeps no ledger"):
            guard.usage()


def test_a_settlement_the_store_refused_is_recorded_when_it_takes_it() -> None:
    store = MemoryBackend()
    with guard_on(store) as guard:
        session = call(guard)
        run(session.begin())
        session.tally.usage = TokenUsage(9)
        with store._lock:
            store._inside = True  # as a finalizer would find it
            run(session.settle())
            store._inside = False
        assert guard.usage().total.tokens == 9


def test_a_ledger_that_fails_does_not_hide_why_a_call_was_refused(monkeypatch: Any) -> None:
    def fail(entries: Any) -> None:
        raise BackendError("no room")

    store = MemoryBackend()
    monkeypatch.setattr(store, "record", fail)
    with guard_on(store, limit=100) as guard:
        spend(guard, 100)
        with pytest.raises(BudgetExceededError):
            spend(guard, 1)


PROMPT = "the secret prompt"
REPLY = "the secret reply"


def test_neither_prompt_nor_reply_is_in_the_file(tmp_path: Path) -> None:
    with guard_on(SQLiteBackend(tmp_path / "x.db"), limit=100) as guard:
        spend(guard, 50, prompt=PROMPT)
        for _ in range(2):
            session = call(guard, prompt=PROMPT)
            try:
                run(session.begin())
            except TokencapError:
                continue
            session.tally.characters = len(REPLY)
            run(session.settle(Ending.CUT))
        assert guard.usage().total.calls == 3
        guard.backend.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"gpt-4o" in written
    assert b"secret" not in written


DYING = """
    import os, sys
    from calls import *
    from tokencap.backends.sqlite import SQLiteBackend
    guard = Guard(Policy.blocking(10_000), {"session": "s"}, SQLiteBackend(sys.argv[1]), lease_seconds=0.1)
    session = call(guard, prompt="x" * 400)
    run(session.begin())
    print(session.estimate, flush=True)
    os._exit(0)
"""


def test_a_call_whose_process_died_is_recorded_by_those_who_live(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    estimate = int(python(DYING, str(path)).stdout)
    store = SQLiteBackend(path)
    threading.Event().wait(0.2)
    with Guard(policy(10_000), {"session": "s"}, store) as guard:
        assert guard.get_status().dimensions["session"].used == estimate
        (only,) = guard.calls()
    store.close()
    assert (only.ending, only.tokens, only.estimated, only.model) == ("expired", estimate, True, "gpt-4o")
    assert only.identifiers == {"session": "s"}


def test_a_store_is_asked_without_any_guard(tmp_path: Path) -> None:
    store = SQLiteBackend(tmp_path / "x.db")
    with guard_on(store) as guard:
        spend(guard, 42)
    store.close()
    again = SQLiteBackend(tmp_path / "x.db")
    book = ledger.open(again)
    assert book.usage("model", since="24h").to_dicts()[0]["tokens"] == 42
    (known,) = book.budgets()
    assert (known.key, known.limit) == (("session", "s"), 10_000)
    assert again.get_states([(known.key, known.limit)])[0].used == 42
    again.close()


def test_no_python_of_ours_is_needed_to_read_a_sqlite_ledger(tmp_path: Path) -> None:
    store = SQLiteBackend(tmp_path / "x.db")
    with guard_on(store) as guard:
        spend(guard, 42)
    store.close()
    other = sqlite3.connect(tmp_path / "x.db")
    query = "SELECT json_extract(text, '$.m'), input FROM calls JOIN labels ON id = label"
    row = other.execute(query).fetchone()
    other.close()
    assert row == ("gpt-4o", 42)


def test_where_is_a_mapping() -> None:
    where: Any = "model=gpt-5"
    with guard_on(MemoryBackend()) as guard:
        for ask in (guard.usage, guard.calls):
            with pytest.raises(ConfigurationError, match="where is 'model=gpt-5'; it must be a mapping like"):
                ask(where=where)
