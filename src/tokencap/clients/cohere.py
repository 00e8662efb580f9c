"""Where the calls of the cohere SDK are caught: the HTTP client under all raw clients, of both APIs.

It repeats a request by calling itself, so that only the first of these calls is ours to guard.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Callable

from ..policy import Provider
from .exchange import Exchange, session_of
from .family import Family, Owner
from .grafting import grafted, twin_of
from .passing import row_of
from .sending import asend, received, send

__all__ = ["FAMILY"]


class _Cohere(Family):
    def knows(self, cls: type) -> bool:
        return cls.__module__ == "cohere.base_client" and cls.__name__ in ("BaseCohere", "AsyncBaseCohere")

    def constructed(self) -> tuple[type, ...]:
        from cohere.base_client import AsyncBaseCohere, BaseCohere

        return BaseCohere, AsyncBaseCohere

    def copy(self, client: Any, owner: Owner) -> Any:
        copied = grafted(client, "_client_wrapper", "cohere")
        wrapper = copied._client_wrapper
        wrapper.httpx_client = twin_of(wrapper.httpx_client)
        self.install(copied, owner)
        return copied

    def hook(self, client: Any, owner: Owner) -> None:
        http = client._client_wrapper.httpx_client
        is_async = any(base.__name__ == "AsyncBaseCohere" for base in type(client).__mro__)
        vars(http)["request"] = (_async_request if is_async else _request)(http, owner)
        vars(http)["stream"] = (_async_stream if is_async else _stream)(http, owner)
        executor = vars(client).get("_executor")
        if executor is not None and not is_async:
            vars(client)["_executor"] = _InContext(executor)


class _InContext:
    """The threads in which `embed` sends its batches, made to know the scope that it was called in."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_executor"], name)

    def map(self, fn: Callable[..., Any], *iterables: Any, **options: Any) -> Iterator[Any]:
        context = contextvars.copy_context()
        found: Iterator[Any] = self._executor.map(
            lambda *items: context.copy().run(fn, *items), *iterables, **options
        )
        return found


def _open(owner: Owner, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exchange | None:
    guard = None if kwargs.get("retries") else owner()
    if guard is None:
        return None
    path = str(args[0] if args else kwargs.get("path"))
    endpoint = row_of(FAMILY.provider, str(kwargs.get("method")), path)
    if endpoint is None:
        return None
    fields: dict[str, Any] = {}
    for part in (kwargs.get("json"), kwargs.get("data"), _more(kwargs)):
        if isinstance(part, Mapping):
            # The SDK marks what was left out by an ellipsis.
            fields.update({k: v for k, v in part.items() if v is not None and v is not ...})
    session = session_of(guard.runtime, FAMILY.provider, endpoint, path, endpoint.told(path, fields))
    return None if session is None else Exchange(session)


def _more(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the caller lays over the body."""
    return (kwargs.get("request_options") or {}).get("additional_body_parameters") or {}


def _changed(kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    if not changes:
        return kwargs
    changed = {**kwargs, "json": {**(kwargs.get("json") or {}), **changes}}
    more = _more(kwargs)
    if more:
        over = {**more, **{name: value for name, value in changes.items() if name in more}}
        changed["request_options"] = {**kwargs["request_options"], "additional_body_parameters": over}
    return changed


def _request(http: Any, owner: Owner) -> Callable[..., Any]:
    def request(*args: Any, **kwargs: Any) -> Any:
        original = type(http).request
        exchange = _open(owner, args, kwargs)
        if exchange is None:
            return original(http, *args, **kwargs)
        return send(
            exchange,
            lambda changes: original(http, *args, **_changed(kwargs, changes)),
            lambda response: received(exchange, response, False),
        )

    return request


def _async_request(http: Any, owner: Owner) -> Callable[..., Any]:
    async def request(*args: Any, **kwargs: Any) -> Any:
        original = type(http).request
        exchange = _open(owner, args, kwargs)
        if exchange is None:
            return await original(http, *args, **kwargs)
        return await asend(
            exchange,
            lambda changes: original(http, *args, **_changed(kwargs, changes)),
            lambda response: received(exchange, response, True),
        )

    return request


def _stream(http: Any, owner: Owner) -> Callable[..., Any]:
    @contextlib.contextmanager
    def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
        original = type(http).stream
        exchange = _open(owner, args, kwargs)
        with contextlib.ExitStack() as stack:
            if exchange is None:
                yield stack.enter_context(original(http, *args, **kwargs))
                return
            yield send(
                exchange,
                lambda changes: stack.enter_context(original(http, *args, **_changed(kwargs, changes))),
                lambda response: received(exchange, response, False),
            )

    return stream


def _async_stream(http: Any, owner: Owner) -> Callable[..., Any]:
    @contextlib.asynccontextmanager
    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        original = type(http).stream
        exchange = _open(owner, args, kwargs)
        async with contextlib.AsyncExitStack() as stack:
            if exchange is None:
                yield await stack.enter_async_context(original(http, *args, **kwargs))
                return
            yield await asend(
                exchange,
                lambda changes: stack.enter_async_context(original(http, *args, **_changed(kwargs, changes))),
                lambda response: received(exchange, response, True),
            )

    return stream


FAMILY = _Cohere(Provider.COHERE, "cohere", "Client, ClientV2, AsyncClient, AsyncClientV2")
