"""What the tests of the command have in common: stores with something in them, and the command itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backends.redis_servers import fresh_prefix, shared_server
from tokencap import Action, BudgetExceededError, DimensionPolicy, Guard, Policy, Threshold, TokenUsage
from tokencap.backends.protocol import Backend
from tokencap.backends.urls import open_url
from tokencap.cli.main import main

PLACES = [pytest.param("sqlite"), pytest.param("redis", marks=pytest.mark.service)]


class Done(NamedTuple):
    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """`tokencap ARGUMENTS --backend PLACE`, in this process."""

    def __init__(self, place: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self._capsys = capsys

    def __call__(self, *argv: str) -> Done:
        self._capsys.readouterr()
        try:
            status = main([*argv[:1], "--backend", self.place, *argv[1:]])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Done(status, *self._capsys.readouterr())


def place_of(kind: str, folder: Path) -> str:
    """Return the name of a store that is not there yet."""
    return str(folder / "tokencap.db") if kind == "sqlite" else f"{shared_server().url}#{fresh_prefix()}"


def policy(**limits: int | None) -> Policy:
    """Return a policy that blocks at these limits."""
    block = [Threshold(1.0, [Action("BLOCK")])]
    return Policy({name: DimensionPolicy(limit, block if limit else ()) for name, limit in limits.items()})


def spend(
    guard: Guard,
    tokens: int = 0,
    model: str = "gpt-5",
    usage: TokenUsage | None = None,
    tags: dict[str, str] | None = None,
    fail: bool = False,
    **identifiers: str,
) -> bool:
    """Make one call that costs this much; return False when it was refused."""
    usage = usage or TokenUsage(tokens * 3 // 4, tokens - tokens * 3 // 4)
    try:
        with guard.scope(identifiers, tags), guard.call(provider="openai", model=model, estimate=1) as call:
            if fail:
                call.release()
                raise ValueError
            call.settle(usage)
    except BudgetExceededError:
        return False
    except ValueError:
        pass
    return True


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self, ago: float = 0.0) -> None:
        self.now = time.time() - ago

    def __call__(self) -> float:
        return self.now


def filled(place: str) -> Backend:
    """Fill a store: tenant=acme used 600 of 1,000, tenant=globex all of it, session=s 1,625 without limit."""
    backend = open_url(place)
    with Guard(policy(tenant=1_000, session=None), {"session": "s"}, backend) as guard:
        spend(guard, 400, tenant="acme", tags={"agent": "planner"})
        spend(guard, 200, model="claude-haiku-4-5", tenant="acme", tags={"agent": "writer"})
        spend(guard, usage=TokenUsage(1_000, 25, cache_read_tokens=500), tenant="globex")
        assert not spend(guard, 1, tenant="globex")
        spend(guard, fail=True, tenant="acme")
    backend.close()
    return backend
