"""Streams: the SDK's own classes, with one method overridden so that every event passes our eyes.

The endings: exhausted, closed, left by `with`, broken out of, an error in the consumer or from the
provider, cancelled, never iterated, dropped. Usage counts when its event passes, so that a consumer
that stops there leaves nothing behind; the rest end in `settle`, which only the first reaches.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any, Callable, get_origin

from .._flow import arun, run
from ..providers import UNLISTED
from .bodies import watch_body
from .exchange import Exchange, ending_of

__all__ = ["aevents", "attach", "events", "guarded_stream_class"]

EXTENSION = "tokencap"
"""Where a response carries its exchange, from the reply to the moment it is iterated."""


@lru_cache(maxsize=256)
def guarded_stream_class(stream_cls: Any, is_async: bool) -> Any:
    """Return a subclass of `stream_cls` (a class or a parametrised alias) whose events are observed.

    The SDK reads the type of the events from the bases, so the alias itself has to be the base.
    """
    origin = get_origin(stream_cls) or stream_cls

    def stream(self: Any) -> Any:
        # On a copy: a generator that holds its own stream keeps a dropped one alive until the collector runs.
        source = origin.__stream__(copy.copy(self))
        response = self.response

        def find() -> Exchange | None:
            # Some versions make the generator before the exchange is attached.
            found: Exchange | None = response.extensions.get(EXTENSION)
            return found

        return aevents(find, source) if is_async else events(find, source)

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        origin.__init__(self, *args, **kwargs)
        if "_iterator" in vars(self) and type(self) is cls:
            # That is ours, and nothing else has to be: older SDKs take no subclass for the class itself.
            self.__class__ = origin

    def fill(namespace: dict[str, Any]) -> None:
        namespace["__init__"] = made
        namespace["__stream__"] = stream
        namespace["__module__"] = origin.__module__
        namespace["__doc__"] = origin.__doc__

    cls = types.new_class(origin.__name__, (stream_cls,), {}, fill)
    cls.__qualname__ = origin.__qualname__
    return cls


def attach(exchange: Exchange, response: Any, is_async: bool) -> None:
    """Tie a response that has not been read yet to its exchange.

    Not a stream over it: an older `messages.stream()` keeps its response and makes a stream of its own.
    """
    # Older SDKs drop events that they do not know, which those of an unknown path may be.
    if not watch_body(exchange, response, is_async, live=exchange.session.endpoint is UNLISTED):
        response.extensions[EXTENSION] = exchange
    weakref.finalize(response, exchange.drop).atexit = False


Find = Callable[[], "Exchange | None"]
"""Finds the exchange of a stream, asked when it is iterated: it may be made before it has one."""
Read = Callable[[Any], Any]


def events(find: Find, source: Iterator[Any], read: Read | None = None) -> Iterator[Any]:
    """Pass the events of a stream on, told to the tally as `read` makes them of it, and settle its call."""
    exchange = find()
    if exchange is None:
        yield from source
        return
    exchange.observed = exchange.pulling = True
    tally, hides = exchange.session.tally, exchange.hides_usage
    observe = tally.event
    held: list[Any] = []
    try:
        for event in source:
            exchange.pulling = False
            only_usage = observe(event if read is None else read(event))
            if tally.done:
                run(exchange.settle())
            if held:
                yield held.pop()
            if not (only_usage and hides):
                if hides:
                    event = exchange.visible(event)
                if tally.awaited and exchange.open:
                    # The usage comes right after this event, and many consumers stop here.
                    held.append(event)
                else:
                    yield event
            exchange.pulling = True
        run(exchange.settle())
        if held:
            yield held.pop()
    except GeneratorExit:
        # Maybe in a finalizer, which must not wait for a store: nor when the source closes its response.
        exchange.pulling = True
        exchange.drop()
        raise
    except BaseException as error:
        run(exchange.settle(ending_of(error)))
        if held and isinstance(error, Exception):
            # An interruption does not wait: who stops at this event would never meet it.
            yield held.pop()
        raise
    finally:
        source.close()  # type: ignore[attr-defined]


async def aevents(find: Find, source: AsyncIterator[Any], read: Read | None = None) -> AsyncIterator[Any]:
    """Do the same in a task."""
    exchange = find()
    if exchange is None:
        async for event in source:
            yield event
        return
    exchange.observed = exchange.pulling = True
    tally, hides = exchange.session.tally, exchange.hides_usage
    observe = tally.event
    held: list[Any] = []
    try:
        async for event in source:
            exchange.pulling = False
            only_usage = observe(event if read is None else read(event))
            if tally.done:
                await arun(exchange.settle())
            if held:
                yield held.pop()
            if not (only_usage and hides):
                if hides:
                    event = exchange.visible(event)
                if tally.awaited and exchange.open:
                    held.append(event)
                else:
                    yield event
            exchange.pulling = True
        await arun(exchange.settle())
        if held:
            yield held.pop()
    except GeneratorExit:
        exchange.pulling = True
        exchange.drop()
        raise
    except BaseException as error:
        await arun(exchange.settle(ending_of(error)))
        if held and isinstance(error, Exception):
            yield held.pop()
        raise
    finally:
        # An event loop that shuts down closes all generators at once, this one's source among them.
        if not getattr(source, "ag_running", False):
            await source.aclose()  # type: ignore[attr-defined]
