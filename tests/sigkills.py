"""Worker processes that are killed again and again while they make calls, and replaced by fresh ones.

`python sigkills.py STORE LOG KILLS PROCESSES LEASE` prints how many were killed, as JSON, when the last
generation has ended in peace. STORE is as in `fleet`; the providers come from the environment. Each call
whose reply has reached its caller adds a byte to LOG.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from typing import Any

import openai

import tokencap
from fleet import backend_of

LIMIT = 10**12
PROMPT = "[[input=30]][[output=20]] as the fates will have it"
BILLED = 50
TASKS = 3
"""The most calls that one process has under way."""


class Worker:
    """Makes calls until it is asked to stop."""

    def __init__(self, store: str, log: str, lease: float) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.stopping = False
        signal.signal(signal.SIGTERM, self.stop)
        self.guard = guard_on(store, lease)

    def stop(self, *_: Any) -> None:
        self.stopping = True

    def heard(self) -> None:
        os.write(self.log, b".")

    def plain(self) -> None:
        with self.guard.wrap(openai.OpenAI(max_retries=0)) as client:
            while True:
                client.chat.completions.create(**ask())
                self.heard()
                if self.stopping:
                    return

    def streamed(self) -> None:
        with self.guard.wrap(openai.OpenAI(max_retries=0)) as client:
            while True:
                for _ in client.chat.completions.create(**ask(), stream=True):
                    pass
                self.heard()
                if self.stopping:
                    return

    def tasks(self) -> None:
        async def main() -> None:
            async with self.guard.wrap(openai.AsyncOpenAI(max_retries=0)) as client:
                await asyncio.gather(*[one(client) for _ in range(TASKS)])

        async def one(client: Any) -> None:
            while True:
                await client.chat.completions.create(**ask())
                self.heard()
                if self.stopping:
                    return

        asyncio.run(main())


def guard_on(store: str, lease: float) -> tokencap.Guard:
    policy = tokencap.Policy.blocking(LIMIT)
    return tokencap.Guard(policy, {"session": "fates"}, backend_of(store), lease_seconds=lease)


def ask() -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}


def main(store: str, log: str, kills: int, processes: int, lease: float) -> None:
    chance = random.Random()
    kinds = [Worker.plain, Worker.streamed, Worker.tasks]
    # What the SDK and others do but once has been done when the workers are forked.
    warm = Worker(store, log, lease)
    with warm.guard:
        warm.stop()
        for kind in kinds:
            kind(warm)
    warm.guard.backend.close()

    def start() -> int:
        kind = chance.choice(kinds)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                worker = Worker(store, log, lease)
                with worker.guard:
                    kind(worker)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        return pid

    alive = [start() for _ in range(processes)]
    for _ in range(kills):
        time.sleep(chance.random() * 0.04)
        victim = alive.pop(chance.randrange(len(alive)))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        alive.append(start())
    time.sleep(0.2)
    for pid in alive:
        os.kill(pid, signal.SIGTERM)
    ended = [os.waitpid(pid, 0)[1] for pid in alive]
    print(json.dumps({"kills": kills, "ended": ended}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
