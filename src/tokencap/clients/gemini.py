"""Where the calls of the google-genai SDK are caught: the four methods of the API client that all else uses.

A `Client`, its `aio` and all their resources share one API client. Each round of automatic function
calling, and each continuation, is a request of its own there.
"""

from __future__ import annotations

import json
import re
import sys
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any, Callable, NamedTuple

from .._flow import Step
from ..policy import Provider
from ..providers.dialect import Endpoint
from .counting import Remote, counting
from .exchange import Exchange, session_of
from .family import Family, Owner
from .grafting import grafted
from .passing import row_of
from .sending import asend, send
from .streams import aevents, events

__all__ = ["FAMILY", "path_to"]


class _Gemini(Family):
    def knows(self, cls: type) -> bool:
        return cls.__module__ == "google.genai.client" and cls.__name__ in ("Client", "AsyncClient")

    def constructed(self) -> tuple[type, ...]:
        from google.genai import Client

        return (Client,)

    def copy(self, client: Any, owner: Owner) -> Any:
        copied = grafted(client, "_api_client", "google.genai")
        api = copied._api_client
        # The connections are the original's, who closes them when it goes; the copy does when it is told to.
        for part, name in ((api, "close"), (copied, "close")):
            if hasattr(type(part), name):
                vars(part)[name] = _unless_dropped(getattr(type(part), name), part)
        vars(api)["_async_resources_are_closed"] = lambda: True
        self.install(copied, owner)
        return copied

    def hook(self, client: Any, owner: Owner) -> None:
        api = client._api_client
        for name, guard in _GUARDS.items():
            vars(api)[name] = guard(api, owner)


def _unless_dropped(close: Callable[..., None], part: Any) -> Callable[[], None]:
    held = weakref.ref(part)

    def explicitly() -> None:
        if sys._getframe(1).f_code.co_name != "__del__":
            close(held())

    return explicitly


class _Request(NamedTuple):
    """The arguments of the four methods."""

    method: str
    path: str
    body: dict[str, Any]
    options: Any = None

    def changed(self, api: Any, changes: Mapping[str, Any]) -> _Request:
        """Return the request with these fields changed, of which the model is in the path."""
        fields = dict(changes)
        path = path_to(fields.pop("model", None), self.path)
        options, extra = self.options, _extra_body(api, self.options)
        laid_over = {name: value for name, value in fields.items() if name in extra}
        if laid_over:
            # It is merged into the body by the SDK, so it is changed there too.
            more = {"extra_body": {**extra, **laid_over}}
            given = options if isinstance(options, Mapping) else _given(options)
            options = {**given, **more}
        return _Request(self.method, path, {**self.body, **fields}, options)


def path_to(model: str | None, path: str) -> str:
    """Return the path to another model."""
    if model is None:
        return path
    path = re.sub(r"endpoints/[^/:]+(?=:)", f"publishers/google/models/{model}", path)
    return re.sub(r"(?:tunedM|m)odels/[^/:]+(?=:)", f"models/{model}", path)


def _given(options: Any) -> Mapping[str, Any]:
    if options is None:
        return {}
    return {name: getattr(options, name) for name in options.model_fields_set}


def _extra_body(api: Any, options: Any) -> Mapping[str, Any]:
    asked = (
        options.get("extra_body") if isinstance(options, Mapping) else getattr(options, "extra_body", None)
    )
    return asked or getattr(api._http_options, "extra_body", None) or {}


def _merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(body)
    for name, value in extra.items():
        under = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[name] = _merged(under, value) if both else value  # type: ignore[arg-type]
    return merged


def _open(api: Any, owner: Owner, request: _Request, is_async: bool) -> Exchange | None:
    guard = owner()
    endpoint = None if guard is None else row_of(FAMILY.provider, request.method, request.path)
    if guard is None or endpoint is None:
        return None
    fields = {name: value for name, value in request.body.items() if not name.startswith("_")}
    body = endpoint.told(request.path, _merged(fields, _extra_body(api, request.options)))
    exact = partial(_counting, api, endpoint, request.path, body, is_async)
    session = session_of(guard.runtime, FAMILY.provider, endpoint, request.path, body, exact)
    return None if session is None else Exchange(session)


def _counting(api: Any, endpoint: Endpoint, path: str, body: Mapping[str, Any], is_async: bool) -> Step:
    if not endpoint.counted_by:
        return counting(FAMILY.provider, endpoint, body)
    where = path.split("?", 1)[0].rpartition(":")[0] + endpoint.counted_by
    counted = {n: body[n] for n in ("contents", "systemInstruction", "tools") if n in body}
    if not api.vertexai:
        counted = {"generateContentRequest": {"model": path.rpartition(":")[0], **counted}}

    def ask(seconds: float) -> Any:
        method = type(api).async_request if is_async else type(api).request
        return method(api, "post", where, counted, {"timeout": int(seconds * 1000)})

    counter = Remote(
        str(api._http_options.base_url), ask, lambda reply: json.loads(reply.body)["totalTokens"]
    )
    return counting(FAMILY.provider, endpoint, body, counter)


def _payload(reply: Any) -> Any:
    try:
        return json.loads(reply.body)
    except (TypeError, ValueError):
        return None


def _request(api: Any, owner: Owner) -> Callable[..., Any]:
    def request(*args: Any, **kwargs: Any) -> Any:
        original, given = type(api).request, _of(args, kwargs)
        exchange = _open(api, owner, given, False)
        if exchange is None:
            return original(api, *given)
        return send(
            exchange,
            lambda changes: original(api, *given.changed(api, changes)),
            lambda reply: exchange.replied(_payload(reply)),
        )

    return request


def _async_request(api: Any, owner: Owner) -> Callable[..., Any]:
    async def async_request(*args: Any, **kwargs: Any) -> Any:
        original, given = type(api).async_request, _of(args, kwargs)
        exchange = _open(api, owner, given, True)
        if exchange is None:
            return await original(api, *given)
        return await asend(
            exchange,
            lambda changes: original(api, *given.changed(api, changes)),
            lambda reply: exchange.replied(_payload(reply)),
        )

    return async_request


def _request_streamed(api: Any, owner: Owner) -> Callable[..., Any]:
    def request_streamed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        original, given = type(api).request_streamed, _of(args, kwargs)
        exchange = _open(api, owner, given, False)
        if exchange is None:
            yield from original(api, *given)
            return

        def call(changes: Mapping[str, Any]) -> Any:
            # The request is made when the first reply is asked for.
            source = original(api, *given.changed(api, changes))
            return _rejoined(next(source, None), source)

        yield from events(lambda: exchange, send(exchange, call, lambda _: None), _payload)

    return request_streamed


def _rejoined(first: Any, source: Any) -> Iterator[Any]:
    try:
        if first is not None:
            yield first
            yield from source
    finally:
        source.close()


def _async_request_streamed(api: Any, owner: Owner) -> Callable[..., Any]:
    async def async_request_streamed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        original, given = type(api).async_request_streamed, _of(args, kwargs)
        exchange = _open(api, owner, given, True)
        if exchange is None:
            source: AsyncIterator[Any] = await original(api, *given)
            return source
        source = await asend(
            exchange, lambda changes: original(api, *given.changed(api, changes)), lambda _: None
        )
        guarded = aevents(lambda: exchange, source, _payload)
        weakref.finalize(guarded, exchange.drop).atexit = False
        return guarded

    return async_request_streamed


def _of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Request:
    names = ("http_method", "path", "request_dict", "http_options")
    given = {**dict(zip(names, args)), **kwargs}
    return _Request(given["http_method"], given["path"], given["request_dict"], given.get("http_options"))


_GUARDS: dict[str, Callable[[Any, Owner], Callable[..., Any]]] = {
    "request": _request,
    "async_request": _async_request,
    "request_streamed": _request_streamed,
    "async_request_streamed": _async_request_streamed,
}

FAMILY = _Gemini(Provider.GEMINI, "google.genai", "Client and its aio")
