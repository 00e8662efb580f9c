"""What a guarded call goes through while its store fails: the same for every store and every failure."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Callable

import anthropic
import openai
import pytest

from tokencap import BackendError, BudgetKey, Guard, Policy
from tokencap._loopback import LoopbackProvider
from tokencap.backends.protocol import Backend
from wire import done, drive, each

LIMIT = 100_000
TIMEOUT = 0.3
IN_TIME = TIMEOUT + 2.0
"""How long a verb may take on a machine that is busy with other things: never a matter of retries."""
PATIENCE = 20.0

SHAPES = {
    "sync": (anthropic.Anthropic, anthropic.DefaultHttpxClient, False),
    "sync-stream": (openai.OpenAI, openai.DefaultHttpxClient, True),
    "async": (openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient, False),
    "async-stream": (anthropic.AsyncAnthropic, anthropic.DefaultAsyncHttpxClient, True),
}

Failing = Callable[[], AbstractContextManager[Any]]
"""While it is entered, the store fails."""


class Caller:
    """A client of one shape. What is put into `in_mid_call` happens once, when a reply begins to arrive."""

    def __init__(self, shape: str) -> None:
        make, self._make_http, self.streamed = SHAPES[shape]
        self.is_async = shape.startswith("async")
        self.in_mid_call: list[Callable[[], Any]] = []
        hook = self._areplied if self.is_async else self._replied
        self.client: Any = make(max_retries=0, http_client=self._make_http(event_hooks={"response": [hook]}))

    def _replied(self, response: Any) -> None:
        while self.in_mid_call:
            self.in_mid_call.pop()()

    async def _areplied(self, response: Any) -> None:
        self._replied(response)

    async def ask(self, client: Any, prompt: str = "hello [[output=20]]") -> str:
        """Make a call and return its answer."""
        ask = client.messages if hasattr(client, "messages") else client.chat.completions
        reply = await done(
            ask.create(
                model="some-model",
                max_tokens=50,
                messages=[{"role": "user", "content": prompt}],
                stream=self.streamed,
            )
        )
        if not self.streamed:
            return str(reply)
        return "".join([str(event) async for event in each(reply)])

    async def close(self) -> None:
        await done(self.client.close())


class Case:
    """One store, one shape of call, and what the provider billed."""

    def __init__(self, backend: Backend, shape: str, provider: LoopbackProvider) -> None:
        self.backend = backend
        self.caller = Caller(shape)
        self.provider = provider
        self.key = BudgetKey("session", f"ordeal-{uuid.uuid4().hex}")
        self.lost = provider.tokens
        """Tokens the provider billed that are no longer, or never were, in the store."""

    def guard(self, **more: Any) -> Guard:
        return Guard(Policy.blocking(LIMIT), {"session": self.key.identifier}, self.backend, **more)

    def run(self, story: Any) -> Any:
        """Perform a coroutine; then close the client."""

        async def whole() -> None:
            try:
                await story
            finally:
                await self.caller.close()
                if self.caller.is_async:
                    await self.backend.as_async().aclose()

        return drive(whole(), self.caller.is_async)

    def check_books(self, guard: Guard, seconds: float = PATIENCE) -> None:
        """Wait until the store is back and knows all; what it says then is what the provider billed."""
        deadline = time.monotonic() + seconds
        billed = self.provider.tokens - self.lost
        found: Any = None
        while found != (billed, 0, 0):
            assert time.monotonic() < deadline, f"{found} instead of {billed} after {seconds:g} s"
            try:
                state = guard.get_status().dimensions["session"]
                found = (state.used, state.reserved, state.calls)
            except BackendError as error:
                found = error
            time.sleep(0.005)


@contextmanager
def in_time(seconds: float = IN_TIME) -> Iterator[None]:
    """Fail if the block takes longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def blocks(case: Case, failing: Failing) -> None:
    """No call is made while the store fails, and the next one when it is back."""

    async def story() -> None:
        with case.guard() as guard:
            client = guard.wrap(case.caller.client)
            await case.caller.ask(client)
            calls = case.provider.calls
            with failing():
                for _ in range(2):
                    with in_time(), pytest.raises(BackendError) as caught:
                        await case.caller.ask(client)
                    assert case.backend.name in str(caught.value)
                assert case.provider.calls == calls
            await until_made(case, client)
            case.check_books(guard)

    case.run(story())


def allows(case: Case, failing: Failing) -> None:
    """Calls are made while the store fails, and booked to the token when it is back."""

    async def story() -> None:
        with case.guard(on_backend_error="allow") as guard:
            client = guard.wrap(case.caller.client)
            await case.caller.ask(client)
            with failing():
                for _ in range(2):
                    # Once for the hold, once for the settlement.
                    with in_time(2 * IN_TIME):
                        assert "word" in await case.caller.ask(client)
            case.check_books(guard)
            await case.caller.ask(client)
            case.check_books(guard)

    case.run(story())


def pays(case: Case, failing: Failing) -> None:
    """A reply reaches its caller though the store fails in mid-call, and is booked when it is back."""

    async def story() -> None:
        with case.guard() as guard, ExitStack() as stack:
            client = guard.wrap(case.caller.client)
            await case.caller.ask(client)
            case.caller.in_mid_call.append(lambda: stack.enter_context(failing()))
            with in_time(IN_TIME + 0.2):
                assert "word" in await case.caller.ask(client)
            assert not case.caller.in_mid_call
            stack.close()
            case.check_books(guard)
            await until_made(case, client)
            case.check_books(guard)

    case.run(story())


def forgets(case: Case, lose: Callable[[], Any]) -> None:
    """A store that works, but loses everything in mid-call. That call is booked all the same, once."""

    async def story() -> None:
        with case.guard() as guard:
            client = guard.wrap(case.caller.client)
            await case.caller.ask(client)
            case.lost = case.provider.tokens
            case.caller.in_mid_call.append(lose)
            assert "word" in await case.caller.ask(client)
            assert not case.caller.in_mid_call
            case.check_books(guard)
            await case.caller.ask(client)
            case.check_books(guard)

    case.run(story())


def begins_broken(case: Case, mend: Callable[[], Any]) -> None:
    """A store that does not work from the start, until it does."""

    async def story() -> None:
        with case.guard() as strict, case.guard(on_backend_error="allow") as lenient:
            client = strict.wrap(case.caller.client)
            with in_time(), pytest.raises(BackendError, match=case.backend.name):
                await case.caller.ask(client)
            assert case.provider.calls == 0
            assert "word" in await case.caller.ask(lenient.wrap(case.caller.client))
            mend()
            case.check_books(lenient)
            await case.caller.ask(client)
            case.check_books(strict)

    case.run(story())


ORDEALS = [blocks, allows, pays]


async def until_made(case: Case, client: Any, seconds: float = PATIENCE) -> None:
    """Call until a call is made: a server needs a moment to be back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await case.caller.ask(client)
            return
        except BackendError:
            assert time.monotonic() < deadline, "the store is not back"


def obey_modes() -> None:
    """Give up what lets root write files that nobody may write. Linux only; others need no root."""
    import ctypes

    if os.geteuid():
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    # Two words each of what is effective, permitted and inherited, the words of one kind apart.
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    overriding = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for n in range(3):
        sets[n] &= ~overriding
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())


@contextmanager
def read_only(path: str) -> Iterator[None]:
    """The file may not be written. An open one stays writable, so its process lets go of it."""
    os.chmod(path, 0o400)
    try:
        yield
    finally:
        os.chmod(path, 0o600)


@contextmanager
def disk_full(path: str) -> Iterator[None]:
    """No file can grow: as good as a full disk, for this process."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def in_its_own_process(failure: str, folder: str) -> None:
    """Put a SQLite store through a failure that a process brings on itself."""
    from tokencap.backends.sqlite import SQLiteBackend

    if failure == "read_only":
        obey_modes()
    path = os.path.join(folder, f"{failure}.db")
    backend = SQLiteBackend(path, timeout=TIMEOUT)

    @contextmanager
    def failing() -> Iterator[None]:
        with globals()[failure](path):
            if failure == "read_only":
                backend.close()
            yield

    with LoopbackProvider() as provider:
        os.environ.update(provider.environ)
        for shape in SHAPES:
            for ordeal in ORDEALS:
                ordeal(Case(backend, shape, provider), failing)
    backend.close()
    with contextlib.closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
