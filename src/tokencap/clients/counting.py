"""Counting a prompt exactly, asked only near a threshold. Never raises, never takes long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple
from urllib.parse import urlsplit

from .._flow import Step
from ..policy import Provider
from ..providers.dialect import Endpoint
from ..providers.tokenizer import count_text

__all__ = ["Remote", "counting", "host_of"]

log = logging.getLogger("tokencap.clients")

_TIMEOUT = 1.0
"""Seconds the provider's own counter may take before the estimate by length is used."""
_PAUSE = 60.0
"""Seconds a counter that failed is left alone."""
_IN_LOOP = 20_000
"""Characters that are tokenized without leaving the event loop."""

_failed_at: dict[str, float] = {}


class Remote(NamedTuple):
    """The provider's own counter of a prompt."""

    where: str
    """Its address, to leave it alone for a while when it fails."""
    ask: Callable[[float], Any]
    """Asks it, with so many seconds to answer; of an async client, returns an awaitable."""
    read: Callable[[Any], Any]
    """Takes the count out of its reply."""


def counting(
    provider: Provider, endpoint: Endpoint, body: Mapping[str, Any], counter: Remote | None = None
) -> Step:
    """Return the step that counts the prompt of this call, by the provider's `counter` if it has one."""

    def local() -> int:
        model = str(body.get("model") or "")
        return endpoint.dialect.size(body, lambda text: count_text(provider, model, text)).guess

    async def alocal() -> int:
        if endpoint.dialect.size(body).bound < _IN_LOOP:
            return local()
        try:
            return await asyncio.get_running_loop().run_in_executor(None, local)
        except RuntimeError:
            return local()

    if counter is None:
        return Step(local, alocal, ())
    where, ask, read = counter

    def remote() -> int:
        if _resting(where):
            return local()
        try:
            return _checked(read(ask(_TIMEOUT)))
        except Exception as error:
            _rest(where, error)
            return local()

    async def aremote() -> int:
        if _resting(where):
            return await alocal()
        try:
            return _checked(read(await ask(_TIMEOUT)))
        except Exception as error:
            _rest(where, error)
            return await alocal()

    return Step(remote, aremote, ())


def _checked(count: Any) -> int:
    if not isinstance(count, int) or count <= 0:
        raise ValueError(f"not a count: {count!r}")
    return count


def _resting(where: str) -> bool:
    return time.monotonic() - _failed_at.get(where, -_PAUSE) < _PAUSE


def _rest(where: str, error: Exception) -> None:
    _failed_at[where] = time.monotonic()
    log.debug(
        "the token counter of %s failed (%s); counting by length for a minute",
        host_of(where),
        type(error).__name__,
        extra={"host": host_of(where)},
    )


def host_of(url: str) -> str:
    """Return the host of a base URL, for messages: the rest of it may be secret."""
    return urlsplit(url).hostname or "the provider"
