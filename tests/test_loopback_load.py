"""A thousand mixed calls over real HTTP, from threads and from tasks: our books are the provider's.

Nearly every call has an outcome that both sides know, and there the books agree to the token: replies,
whole streams, streams left at their last event, background responses, repeated attempts, refusals,
connections never made. The others have not, as we count letters where the provider counts tokens of its
own: streams left in the middle, replies that were lost or not waited for. Those are charged by the
documented rule, worked out here from what the caller saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from tokencap._loopback import LoopbackProvider
from tokencap.backends.sqlite import SQLiteBackend
from wire import Books, Missing, at, done, drive, entered, listed, step

CALLS = 1_000
THREADS = 8
TASKS = 200
PATIENCE = 120.0
"""Seconds for a request: in a crowd on a busy machine the SDKs' five for a connection are few."""

TEXTS = [
    "",
    "[[input=700]]",
    "[[output=90]]",
    "[[cache_read=60]] [[input=100]]",
    "[[reasoning=9]]",
    "[[chunks=9]]",
]
# Far enough apart that the rest is not on its way when the caller leaves.
SLOW = "[[output=40]] [[chunks=8]] [[delay=0.02]]"

# What is done, how often in a hundred calls, and what the prompt tells the provider to do.
KINDS: dict[str, tuple[int, list[str]]] = {
    "plain": (28, TEXTS),
    "stream": (28, TEXTS),
    "helper": (6, TEXTS),
    "raw": (8, TEXTS),
    "repeated": (4, ["[[status=500]] [[attempts=1]]", "[[status=429]] [[attempts=1]]"]),
    "embedding": (4, [""]),
    "background": (3, [""]),
    "left at the last event": (5, TEXTS),
    "refused": (5, ["[[status=400]]", "[[status=500]]", "[[status=529]]"]),
    "cut before the reply": (1, ["[[cut=0]]"]),
    "unreachable": (1, [""]),
    "closed early": (3, [SLOW]),
    "dropped early": (3, [SLOW]),
    "not waited for": (1, ["[[hang=60]]"]),
}
BY_RULE = ("closed early", "dropped early", "not waited for", "cut before the reply")
assert sum(often for often, _ in KINDS.values()) == 100


class Job(NamedTuple):
    """One call to make."""

    kind: str
    dialect: str
    model: str
    """Names the call in both books."""
    told: str


def jobs() -> list[Job]:
    chance = random.Random(4)
    kinds = [kind for kind, (often, _) in KINDS.items() for _ in range(often * CALLS // 100)]
    chance.shuffle(kinds)
    made = []
    for number, kind in enumerate(kinds):
        dialects = {"embedding": ["embeddings"], "background": ["responses"]}
        dialect = chance.choice(dialects.get(kind, ["messages", "chat", "responses"]))
        told = "word " * chance.randrange(1, 60) + chance.choice(KINDS[kind][1])
        made.append(Job(kind, dialect, f"m-{number}", told))
    return made


class Caller:
    """The clients of one thread, or of one event loop, and what its callers saw."""

    def __init__(self, books: Books, provider: LoopbackProvider, is_async: bool) -> None:
        claude, gpt = (
            (anthropic.AsyncAnthropic, openai.AsyncOpenAI)
            if is_async
            else (anthropic.Anthropic, openai.OpenAI)
        )
        self.bare: list[Any] = [
            claude(base_url=provider.anthropic_url, api_key="none", max_retries=1, timeout=PATIENCE),
            gpt(base_url=provider.openai_url, api_key="none", max_retries=1, timeout=PATIENCE),
        ]
        self.claude, self.gpt = (books.guard.wrap(client) for client in self.bare)
        self.done: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        """By model, what was delivered of the calls that are charged by rule."""

    async def close(self) -> None:
        for client in self.bare:
            await done(client.close())

    async def perform(self, job: Job) -> None:
        await getattr(self, "_" + job.kind.replace(" ", "_"))(job)
        self.done[job.kind] += 1

    def _method(self, job: Job, name: str = "create", **options: Any) -> tuple[Any, dict[str, Any]]:
        client = self.claude if job.dialect == "messages" else self.gpt
        if options:
            client = client.with_options(**options)
        said: Any = [{"role": "user", "content": job.told}]
        if job.dialect == "messages":
            told = {"model": job.model, "max_tokens": 500, "messages": said}
            return at(client, f"messages.{name}"), told
        if job.dialect == "chat":
            return at(client, f"chat.completions.{name}"), {"model": job.model, "messages": said}
        return at(client, f"{job.dialect}.{name}"), {"model": job.model, "input": job.told}

    async def _plain(self, job: Job) -> None:
        method, told = self._method(job)
        await done(method(**told))

    _repeated = _embedding = _plain

    async def _stream(self, job: Job) -> None:
        method, told = self._method(job)
        await listed(await done(method(**told, stream=True)))

    async def _helper(self, job: Job) -> None:
        try:
            method, told = self._method(job, "stream")
        except Missing:
            await self._stream(job)
        else:
            async with entered(method(**told)) as events:
                await listed(events)

    async def _raw(self, job: Job) -> None:
        method, told = self._method(job, "with_raw_response.create")
        await done((await done(method(**told))).parse())

    async def _background(self, job: Job) -> None:
        method, told = self._method(job)
        made = await done(method(**told, background=True))
        while made.status != "completed":
            made = await done(self.gpt.responses.retrieve(made.id))

    async def _refused(self, job: Job) -> None:
        method, told = self._method(job, max_retries=0)
        with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)):
            await done(method(**told))

    async def _unreachable(self, job: Job) -> None:
        # Nobody listens on the port for discarding.
        method, told = self._method(job, base_url="http://127.0.0.1:9/v1", max_retries=0)
        with pytest.raises((anthropic.APIConnectionError, openai.APIConnectionError)):
            await done(method(**told))

    async def _left_at_the_last_event(self, job: Job) -> None:
        method, told = self._method(job)
        stream = await done(method(**told, stream=True))
        while not _is_last(await step(stream)):
            pass

    async def _closed_early(self, job: Job) -> None:
        stream = await self._begun(job)
        await done(stream.close())

    async def _dropped_early(self, job: Job) -> None:
        await self._begun(job)

    async def _begun(self, job: Job) -> Any:
        """Open a stream, and read it until two of its events have delivered text."""
        method, told = self._method(job)
        stream = await done(method(**told, stream=True))
        texts: list[str] = []
        while len(texts) < 2:
            text = _text_of(await step(stream))
            texts += [text] if text else []
        self.texts[job.model] = "".join(texts)
        return stream

    async def _not_waited_for(self, job: Job) -> None:
        self.texts[job.model] = ""
        # Not for the connection: one that was never made would cost nothing.
        patience: Any = (anthropic if job.dialect == "messages" else openai).Timeout(PATIENCE, read=0.2)
        method, told = self._method(job, max_retries=0, timeout=patience)
        with pytest.raises((anthropic.APITimeoutError, openai.APITimeoutError)):
            await done(method(**told))

    async def _cut_before_the_reply(self, job: Job) -> None:
        self.texts[job.model] = ""
        method, told = self._method(job, max_retries=0)
        with pytest.raises((anthropic.APIConnectionError, openai.APIConnectionError)):
            await done(method(**told))


def _is_last(event: Any) -> bool:
    choices = getattr(event, "choices", None)
    if choices is not None:
        return bool(choices) and choices[0].finish_reason is not None
    return event.type in ("message_delta", "response.completed")


def _text_of(event: Any) -> str:
    delta = getattr(event, "delta", None)
    text = delta if isinstance(delta, str) else getattr(delta, "text", None)
    if isinstance(text, str):
        return text
    return "".join(choice.delta.content or "" for choice in getattr(event, "choices", None) or ())


def _in_threads(callers: list[Caller], todo: list[Job], faults: list[str]) -> list[threading.Thread]:
    waiting = iter(todo)
    lock = threading.Lock()

    def work(caller: Caller) -> None:
        while True:
            with lock:
                job = next(waiting, None)
            if job is None:
                break
            try:
                drive(caller.perform(job), False)
            except BaseException as error:
                faults.append(f"{job}: {error!r}")
        drive(caller.close(), False)

    threads = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    return threads


async def _in_tasks(caller: Caller, todo: list[Job], faults: list[str]) -> None:
    waiting = iter(todo)

    async def work() -> None:
        for job in waiting:
            try:
                await caller.perform(job)
            except Exception as error:
                faults.append(f"{job}: {error!r}")

    await asyncio.gather(*[work() for _ in range(TASKS)])
    await caller.close()


def test_a_thousand_mixed_calls_leave_the_providers_own_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults: list[str] = []
    started = time.monotonic()
    todo = jobs()
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(LoopbackProvider())
        backend = stack.enter_context(contextlib.closing(SQLiteBackend(str(tmp_path / "tokencap.db"))))
        books = stack.enter_context(Books(backend))
        callers = [Caller(books, provider, False) for _ in range(THREADS)]
        threads = _in_threads(callers, todo[: CALLS // 2], faults)
        callers.append(Caller(books, provider, True))
        asyncio.run(_in_tasks(callers[-1], todo[CALLS // 2 :], faults))
        for thread in threads:
            thread.join()
        books.settled(10)
        used, reserved = books.used, books.reserved
        records = {record.model: record for record in books.calls}
        journal = [entry for entry in provider.journal if entry.status == 200]
    seconds = time.monotonic() - started

    assert faults == []
    performed: Counter[str] = sum((caller.done for caller in callers), Counter())
    assert performed == Counter(job.kind for job in todo)
    assert len(records) == len(books.calls) == CALLS
    assert reserved == 0

    texts = dict(itertools.chain.from_iterable(caller.texts.items() for caller in callers))
    prompts = {entry.model: entry.input_tokens for entry in journal}
    by_rule = 0
    for job in todo:
        if job.kind in BY_RULE:
            text, record = texts[job.model], records[job.model]
            started_at = prompts[job.model] + 1 if job.dialect == "messages" and text else record.estimate
            assert record.tokens == started_at + -(-len(text) // 4), job
            by_rule += record.tokens
    known = sum(entry.tokens for entry in journal if entry.model not in texts)

    with capsys.disabled():
        print(
            f"\n{CALLS:,} calls from {THREADS} threads and {TASKS} tasks in {seconds:.1f} s: "
            f"the provider billed {known:,} tokens for {CALLS - len(texts)} of them, "
            f"{len(texts)} left or given up are {by_rule:,} by rule; used {used:,}, reserved {reserved}"
        )
    assert used == known + by_rule
    assert used == sum(record.tokens for record in books.calls)
