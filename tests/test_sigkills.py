"""Processes killed at random moments: the store stays whole, and no token is lost or counted twice.

`make test-ordeal` kills 500 on each store; the variable SIGKILLS says how many.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

import sigkills
from backends.redis_servers import fresh_prefix, shared_server
from forked import forks
from tokencap._loopback import LoopbackProvider

KILLS = int(os.environ.get("SIGKILLS", "16"))
PROCESSES = 8
LEASE = 1.0

pytestmark = forks


def charge_of_the_dead(loopback: LoopbackProvider, folder: Path) -> int:
    """Return what a killed call is charged: the estimate of its prompt."""
    records: list[Any] = []
    with sigkills.guard_on(str(folder / "probe.db"), LEASE) as guard:
        guard.on_call(records.append)
        guard.wrap(openai.OpenAI()).chat.completions.create(**sigkills.ask())
        guard.backend.close()
    loopback.clear()
    return int(records[0].estimate)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.service)])
def test_processes_killed_at_random_moments_leave_right_books(
    kind: str, loopback: LoopbackProvider, tmp_path: Path
) -> None:
    path = tmp_path / "tokencap.db"
    store = str(path) if kind == "sqlite" else f"{shared_server().url}#{fresh_prefix()}"
    charge = charge_of_the_dead(loopback, tmp_path)
    log = tmp_path / "heard"
    script = Path(sigkills.__file__)
    arguments = [store, str(log), str(KILLS), str(PROCESSES), str(LEASE)]
    fleet = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300 + KILLS
    )
    assert fleet.returncode == 0, fleet.stderr
    assert json.loads(fleet.stdout) == {"kills": KILLS, "ended": [0] * PROCESSES}, fleet.stderr

    with sigkills.guard_on(store, LEASE) as guard:
        deadline = time.monotonic() + 10 * LEASE
        while True:
            state = guard.get_status().dimensions["session"]
            if not state.calls:
                break
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        guard.backend.close()

    billed = loopback.calls
    heard = log.stat().st_size
    expired, rest = divmod(state.expired, charge)
    assert rest == 0
    settled, rest = divmod(state.used - state.expired, sigkills.BILLED)
    print(
        f"\n{kind}: {KILLS} kills; {billed} calls reached the provider, {settled} are settled, "
        f"{heard} returned, {expired} expired; {state.used} tokens in the books, "
        f"{loopback.tokens} in the provider's"
    )
    assert rest == 0
    assert state.reserved == 0
    # Who has got a reply is in the books, nobody is twice, and whoever is billed but missing has expired.
    assert heard <= settled <= billed <= settled + expired
    assert expired <= KILLS * sigkills.TASKS
    assert abs(state.used - loopback.tokens) <= expired * max(charge, sigkills.BILLED)
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(path)) as plain:
            assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
