"""Bodies of replies that the caller reads by themselves: raw and streaming responses.

The body stream of the HTTP response is wrapped. While the SDK's models read it, only its closing
matters; when bytes are read directly they are kept, and the usage is found in them at the end. Of an
SDK whose seam is the HTTP client itself, the events are read from the bytes as they pass (`live`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any

from .._flow import arun, run
from .._session import Ending
from .events import EventReader
from .exchange import Exchange, ending_of

__all__ = ["observe_read_body", "watch_body"]

_MOST_KEPT = 64 * 2**20


def observe_read_body(exchange: Exchange, response: Any) -> None:
    """Note the usage in a response whose body is complete."""
    _observe(exchange, response.headers, response.content)


def watch_body(exchange: Exchange, response: Any, is_async: bool, live: bool = False) -> bool:
    """Follow the body of a response that is still to be read; return whether its events are read from it.

    One that was read already is left alone.
    """
    if response.is_closed:
        return False
    stream_type: Any = type(response.stream)
    response.stream = body = _watched_class(stream_type)(exchange, response, is_async, live)
    return isinstance(body.reader, EventReader)


@lru_cache(maxsize=32)
def _watched_class(stream_type: Any) -> Any:
    # httpx and its successor both test for their own base class.
    bases = tuple(
        base for base in stream_type.__mro__ if base.__name__ in ("SyncByteStream", "AsyncByteStream")
    )
    return type("WatchedBody", (_Watched, *bases), {"__module__": stream_type.__module__})


class _Watched:
    """A body stream that knows which exchange it belongs to."""

    def __init__(self, exchange: Exchange, response: Any, is_async: bool, live: bool) -> None:
        self._inner = response.stream
        # The SDK's own tracing puts it on the body, and looks for it there at every event.
        self.stream_observer = getattr(self._inner, "stream_observer", None)
        self._exchange = exchange
        self._headers = response.headers
        self._response_type = type(response)
        self._is_async = is_async
        self._kept: list[bytes] = []
        self._size = 0
        self._whole = False
        self._unshown = b""
        streamed = live and _STREAMED.search(self._headers.get("content-type", ""))
        # A compressed one is read when it is complete, like any other.
        self.reader = EventReader() if streamed and not self._headers.get("content-encoding") else None

    def __getattr__(self, name: str) -> Any:
        # What the HTTP library puts there (`elapsed`).
        return getattr(self.__dict__["_inner"], name)

    def __iter__(self) -> Iterator[bytes]:
        if self._exchange.observed:
            yield from self._inner
            self._whole = True
            return
        try:
            for chunk in self._inner:
                if self._keep(chunk):
                    run(self._exchange.settle())
                yield self._shown(chunk)
            self._whole = True
        except Exception as error:
            # Not every version of the HTTP library closes a body that it could not read.
            if self._ends_here():
                run(self._exchange.settle(ending_of(error)))
            if self._unshown:
                yield self._unshown
            raise
        if self._unshown:
            yield self._unshown

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks, exchange = self._inner.__aiter__(), self._exchange
        try:
            async for chunk in chunks:
                if exchange.observed:
                    yield chunk
                    continue
                if self._keep(chunk):
                    await arun(exchange.settle())
                yield self._shown(chunk)
            self._whole = True
            if self._unshown:
                yield self._unshown
        except Exception as error:
            if self._ends_here():
                await arun(exchange.settle(ending_of(error)))
            if self._unshown:
                yield self._unshown
            raise
        finally:
            # In the task that reads: left to the collector, it would be closed in another.
            close = getattr(chunks, "aclose", None)
            if close is not None and not getattr(chunks, "ag_running", False):
                await close()

    def close(self) -> None:
        ending = self._ending()
        self._inner.close()
        if self._ends_here():
            if ending is None:
                self._exchange.drop()
            else:
                run(self._exchange.settle(ending))

    async def aclose(self) -> None:
        ending = self._ending()
        await self._inner.aclose()
        if self._ends_here():
            if ending is None:
                self._exchange.drop()
            else:
                await arun(self._exchange.settle(ending))

    def _keep(self, chunk: bytes) -> bool:
        """Note a piece of the body; return whether all that will be reported has been."""
        if self._exchange.observed:
            return False
        if self.reader is not None:
            tally = self._exchange.session.tally
            for payload in self.reader.feed(chunk):
                tally.event(payload)
            self._whole = self._whole or self.reader.ended
            return tally.done or self.reader.ended
        if self._size < _MOST_KEPT:
            self._kept.append(chunk)
            self._size += len(chunk)
        return False

    def _shown(self, chunk: bytes) -> bytes:
        """Return what the caller reads: the bytes as they would have come had we not asked for usage."""
        exchange = self._exchange
        if self.reader is not None:
            received, self._unshown = self._unshown + chunk, b""
            if exchange.session.tally.awaited and exchange.open:
                # The usage, or that it was the last, comes right after, and many readers stop here.
                self._unshown, received = received, b""
            return received
        if not exchange.hides_usage or exchange.observed or self._headers.get("content-encoding"):
            return chunk
        received = self._unshown + chunk
        end = max(received.rfind(b"\n\n") + 2, received.rfind(b"\n\r\n") + 3)
        if end < 3:
            end = 0
        self._unshown = received[end:]
        return _EVENT.sub(_without_usage, received[:end])

    def _ends_here(self) -> bool:
        if not self._exchange.open:
            return False
        if self._exchange.observed:
            return not self._exchange.pulling
        if self.reader is None:
            _observe(self._exchange, self._headers, self._decoded())
        else:
            for payload in self.reader.flush():
                self._exchange.session.tally.event(payload)
        return True

    def _ending(self) -> Ending | None:
        """Return how a body ends that is closed now; None when maybe by a finalizer, which must not wait."""
        error = sys.exc_info()[1]
        if self.reader is not None and isinstance(error, GeneratorExit):
            return None
        return Ending.OK if self._whole else ending_of(error)

    def _decoded(self) -> bytes:
        raw = b"".join(self._kept)
        encoding = self._headers.get("content-encoding")
        if not encoding:
            return raw
        try:
            content: bytes = self._response_type(
                200, headers={"content-encoding": encoding}, content=raw
            ).content
            return content
        except Exception:  # a compressed body that was cut off
            return b""


_EVENT = re.compile(rb"data:.*?(?:\r?\n){2}", re.DOTALL)
_ONLY_USAGE = re.compile(rb'"choices":\s*\[\s*\]')
_USAGE = re.compile(rb'"usage":\s*\{')
_NO_USAGE = re.compile(rb',\s*"usage":\s*null')


def _without_usage(event: re.Match[bytes]) -> bytes:
    # Inside of a text these quotes would be escaped.
    if _ONLY_USAGE.search(event[0]) and _USAGE.search(event[0]):
        return b""
    return _NO_USAGE.sub(b"", event[0])


def _observe(exchange: Exchange, headers: Any, content: bytes) -> None:
    tally = exchange.session.tally
    kind = headers.get("content-type", "")
    if _STREAMED.search(kind):
        reader = EventReader()
        for payload in (*reader.feed(content), *reader.flush()):
            tally.event(payload)
    elif "json" in kind:
        try:
            tally.reply(json.loads(content))
        except ValueError:
            return


_STREAMED = re.compile(r"event-stream|stream\+json|ndjson")
