"""The async SDKs run on trio too, and so does the guard: `make test-instrumentation` has it installed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from backends.redis_servers import fresh_prefix, shared_server
from tokencap import DimensionPolicy, Guard, Policy
from tokencap._loopback import LoopbackProvider
from tokencap.backends.protocol import Backend
from tokencap.backends.redis import RedisBackend
from tokencap.backends.sqlite import SQLiteBackend

trio = pytest.importorskip("trio", reason="trio is not installed")


def redis(path: Path) -> Backend:
    return RedisBackend(shared_server().url, prefix=fresh_prefix())


@pytest.fixture(params=[SQLiteBackend, pytest.param(redis, marks=pytest.mark.service)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    backend = request.param(tmp_path / "tokencap.db")
    yield backend
    backend.close()


def strict(limit: int, backend: Backend, **more: Any) -> Guard:
    return Guard(Policy({"session": DimensionPolicy(limit=limit, strict=True)}), backend=backend, **more)


async def ask(client: Any, prompt: str = "hello") -> Any:
    return await client.responses.create(model="gpt-5-mini", input=prompt, max_output_tokens=200)


def test_calls_and_streams_are_counted(backend: Any, loopback: LoopbackProvider) -> None:
    async def main() -> None:
        async with strict(10_000, backend) as guard:
            async with guard.wrap(openai.AsyncOpenAI()) as client:
                await ask(client)
            message = {"role": "user", "content": "hello"}
            asked = {"model": "claude-x", "max_tokens": 50, "messages": [message]}
            claude = guard.wrap(anthropic.AsyncAnthropic())
            async with claude, claude.messages.stream(**asked) as stream:
                async for _ in stream:
                    pass
            state = guard.get_status().dimensions["session"]
            assert (state.used, state.reserved) == (loopback.tokens, 0)
            assert loopback.calls == 2

    trio.run(main)


def test_calls_wait_for_the_holds_of_others(backend: Any, loopback: LoopbackProvider) -> None:
    async def main() -> None:
        async with strict(1_000, backend, wait=30.0) as guard:
            async with guard.wrap(openai.AsyncOpenAI()) as client, trio.open_nursery() as nursery:
                for number in range(8):  # they cannot all hold 200 tokens at once
                    nursery.start_soon(ask, client, f"Is {number} prime? [[hang=0.05]]")
            assert loopback.calls == 8
            assert guard.get_status().dimensions["session"].used == loopback.tokens

    trio.run(main)


def test_a_cancelled_call_is_charged_its_estimate_and_holds_nothing(
    backend: Any, loopback: LoopbackProvider
) -> None:
    records: list[Any] = []

    async def main() -> None:
        async with strict(10_000, backend) as guard, guard.wrap(openai.AsyncOpenAI()) as client:
            guard.on_call(records.append)
            with trio.move_on_after(0.3) as scope:
                await ask(client, "hello [[hang=5]]")
            assert scope.cancelled_caught
            state = guard.get_status().dimensions["session"]
            assert (state.used, state.reserved, state.calls) == (records[0].estimate, 0, 0)

    trio.run(main)
    assert [(record.ending, record.tokens > 0) for record in records] == [("cancelled", True)]


def test_a_locked_file_does_not_block_the_event_loop(tmp_path: Path, loopback: LoopbackProvider) -> None:
    backend = SQLiteBackend(tmp_path / "tokencap.db", timeout=20.0)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.005)
            turns += 1

    async def main() -> None:
        async with strict(10_000, backend) as guard, guard.wrap(openai.AsyncOpenAI()) as client:
            await ask(client)
            other = sqlite3.connect(tmp_path / "tokencap.db", isolation_level=None, check_same_thread=False)
            other.execute("BEGIN EXCLUSIVE")
            release = threading.Timer(0.5, other.rollback)
            release.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turn)
                await ask(client)
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(partial(release.join, 5.0))
            other.close()

    trio.run(main)
    backend.close()
    assert turns > 10
