"""The SDKs of one generator (Anthropic's, OpenAI's): every call ends in `client.request`, looked up there.

Resources, helpers, raw accessors and platform variants all look `request` up on the client, and none
calls it twice, so a guarded `request` on the instance sees every call once. It calls whatever
`type(client).request` is at that moment, so other instrumentation keeps working.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any, Callable

from .._flow import Flow
from ..errors import ConfigurationError
from .bodies import observe_read_body
from .exchange import Exchange
from .family import Family, Owner
from .options import OptionsExchange, open_exchange
from .sending import asend, send
from .streams import attach, guarded_stream_class

__all__ = ["Stainless"]


class Stainless(Family):
    """An SDK whose clients derive from `SyncAPIClient` and `AsyncAPIClient`."""

    def knows(self, cls: type) -> bool:
        """Whether a class is one of the two base clients."""
        return cls.__module__ == f"{self.package}._base_client" and cls.__name__ in _BASES

    def constructed(self) -> tuple[type, ...]:
        """Return the two base clients, importing the SDK."""
        module = importlib.import_module(f"{self.package}._base_client")
        return tuple(getattr(module, name) for name in _BASES)

    def copy(self, client: Any, owner: Owner) -> Any:
        """Return a guarded copy, whose own copies are guarded too."""
        try:
            copied = type(client).copy(client)
            if copied._client is not client._client:  # Bedrock's copies, in older versions
                copied = type(client).copy(client, http_client=client._client)
        except TypeError as error:
            raise ConfigurationError(
                f"{type(client).__qualname__} cannot be copied ({error}): let its __init__ take the "
                "arguments of its base class and pass them on, or guard it with tokencap.patch()"
            ) from error
        for name in _FORGOTTEN:
            if name in vars(client):
                vars(copied)[name] = vars(client)[name]
        self._install_with_copies(copied, owner)
        return copied

    def _install_with_copies(self, client: Any, owner: Owner) -> None:
        self.install(client, owner)

        def copy(*args: Any, **kwargs: Any) -> Any:
            copied = type(client).copy(client, *args, **kwargs)
            self._install_with_copies(copied, owner)
            return copied

        vars(client)["copy"] = vars(client)["with_options"] = copy

    def hook(self, client: Any, owner: Owner) -> None:
        """Put a guarded `request` on the instance."""
        is_async = any(base.__name__ == "AsyncAPIClient" for base in type(client).__mro__)
        make = _async_request if is_async else _sync_request
        vars(client)["request"] = make(client, self, owner)


_BASES = ("SyncAPIClient", "AsyncAPIClient")
_FORGOTTEN = ("_strict_response_validation", "project_id", "_azure_deployment", "_azure_endpoint")
"""Settings that the SDKs' own `copy()` forgets: an empty one of Vertex; in older versions, those of Azure."""


def _sync_request(client: Any, family: Family, owner: Owner) -> Callable[..., Any]:
    def request(cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        original = type(client).request
        exchange = _open(owner, family, client, options, kwargs, False)
        if exchange is None:
            return original(client, cast_to, options, *args, **kwargs)

        def call(_: Any) -> Any:
            try:
                return original(client, cast_to, exchange.options, *args, **kwargs)
            except Exception as error:
                if not exchange.without_usage(error):
                    raise
                result = original(client, cast_to, exchange.options, *args, **kwargs)
                exchange.taken_without()
                return result

        return send(exchange, call, lambda result: _received(exchange, result, kwargs, False))

    return request


def _async_request(client: Any, family: Family, owner: Owner) -> Callable[..., Any]:
    async def request(cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        original = type(client).request
        exchange = _open(owner, family, client, options, kwargs, True)
        if exchange is None:
            return await original(client, cast_to, options, *args, **kwargs)

        async def call(_: Any) -> Any:
            try:
                return await original(client, cast_to, exchange.options, *args, **kwargs)
            except Exception as error:
                if not exchange.without_usage(error):
                    raise
                result = await original(client, cast_to, exchange.options, *args, **kwargs)
                exchange.taken_without()
                return result

        return await asend(exchange, call, lambda result: _received(exchange, result, kwargs, True))

    return request


def _open(
    owner: Owner, family: Family, client: Any, options: Any, kwargs: dict[str, Any], is_async: bool
) -> OptionsExchange | None:
    guard = owner()
    if guard is None:
        return None
    streaming = bool(kwargs.get("stream"))
    exchange = open_exchange(guard.runtime, family.provider, client, options, streaming)
    if exchange is not None:
        exchange.traces = family.traces(client)
    if exchange is not None and streaming and kwargs.get("stream_cls") is not None:
        kwargs["stream_cls"] = guarded_stream_class(kwargs["stream_cls"], is_async)
    return exchange


def _received(exchange: Exchange, result: Any, kwargs: dict[str, Any], is_async: bool) -> Flow[None] | None:
    """Return how to settle by what `request` returned; None when that has to be read first."""
    if _is_model(result.__class__):
        return exchange.replied(result)
    if hasattr(type(result), "__stream__"):
        attach(exchange, result.response, is_async)
        return None
    response = _response_of(result)
    if response is None:
        return exchange.replied(result)
    if response.is_closed and not kwargs.get("stream"):
        observe_read_body(exchange, response)
        return exchange.settle()
    attach(exchange, response, is_async)
    return None


@lru_cache(maxsize=1024)
def _is_model(cls: type) -> bool:
    """Return whether this is a class of parsed replies. To ask one for what it lacks takes microseconds."""
    return any(base.__name__ == "BaseModel" and base.__module__[:8] == "pydantic" for base in cls.__mro__)


def _response_of(result: Any) -> Any:
    """Return the HTTP response in a raw reply, whichever of the SDK's wrappers holds it."""
    fields = getattr(result, "__dict__", {})
    for candidate in (fields.get("http_response"), fields.get("response"), result):
        if candidate is not None and hasattr(type(candidate), "iter_raw"):
            return candidate
    return None
