"""A fleet of worker processes that spend from one strict budget.

A store is a path or a `redis://` URL with a `#prefix`; the providers come from the environment.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import openai

import tokencap
from tokencap.backends.redis import RedisBackend
from tokencap.backends.sqlite import SQLiteBackend


def backend_of(store: str) -> tokencap.backends.protocol.Backend:
    if store.startswith("redis://"):
        url, prefix = store.split("#")
        return RedisBackend(url, prefix=prefix)
    return SQLiteBackend(store)


def spend(store: str, limit: int, threads: int) -> dict[str, int]:
    policy = tokencap.Policy.blocking(limit, strict=True)
    with tokencap.Guard(policy, {"session": "fleet"}, backend_of(store)) as guard:
        client = guard.wrap(openai.OpenAI(max_retries=0, timeout=60))

        def call(_: int) -> str:
            try:
                client.chat.completions.create(
                    model="gpt-4o",
                    max_tokens=1_000,
                    messages=[{"role": "user", "content": "[[output=1000]][[hang=0.05]]"}],
                )
            except tokencap.BudgetExceededError:
                return "refused"
            return "served"

        with ThreadPoolExecutor(threads) as pool:
            endings = list(pool.map(call, range(threads)))
    guard.backend.close()
    return {"served": endings.count("served"), "refused": endings.count("refused")}


def spend_together(store: str, limit: int, processes: int, threads: int) -> dict[str, int]:
    """Return how many calls were served and refused."""
    pipes = []
    for _ in range(processes):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.write(writer, json.dumps(spend(store, limit, threads)).encode())
            os._exit(0)
        os.close(writer)
        pipes.append((pid, reader))
    total = {"served": 0, "refused": 0}
    for pid, reader in pipes:
        with os.fdopen(reader) as pipe:
            for name, count in json.loads(pipe.read()).items():
                total[name] += count
        os.waitpid(pid, 0)
    return total
