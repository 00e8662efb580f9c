"""What is done around one request of any SDK: reserve, send, and settle by what comes back."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable
from typing import Any, Callable

from .._flow import Flow, arun, run
from .bodies import observe_read_body, watch_body
from .exchange import Exchange

__all__ = ["asend", "received", "send"]

Receive = Callable[[Any], "Flow[None] | None"]
"""Says how to settle by what was returned; None when that has to be read first."""


def send(exchange: Exchange, call: Callable[[dict[str, Any]], Any], receive: Receive) -> Any:
    """Make a call with the changes it needs, and settle it."""
    with exchange.traced():
        try:
            changes = run(exchange.begin())
        except BaseException:
            run(exchange.unsent())
            raise
        try:
            result = call(changes)
        except BaseException as error:
            run(exchange.failed(error))
            raise
        ended = receive(result)
        if ended is not None:
            run(ended)
        return result


async def asend(
    exchange: Exchange, call: Callable[[dict[str, Any]], Awaitable[Any]], receive: Receive
) -> Any:
    """Do the same in a task."""
    with exchange.traced():
        try:
            changes = await arun(exchange.begin())
        except BaseException:
            await arun(exchange.unsent())
            raise
        try:
            result = await call(changes)
        except BaseException as error:
            await arun(exchange.failed(error))
            raise
        ended = receive(result)
        if ended is not None:
            await arun(ended)
        return result


def received(exchange: Exchange, response: Any, is_async: bool) -> Flow[None] | None:
    """Return how to settle by an HTTP response; None when its body is still to be read."""
    if response.status_code >= 400:
        return exchange.refused()
    if response.is_closed:
        observe_read_body(exchange, response)
        return exchange.settle()
    watch_body(exchange, response, is_async, live=True)
    weakref.finalize(response, exchange.drop).atexit = False
    return None
