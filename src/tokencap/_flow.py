"""Where sync and async meet, and the only module that knows both.

A decision is a generator, a *flow*: it yields the steps it wants performed (a storage call, a
user's callback) and is sent their results. `run` performs them in this thread, `arun` in this
task. A step names both ways of doing it; the flow does not know which is taken.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Generator
from typing import Any, Callable, Generic, NamedTuple, TypeVar

__all__ = ["Flow", "Ready", "Step", "arun", "aside", "run", "running_trio"]

T = TypeVar("T")


class Step(NamedTuple):
    """One thing to perform, in its two forms, with its arguments."""

    sync: Callable[..., Any]
    coroutine: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]
    cancellable: bool = False
    """True for a wait, which a cancellation ends at once; every other step is finished first."""


Flow = Generator[Step, Any, T]


class Ready(Generic[T]):
    """The answer of a step that did not have to wait: awaiting it takes no turn of the event loop."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, Any, T]:
        return self.value
        yield


def run(flow: Flow[T]) -> T:
    """Drive a flow to its end in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                reply = step.sync(*step.args)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def arun(flow: Flow[T]) -> T:
    """Drive a flow to its end in this task.

    A flow is never torn: a cancellation that arrives meanwhile is delivered where it waits or has ended.
    """
    cancelled: asyncio.CancelledError | None = None
    try:
        step = next(flow)
        while True:
            try:
                if step.cancellable:
                    if cancelled is not None:
                        raise cancelled
                    reply = await step.coroutine(*step.args)
                else:
                    answer: Any = step.coroutine(*step.args)
                    if answer.__class__ is Ready:
                        reply = answer.value
                    elif _in_asyncio():
                        task = asyncio.ensure_future(answer)
                        cancelled = await _end_of(task) or cancelled
                        reply = task.result()
                    else:
                        reply = await _shielded(answer)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as stop:
        if cancelled is not None:
            raise cancelled from None
        result: T = stop.value
        return result
    except Exception as error:
        if cancelled is not None:
            raise cancelled from error
        raise


async def aside(step: Callable[[], T]) -> T:
    """Perform a blocking step where no asyncio loop runs: in a thread of trio's, else here and now."""
    trio = running_trio()
    if trio is None:
        return step()
    result: T = await trio.to_thread.run_sync(step)
    return result


def running_trio() -> Any:
    """Return the module trio if this is called in one of its tasks, else None."""
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None
    return trio


async def _shielded(answer: Awaitable[T]) -> T:
    trio = running_trio()
    if trio is None:
        return await answer
    with trio.CancelScope(shield=True):
        return await answer


def _in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _end_of(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a task has ended, however it does; return the cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if not task.cancelled():
                cancelled = error
        except BaseException:
            if not task.done():
                raise
    return cancelled
