"""Where the calls of the mistralai SDK are caught: `do_request` of the class all its resources derive from.

A client and its resources, made when they are first used, share one configuration object. The owner is
noted on that, and a class that was hooked once lets every call without an owner pass.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from .._fork import Mutex
from ..policy import Provider
from .exchange import Exchange, session_of
from .family import Family, Owner
from .grafting import grafted
from .passing import row_of
from .sending import asend, received, send

__all__ = ["FAMILY"]

_OWNER = "_tokencap_owner"
_CLIENTS = {
    "mistralai.client": "Mistral",
    "mistralai.azure.client": "MistralAzure",
    "mistralai.gcp.client": "MistralGCP",
}
_hooking = Mutex()


class _Mistral(Family):
    def knows(self, cls: type) -> bool:
        return cls.__module__.startswith("mistralai") and cls.__name__ in _CLIENTS.values()

    def traces(self, client: Any) -> bool:  # noqa: ARG002
        return "mistralai.extra.observability.otel" in sys.modules

    def constructed(self) -> tuple[type, ...]:
        found = []
        for module, name in _CLIENTS.items():
            # Those of the clouds need packages of their own.
            with contextlib.suppress(ImportError):
                found.append(getattr(importlib.import_module(module), name))
        return tuple(found)

    def copy(self, client: Any, owner: Owner) -> Any:
        copied = grafted(client, "sdk_configuration", "mistralai")
        self.install(copied, owner)
        return copied

    def hook(self, client: Any, owner: Owner) -> None:
        vars(client.sdk_configuration)[_OWNER] = owner
        base = next(base for base in type(client).__mro__ if base.__name__ == "BaseSDK")
        with _hooking.lock:
            if not hasattr(base.do_request, _OWNER):  # type: ignore[attr-defined]
                base.do_request = _sync(base.do_request)  # type: ignore[attr-defined]
                base.do_request_async = _async(base.do_request_async)  # type: ignore[attr-defined]


def _sync(original: Any) -> Any:
    @functools.wraps(original)
    def do_request(sdk: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _open(sdk, kwargs.get("request"))
        if exchange is None:
            return original(sdk, *args, **kwargs)
        return send(
            exchange,
            lambda changes: original(
                sdk, *args, **{**kwargs, "request": _changed(kwargs["request"], changes)}
            ),
            lambda response: received(exchange, response, False),
        )

    setattr(do_request, _OWNER, None)
    return do_request


def _async(original: Any) -> Any:
    @functools.wraps(original)
    async def do_request_async(sdk: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _open(sdk, kwargs.get("request"))
        if exchange is None:
            return await original(sdk, *args, **kwargs)
        return await asend(
            exchange,
            lambda changes: original(
                sdk, *args, **{**kwargs, "request": _changed(kwargs["request"], changes)}
            ),
            lambda response: received(exchange, response, True),
        )

    return do_request_async


def _open(sdk: Any, request: Any) -> Exchange | None:
    owner = vars(sdk.sdk_configuration).get(_OWNER)
    if owner is None or request is None:
        return None
    guard = owner()
    if guard is None:
        return None
    endpoint = row_of(FAMILY.provider, request.method, request.url.path)
    if endpoint is None:
        return None
    body = endpoint.told(request.url.path, _body_of(request))
    session = session_of(guard.runtime, FAMILY.provider, endpoint, request.url.path, body)
    if session is None:
        return None
    exchange = Exchange(session)
    exchange.traces = FAMILY.traces(sdk)
    return exchange


def _body_of(request: Any) -> dict[str, Any]:
    form = getattr(request.stream, "fields", None)
    if form is not None:
        return {part.name: part.value for part in form if hasattr(part, "value")}
    try:
        body = json.loads(request.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _changed(request: Any, changes: Mapping[str, Any]) -> Any:
    """Return the request with these fields of its body changed."""
    if not changes:
        return request
    headers = request.headers.copy()
    headers.pop("content-length", None)
    content = json.dumps({**json.loads(request.content), **changes}).encode()
    return type(request)(
        request.method, request.url, headers=headers, content=content, extensions=request.extensions
    )


FAMILY = _Mistral(Provider.MISTRAL, "mistralai", "Mistral, MistralAzure, MistralGCP")
