"""Counting a prompt exactly, asked only near a threshold. Never raises, never takes long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._flow import Step
from ..policy import Provider
from ..providers.dialect import Endpoint
from ..providers.tokenizer import count_text

if TYPE_CHECKING:
    from .family import Family

__all__ = ["counting"]

log = logging.getLogger("tokencap.clients")

_TIMEOUT = 1.0
"""Seconds the provider's own counter may take before the estimate by length is used."""
_PAUSE = 60.0
"""Seconds a counter that failed is left alone."""
_COUNTED = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking"})
_IN_LOOP = 20_000
"""Characters that are tokenized without leaving the event loop."""

_failed_at: dict[str, float] = {}


def counting(family: Family, client: Any, endpoint: Endpoint, body: Mapping[str, Any]) -> Step:
    """Return the step that counts the prompt of this call."""

    def local() -> int:
        model = str(body.get("model") or "")
        return endpoint.dialect.size(body, lambda text: count_text(family.provider, model, text)).guess

    async def alocal() -> int:
        if endpoint.dialect.size(body).bound < _IN_LOOP:
            return local()
        try:
            return await asyncio.get_running_loop().run_in_executor(None, local)
        except RuntimeError:
            return local()

    if family.provider is not Provider.ANTHROPIC or not endpoint.counted_by:
        return Step(local, alocal, ())

    where = str(client.base_url)
    request = {
        "cast_to": object,
        "body": {name: value for name, value in body.items() if name in _COUNTED},
        "options": {"timeout": _TIMEOUT, "max_retries": 0},
    }

    def remote() -> int:
        if _resting(where):
            return local()
        try:
            return _read(client.post(endpoint.counted_by, **request))
        except Exception as error:
            _rest(where, error)
            return local()

    async def aremote() -> int:
        if _resting(where):
            return await alocal()
        try:
            return _read(await client.post(endpoint.counted_by, **request))
        except Exception as error:
            _rest(where, error)
            return await alocal()

    return Step(remote, aremote, ())


def _read(reply: Any) -> int:
    count = reply["input_tokens"]
    if not isinstance(count, int) or count <= 0:
        raise ValueError(f"not a count: {count!r}")
    return count


def _resting(where: str) -> bool:
    return time.monotonic() - _failed_at.get(where, -_PAUSE) < _PAUSE


def _rest(where: str, error: Exception) -> None:
    _failed_at[where] = time.monotonic()
    log.debug(
        "the token counter of %s failed (%s); counting by length for a minute", where, type(error).__name__
    )
