"""Where sync and async meet, and the only module that knows both.

A decision is a generator, a *flow*: it yields the steps it wants performed (a storage call, a
user's callback) and is sent their results. `run` performs them in this thread, `arun` in this
task. A step names both ways of doing it; the flow does not know which is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Callable, NamedTuple, TypeVar

__all__ = ["Flow", "Step", "arun", "run"]

T = TypeVar("T")


class Step(NamedTuple):
    """One thing to perform, in its two forms, with its arguments."""

    sync: Callable[..., Any]
    coroutine: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]
    cancellable: bool = False
    """True for a wait, which a cancellation ends at once; every other step is finished first."""


Flow = Generator[Step, Any, T]


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

    A flow is never torn: a cancellation that arrives meanwhile is delivered when the flow has ended.
    """
    cancelled: asyncio.CancelledError | None = None
    try:
        step = next(flow)
        while True:
            task = None if step.cancellable else _start(step)
            try:
                while task is not None:
                    try:
                        await asyncio.shield(task)
                        break
                    except asyncio.CancelledError as error:
                        if task.cancelled():
                            raise
                        cancelled = error
                        if task.done():
                            break
                reply = await step.coroutine(*step.args) if task is None else task.result()
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


def _start(step: Step) -> asyncio.Future[Any] | None:
    """Begin a step in a task of its own, out of reach of our cancellation; None without asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    return asyncio.ensure_future(step.coroutine(*step.args))
