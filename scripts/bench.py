"""What a guarded call costs, as ratios within one run against the floor of the same machine.

`make bench`, or `python scripts/bench.py [PART ...]`, of: call, stream, import, stores, async, stall, ledger.
Every figure is a median over interleaved rounds (plain, floor, guarded, plain ...), so that a machine whose
speed drifts does not decide; those of calls and streams are medians of paired differences over rounds whose
order changes. The floors: two SQLite commits (WAL, NORMAL) of a counter and a hold, two EVALSHA of a trivial
script through redis-py, and the SDK's own call over an in-memory transport. What one thread does alone is
measured in processor time; what waits for a server or for others, by the wall clock.
"""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import openai

import tokencap.ledger
from tokencap import Guard, Policy, Provider, TokenUsage
from tokencap._entry import Label
from tokencap._flow import run as run_flow
from tokencap._session import CallSession
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.budget import BudgetKey, Hold
from tokencap.providers import endpoint_of

# The HTTP library of the SDK at hand: httpx, or its successor.
HTTP = getattr(openai._base_client, "httpx2", None) or openai._base_client.httpx

CHAT = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}  # fmt: skip
CHUNKS = 1_000
LEDGER_ROWS = 5_000_000
PROMPT = [{"role": "user", "content": "hello"}]
CHAT_ENDPOINT = endpoint_of(Provider.OPENAI, "post", "/chat/completions")
assert CHAT_ENDPOINT is not None


class Body(HTTP.SyncByteStream, HTTP.AsyncByteStream):  # type: ignore[misc,name-defined]
    def __init__(self, parts: list[bytes]) -> None:
        # Once, as from a network: what is read after the end is nothing.
        self._parts = iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    async def __aiter__(self) -> Any:
        for part in self._parts:
            yield part


def sse(count: int) -> list[bytes]:
    def event(**fields: Any) -> bytes:
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", **fields}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    delta = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return [
        *[event(choices=[delta], usage=None) for _ in range(count)],
        event(choices=[last], usage=None),
        event(choices=[], usage=CHAT["usage"]),
        b"data: [DONE]\n\n",
    ]


def transport(delay: float = 0.0) -> Any:
    whole, parts = [json.dumps(CHAT).encode()], sse(CHUNKS)

    def reply(request: Any) -> Any:
        streamed = b'"stream":true' in request.content[-4_000:].replace(b" ", b"")
        kind = "text/event-stream" if streamed else "application/json"
        return HTTP.Response(200, headers={"content-type": kind}, stream=Body(parts if streamed else whole))

    class Slow(HTTP.AsyncBaseTransport):  # type: ignore[misc,name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            await asyncio.sleep(delay)
            return reply(request)

    return Slow() if delay else HTTP.MockTransport(reply)


def client() -> openai.OpenAI:
    http = HTTP.Client(transport=transport())
    return openai.OpenAI(api_key="x", base_url="http://loopback/v1", http_client=http, max_retries=0)


def seconds(work: Callable[[], Any], times: int, clock: Callable[[], float] = time.process_time) -> float:
    """Return the processor's seconds per call: the wall clock of a shared machine measures its neighbours."""
    start = clock()
    for _ in range(times):
        work()
    return (clock() - start) / times


def interleaved(
    works: dict[str, Callable[[], Any]],
    times: int,
    rounds: int = 9,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    for work in works.values():
        seconds(work, max(1, times // 5))
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(seconds(work, times, clock))
    return found


def row(what: str, figures: str, bar: str = "") -> None:
    print(f"  {what:<44} {figures:<56} {bar}", flush=True)


def microseconds(value: float) -> str:
    return f"{value * 1e6:,.0f} us"


class Floor:
    """Two commits that write what any exact store must: a counter, and the hold that comes and goes."""

    def __init__(self, path: str = "floor.db") -> None:
        self.db = sqlite3.connect(path, isolation_level=None, timeout=60)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER)")
        self.db.execute("CREATE TABLE IF NOT EXISTS h (id TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID")
        self.db.execute("INSERT OR IGNORE INTO t VALUES (1, 0)")

    def __call__(self) -> None:
        hold = (os.urandom(16).hex(),)
        for change in ("INSERT INTO h VALUES (?, 1)", "DELETE FROM h WHERE id = ?"):
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("UPDATE t SET n = n + 1 WHERE id = 1")
            self.db.execute(change, hold)
            self.db.execute("COMMIT")

    def bare(self) -> None:
        """Two commits of one row: less than any exact store can do."""
        for _ in range(2):
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("UPDATE t SET n = n + 1 WHERE id = 1")
            self.db.execute("COMMIT")


def bench_call() -> None:
    print("\na guarded call, openai SDK over an in-memory transport, SQLite store")
    plain, floor = client(), Floor()
    with Guard(Policy.blocking(10**12)) as guard:
        guarded = guard.wrap(plain)
        for size, times, rounds in ((1_000, 200, 21), (1_000_000, 40, 41)):
            prompt = [{"role": "user", "content": "a b " * (size // 4)}]

            def call(which: Any, prompt: Any = prompt) -> None:
                which.chat.completions.create(model="gpt-4o", messages=prompt)

            def with_floor(call: Any = call) -> None:
                call(plain)
                floor()

            def with_bare(call: Any = call) -> None:
                call(plain)
                floor.bare()

            works = {
                "plain": lambda c=call: c(plain),
                "floor": with_floor,
                "bare": with_bare,
                "guarded": lambda c=call: c(guarded),
            }
            found = shuffled(works, rounds, times)
            added, commits, bare = (
                statistics.median(one - p for one, p in zip(found[name], found["plain"]))
                for name in ("guarded", "floor", "bare")
            )
            row(
                f"prompt of {size:,} bytes: added per call",
                f"{microseconds(added)}; floor {microseconds(commits)}; ratio {added / commits:.2f} "
                f"(of two one-row commits: {added / bare:.2f})",
                "bar: below 3",
            )
            row("", f"of an unguarded call of {microseconds(statistics.median(found['plain']))}")
        guard.backend.close()


def stream_of(sdk: str, count: int) -> tuple[Any, Any, Callable[..., Any]]:
    """Return the two clients of a stream of so many pieces, and how one is opened."""
    if sdk == "chat":
        parts = sse(count)
    else:
        parts = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in EVENTS[sdk](count)]
    http = {
        "http_client": HTTP.Client(transport=Streaming(parts)),
        "base_url": "http://loopback/v1",
        "api_key": "x",
        "max_retries": 0,
    }
    ahttp = {**http, "http_client": HTTP.AsyncClient(transport=Streaming(parts))}
    if sdk == "messages":
        import anthropic

        asked = {"model": "claude-x", "max_tokens": 100, "messages": PROMPT}
        return (
            anthropic.Anthropic(**http),
            anthropic.AsyncAnthropic(**ahttp),
            lambda c, **more: c.messages.create(**asked, stream=True, **more),
        )
    clients = openai.OpenAI(**http), openai.AsyncOpenAI(**ahttp)
    if sdk == "responses":
        return (
            *clients,
            lambda c, **more: c.responses.create(model="gpt-4o", input="x", stream=True, **more),
        )
    return (
        *clients,
        lambda c, **more: c.chat.completions.create(model="gpt-4o", messages=PROMPT, stream=True, **more),
    )


def responses_events(count: int) -> list[dict[str, Any]]:
    reply = {"id": "r1", "object": "response", "created_at": 1, "model": "gpt-4o", "output": [], "tools": []}
    usage = {
        "input_tokens": 5, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 7,
    }  # fmt: skip
    piece = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.created", "sequence_number": 0, "response": {**reply, "status": "in_progress"}},
        *({**piece, "delta": "word ", "sequence_number": n, "logprobs": []} for n in range(1, count + 1)),
        {
            "type": "response.completed",
            "sequence_number": count + 1,
            "response": {**reply, "status": "completed", "usage": usage},
        },
    ]


def messages_events(count: int) -> list[dict[str, Any]]:
    message = {
        "id": "m1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 1},
    }  # fmt: skip
    delta = {"type": "text_delta", "text": "word "}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for _ in range(count)),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 2},
        },
        {"type": "message_stop"},
    ]


EVENTS = {"responses": responses_events, "messages": messages_events}


class Streaming(HTTP.BaseTransport, HTTP.AsyncBaseTransport):  # type: ignore[misc,name-defined]
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def handle_request(self, request: Any) -> Any:  # noqa: ARG002
        return HTTP.Response(200, headers={"content-type": "text/event-stream"}, stream=Body(self._parts))

    async def handle_async_request(self, request: Any) -> Any:
        return self.handle_request(request)


STREAM_ROUNDS = 41


def bench_stream() -> None:
    """Processor time of streams of `CHUNKS` pieces less that of streams of none: the call itself is not in it."""
    print(f"\na chunk of a stream of {CHUNKS:,}, beside an unguarded one; in brackets, 95 % intervals")
    usage = {"stream_options": {"include_usage": True}}
    loop = asyncio.new_event_loop()
    for sdk in ("chat", "responses", "messages"):
        asked = usage if sdk == "chat" else {}
        with Guard(Policy.blocking(10**12)) as guard:
            for kind in ("sync", "async"):
                works: dict[tuple[str, int], Callable[[], None]] = {}
                for count in (0, CHUNKS):
                    *clients, create = stream_of(sdk, count)
                    bare = clients[kind == "async"]
                    guarded = guard.wrap(bare)
                    reading = functools.partial(aread, loop) if kind == "async" else read
                    for name, which, more in (
                        ("plain", bare, asked),
                        ("again", bare, asked),
                        ("guarded", guarded, asked),
                        *((("hidden", guarded, {}),) if asked else ()),
                    ):
                        works[name, count] = functools.partial(reading, create, which, more)
                found = shuffled(works, STREAM_ROUNDS)

                def chunk(name: str, found: Any = found) -> list[float]:
                    return [(a - b) / CHUNKS * 1e6 for a, b in zip(found[name, CHUNKS], found[name, 0])]

                plain = chunk("plain")
                noise = interval([a - b for a, b in zip(chunk("again"), plain)])
                for name, what in (
                    (("guarded", ", usage asked for"), ("hidden", ", usage hidden"))
                    if asked
                    else (("guarded", ""),)
                ):
                    low, median, high = interval([a - b for a, b in zip(chunk(name), plain)])
                    base = statistics.median(plain)
                    row(
                        f"{sdk}, {kind}{what}",
                        f"{median:+.2f} us [{low:+.2f} {high:+.2f}] on {base:.1f} us ({median / base:+.1%}); "
                        f"two unguarded: {noise[1]:+.2f} [{noise[0]:+.2f} {noise[2]:+.2f}]",
                        "bar: noise",
                    )
            guard.backend.close()
    loop.close()


def read(create: Any, which: Any, more: Any) -> None:
    for _ in create(which, **more):
        pass


def aread(loop: asyncio.AbstractEventLoop, create: Any, which: Any, more: Any) -> None:
    async def through() -> None:
        async for _ in await create(which, **more):
            pass

    loop.run_until_complete(through())


def shuffled(works: dict[Any, Callable[[], Any]], rounds: int, times: int = 1) -> dict[Any, list[float]]:
    """Time each work in every round, in an order that changes: what comes after what has a cost too."""
    names = list(works)
    found: dict[Any, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        random.shuffle(names)
        for name in names:
            taken = seconds(works[name], times)
            if number:
                found[name].append(taken)
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median, between the ends of its 95 % confidence interval."""
    values = sorted(values)
    middle, half = len(values) // 2, int(0.98 * len(values) ** 0.5 + 0.5)
    return (
        values[max(0, middle - half)],
        statistics.median(values),
        values[min(len(values) - 1, middle + half)],
    )


def bench_import() -> None:
    print("\nimport tokencap")
    code = (
        "import sys, time; s = time.perf_counter(); import tokencap; t = time.perf_counter() - s;"
        "print(t, sorted(m for m in ('anthropic', 'openai', 'redis', 'tiktoken', 'httpx') if m in sys.modules))"
    )
    outs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(
            " ", 1
        )
        for _ in range(9)
    ]
    times = [float(out[0]) for out in outs]
    row(
        "time",
        f"median {statistics.median(times) * 1e3:.1f} ms, least {min(times) * 1e3:.1f} ms",
        "bar: below 30 ms",
    )
    row("SDKs loaded", outs[0][1].strip())


@contextmanager
def redis_server() -> Iterator[str | None]:
    """A real server from the wheel that the test extra brings, or REDIS_URL."""
    if os.environ.get("REDIS_URL"):
        yield os.environ["REDIS_URL"]
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    try:
        from backends.redis_servers import shared_server

        server = shared_server()
    except BaseException as error:
        print(f"  no Redis server here ({error}); its figures are left out")
        yield None
        return
    yield server.url


def verbs(backend: Any, calls: int, key: BudgetKey) -> list[float]:
    holds = [Hold(key, 10**12, 1.0, 100, 100)]
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        grant = backend.reserve(os.urandom(16).hex(), holds, 10, 60.0)
        backend.settle(grant.reservation, 7, ())
        times.append(time.perf_counter() - start)
    return times


def open_store(kind: str, url: str | None) -> Any:
    if kind == "sqlite":
        return SQLiteBackend("stores.db")
    from tokencap.backends.redis import RedisBackend

    return RedisBackend(url, prefix="bench")


def floor_of(kind: str, url: str | None) -> Callable[[], Any]:
    if kind == "sqlite":
        return Floor("stores-floor.db")
    import redis

    connection = redis.Redis.from_url(url or "")
    sha = connection.script_load("return redis.call('INCRBY', KEYS[1], ARGV[1])")

    def twice() -> None:
        connection.evalsha(sha, 1, "floor", 1)
        connection.evalsha(sha, 1, "floor", 1)

    return twice


def fleet_member(kind: str, url: str | None, seconds_long: float, guarded: bool, pipe: Any) -> None:
    end = time.perf_counter() + seconds_long
    times: list[float] = []
    if guarded:
        backend = open_store(kind, url)
        verbs(backend, 50, BudgetKey("bench", "warm"))
        while time.perf_counter() < end:
            times += verbs(backend, 50, BudgetKey("bench", "shared"))
        backend.close()
    else:
        floor = floor_of(kind, url)
        while time.perf_counter() < end:
            for _ in range(50):
                start = time.perf_counter()
                try:
                    floor()
                except sqlite3.OperationalError:
                    continue
                times.append(time.perf_counter() - start)
    pipe.send(times)


def bench_stores() -> None:
    with redis_server() as url:
        for kind, bar in (("sqlite", "bar: at most 2"), ("redis", "bar: at most 1.5")):
            if kind == "redis" and url is None:
                continue
            print(f"\n{kind}: reserve + settle beside its floor")
            backend, floor = open_store(kind, url), floor_of(kind, url)
            clock = time.perf_counter if kind == "redis" else time.process_time
            key = BudgetKey("bench", "alone")
            found = interleaved(
                {"floor": floor, "guarded": lambda b=backend, k=key: verbs(b, 1, k)}, 500, clock=clock
            )
            ratios = [g / f for g, f in zip(found["guarded"], found["floor"])]
            row(
                "one process",
                f"{microseconds(statistics.median(found['guarded']))} on {microseconds(statistics.median(found['floor']))};"
                f" ratio {statistics.median(ratios):.2f}",
                bar,
            )
            backend.close()
            spawn = multiprocessing.get_context("spawn")
            for count in (1, 2, 4, 8):
                figures = []
                for guarded in (False, True):
                    pipes, workers = [], []
                    for _ in range(count):
                        ours, theirs = spawn.Pipe()
                        worker = spawn.Process(target=fleet_member, args=(kind, url, 2.0, guarded, theirs))
                        worker.start()
                        pipes.append(ours)
                        workers.append(worker)
                    times = sorted(one for pipe in pipes for one in pipe.recv())
                    for worker in workers:
                        worker.join()
                    p99 = times[int(len(times) * 0.99)] if times else float("nan")
                    figures.append(f"{len(times) / 2:,.0f}/s, p99 {p99 * 1e3:.2f} ms")
                row(f"{count} processes on one budget", f"{figures[1]}   (floor {figures[0]})")


class SlowProvider(asyncio.Protocol):
    """A provider that answers each request after 50 ms, with as little work of its own as can be."""

    BODY = json.dumps(CHAT).encode()
    REPLY = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
    )

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if found and len(body) >= int(length):
            self._received = b""
            asyncio.get_running_loop().call_later(0.05, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self.REPLY)


def provide(pipe: Any) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(SlowProvider, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def throughput(which: Any, calls: int, turns: int = 0) -> float:
    """Return the calls per second of 200 workers. `turns`: of the event loop, let pass before each call."""
    prompt = [{"role": "user", "content": "hello"}]

    async def worker() -> None:
        for _ in range(calls // 200):
            for _ in range(turns):
                await asyncio.sleep(0)
            await which.chat.completions.create(model="gpt-4o", messages=prompt)

    start = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(200)])
    return calls / (time.perf_counter() - start)


async def shares(
    plain: openai.AsyncOpenAI, backend: Any, calls: int, rounds: int
) -> list[tuple[float, float]]:
    """Return the throughputs of rounds of so many calls, unguarded and guarded."""
    guard = Guard(Policy.blocking(10**12), backend=backend)
    guarded = guard.wrap(plain)
    await throughput(plain, 400)
    await throughput(guarded, 400)
    found = [(await throughput(plain, calls), await throughput(guarded, calls)) for _ in range(rounds)]
    await backend.as_async().aclose()
    await plain.close()
    guard.teardown()
    return found


async def floors(plain: openai.AsyncOpenAI, turns: Sequence[int]) -> list[float]:
    """Return which part of the throughput is left to unguarded calls that let the loop turn before each."""
    await throughput(plain, 400)
    rounds = []
    for _ in range(9):
        whole = await throughput(plain, 1_000)
        rounds.append([await throughput(plain, 1_000, each) / whole for each in turns])
    await plain.close()
    return [statistics.median(found) for found in zip(*rounds)]


def bench_async() -> None:
    print("\n200 concurrent async calls against a provider that takes 50 ms")
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    provider = spawn.Process(target=provide, args=(theirs,), daemon=True)
    provider.start()
    options: dict[str, Any] = {"api_key": "x", "max_retries": 0}
    loopback = f"http://127.0.0.1:{ours.recv()}/v1"

    def over_http() -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=loopback, **options)

    def in_memory() -> openai.AsyncOpenAI:
        http = HTTP.AsyncClient(transport=transport(delay=0.05))
        return openai.AsyncOpenAI(base_url="http://loopback/v1", http_client=http, **options)

    # An answer from elsewhere takes at least a turn of the loop. Meanwhile the connection of the caller's last
    # call is idle, and the HTTP client looks at every idle one before and after each call.
    one, two = asyncio.run(floors(over_http(), (1, 2)))
    row(
        "no store, over HTTP on loopback",
        f"{one:.1%} if the loop turns once before each call, {two:.1%} if twice",
    )

    with redis_server() as url:
        for kind in ("sqlite", "redis"):
            if kind == "redis" and url is None:
                continue
            for make, calls, rounds, where, bar in (
                (over_http, 1_000, 9, "over HTTP, 200 workers, call after call", "bar: at least 90 %"),
                (over_http, 200, 31, "over HTTP, 200 calls at once", ""),
                (in_memory, 1_000, 9, "in memory, no network to wait for", ""),
            ):
                backend = open_store(kind, url)
                found = asyncio.run(shares(make(), backend, calls, rounds))
                backend.close()
                share = statistics.median(g / p for p, g in found)
                row(
                    f"{kind}, {where}",
                    f"{statistics.median(g for _, g in found):,.0f} calls/s of "
                    f"{statistics.median(p for p, _ in found):,.0f} unguarded; {share:.1%}",
                    bar,
                )
    provider.terminate()
    provider.join()


async def worst_stall(backend: Any, calls: int, trouble: Callable[[], Any]) -> float:
    guard = Guard(Policy.blocking(10**12), backend=backend)
    http = HTTP.AsyncClient(transport=transport(delay=0.001))
    plain = openai.AsyncOpenAI(api_key="x", base_url="http://loopback/v1", http_client=http, max_retries=0)
    guarded = guard.wrap(plain)
    prompt = [{"role": "user", "content": "hello"}]
    await guarded.chat.completions.create(model="gpt-4o", messages=prompt)
    worst, running = 0.0, True

    async def heart() -> None:
        nonlocal worst
        while running:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - start - 0.001)

    async def spend() -> None:
        for _ in range(calls):
            await guarded.chat.completions.create(model="gpt-4o", messages=prompt)

    beating = asyncio.ensure_future(heart())
    await asyncio.sleep(0.05)
    thread = threading.Thread(target=trouble)
    thread.start()
    await asyncio.sleep(0.02)
    await asyncio.gather(*[spend() for _ in range(4)])
    running = False
    await beating
    thread.join()
    await backend.as_async().aclose()
    await plain.close()
    guard.teardown()
    return worst


def lock_file(path: str, held: Any) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    held.set()
    time.sleep(0.5)
    other.execute("ROLLBACK")


def bench_stall() -> None:
    print("\nworst stall of the event loop while calls are made")
    spawn = multiprocessing.get_context("spawn")

    def lock() -> None:
        held = spawn.Event()
        worker = spawn.Process(target=lock_file, args=("stores.db", held))
        worker.start()
        worker.join()

    for what, trouble in (
        ("nothing in the way", lambda: None),
        ("another process holds the SQLite lock 500 ms", lock),
    ):
        backend = SQLiteBackend("stores.db")
        stalls = [asyncio.run(worst_stall(backend, 150, trouble)) for _ in range(3)]
        backend.close()
        row(
            f"sqlite, {what}",
            f"{statistics.median(stalls) * 1e3:.1f} ms (of {len(stalls)} runs)",
            "bar: below 20 ms",
        )
    with redis_server() as url:
        if url is None:
            return
        import redis

        def pause() -> None:
            connection = redis.Redis.from_url(url)
            connection.execute_command("CLIENT", "PAUSE", "500", "ALL")
            connection.close()

        for what, trouble in (("nothing in the way", lambda: None), ("the server pauses 500 ms", pause)):
            backend = open_store("redis", url)
            stalls = [asyncio.run(worst_stall(backend, 50, trouble)) for _ in range(3)]
            backend.close()
            row(
                f"redis, {what}",
                f"{statistics.median(stalls) * 1e3:.1f} ms (of {len(stalls)} runs)",
                "bar: below 20 ms",
            )


def bench_ledger() -> None:
    """A settled call with the ledger on beside one with it off, and a ledger of 5 million calls."""
    print("\nthe ledger")
    with redis_server() as url:
        for kind in ("sqlite", "redis"):
            if kind == "redis" and url is None:
                continue
            clock = time.perf_counter if kind == "redis" else time.process_time
            stores = [open_store(kind, url), open_store(kind, url)]
            off = Guard(Policy.blocking(10**12), backend=stores[0], ledger=False)
            on = Guard(Policy.blocking(10**12), backend=stores[1])
            works = {"off": functools.partial(settled_call, off), "on": functools.partial(settled_call, on)}
            found = interleaved(works, 500, rounds=25, clock=clock)
            on.teardown()
            off.teardown()
            ratios = [with_it / without for without, with_it in zip(found["off"], found["on"])]
            row(
                f"{kind}: a settled call, without the SDK",
                f"{microseconds(statistics.median(found['on']))} with it, "
                f"{microseconds(statistics.median(found['off']))} without; ratio {statistics.median(ratios):.2f}",
                "bar: at most 1.20",
            )
            for store in stores:
                store.close()
    fill_ledger("ledger.db", LEDGER_ROWS, days=30)
    size = os.path.getsize("ledger.db")
    row(
        f"{LEDGER_ROWS:,} calls of 30 days",
        f"{size / 1e6:,.0f} MB, {size / LEDGER_ROWS:.1f} bytes a call",
        "bar: 64",
    )
    store = SQLiteBackend("ledger.db")
    book = tokencap.ledger.open(store)
    for by, since in (("model", "24h"), ("tenant", "24h"), ("hour", "24h"), ("model", "7d"), ("model", None)):
        times = []
        for _ in range(5 if since == "24h" else 1):
            start = time.perf_counter()
            answer = book.usage(by, since=since)
            times.append(time.perf_counter() - start)
        bar = "bar: below 1 s" if since == "24h" else ""
        what = f"usage by {by} since {since or 'ever'}"
        row(
            what,
            f"{statistics.median(times):.2f} s for {answer.total.calls:,} calls in {len(answer)} rows",
            bar,
        )
    store.close()


def settled_call(guard: Guard) -> None:
    session = CallSession(
        guard.runtime, Provider.OPENAI, CHAT_ENDPOINT, {"model": "gpt-4o", "messages": PROMPT}
    )
    run_flow(session.begin())
    session.tally.usage = TokenUsage(5, 2)
    run_flow(session.settle())


def fill_ledger(path: str, rows: int, days: float) -> None:
    """Write `rows` calls of 8 models and 50 tenants, spread over the last `days`, with one statement of SQL."""
    store = SQLiteBackend(path)
    store.get_states([])
    store.close()
    now, step = int(time.time() * 1e6), int(days * 86_400e6 / rows)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    for day in range(int(days) + 2):
        for number in range(400):
            model, tenant = f"model-{number % 8}", {"tenant": f"tenant-{number // 8}"}
            label = Label("openai", "/chat/completions", model, model, tenant, {})
            today = int(time.time() // 86_400) - day
            db.execute("INSERT INTO labels VALUES (?, ?, ?)", (day * 400 + number + 1, today, label.text()))
    db.execute(
        "WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < :rows) INSERT INTO calls"
        " (at, n, label, ending, estimated, input, output, cached, written, reasoning, estimate, ms)"
        " SELECT :now - (:rows - n) * :step, n,"
        " (:now / 86400000000 - (:now - (:rows - n) * :step) / 86400000000) * 400 + 1 + abs(random()) % 400,"
        " 0, 0, 200 + abs(random()) % 8000, 20 + abs(random()) % 900, abs(random()) % 3 * 500, 0,"
        " abs(random()) % 2 * 100, 200 + abs(random()) % 8000, 300 + abs(random()) % 9000 FROM k",
        {"rows": rows, "now": now, "step": step},
    )
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


PARTS = {
    "call": bench_call,
    "stream": bench_stream,
    "import": bench_import,
    "stores": bench_stores,
    "async": bench_async,
    "stall": bench_stall,
    "ledger": bench_ledger,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no such part: {', '.join(unknown)}; there is {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print(
        f"tokencap {tokencap.__version__}, Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, ",
        end="",
    )
    print(f"openai {openai.__version__}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as folder:
        here = os.getcwd()
        os.chdir(folder)
        try:
            for name in names or PARTS:
                PARTS[name]()
        finally:
            os.chdir(here)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
