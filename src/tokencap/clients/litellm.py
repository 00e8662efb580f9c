"""Where LiteLLM's own HTTP is caught: the two classes through which it posts, for providers without an SDK.

What LiteLLM sends through the OpenAI SDK does not pass here and is caught there, so no call is counted
twice. Whose format a request is in is told by its path.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Callable
from urllib.parse import urlsplit

from .._flow import Flow
from .._followup import FollowUp
from .._session import CallSession
from ..errors import BudgetExceededError
from ..policy import Provider
from ..providers import UNLISTED, endpoint_of
from ..providers.dialect import Endpoint
from .arriving import Arrival
from .exchange import Exchange, session_of
from .family import Owner
from .gemini import path_to
from .sending import asend, received, send

__all__ = ["PACKAGE", "LiteLLM"]

PACKAGE = "litellm"

_HTTP, _ERRORS = "litellm.llms.custom_httpx.http_handler", "litellm.exceptions"
_HANDLERS = {"HTTPHandler": False, "AsyncHTTPHandler": True}
"""Its classes that send, and whether they do so asynchronously."""
_VERBS = ("post", "get")
_BODIES = ("json", "data", "content")
"""The arguments that may hold the body of a request."""


class LiteLLM:
    """LiteLLM's handlers, guarded from the moment the library is imported."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._arrivals = (Arrival(_HTTP, self._hook), Arrival(_ERRORS, self._introduce))
        self._passing: list[Any] = []
        self._wrapped: list[tuple[type, str, Any, Any]] = []

    def apply(self) -> None:
        """Guard the handlers, now or when they are loaded."""
        for arrival in self._arrivals:
            arrival.watch()

    def revert(self) -> None:
        """Put the methods back; where somebody wrapped ours since, ours stays and does nothing."""
        for arrival in self._arrivals:
            arrival.stop()
        while BudgetExceededError in self._passing:
            self._passing.remove(BudgetExceededError)
        for handler, verb, original, wrapped in self._wrapped:
            if handler.__dict__.get(verb) is wrapped:
                setattr(handler, verb, original)
        self._wrapped.clear()

    def _introduce(self, module: ModuleType) -> None:
        # Errors that LiteLLM hands on as they are. Some of its routes call all others a fault of the server.
        self._passing = module.LITELLM_EXCEPTION_TYPES
        self._passing.append(BudgetExceededError)

    def _hook(self, module: ModuleType) -> None:
        for name, is_async in _HANDLERS.items():
            handler = getattr(module, name)
            for verb in _VERBS:
                original = handler.__dict__[verb]
                wrapped = (_async if is_async else _sync)(original, verb, self._owner)
                setattr(handler, verb, wrapped)
                self._wrapped.append((handler, verb, original, wrapped))


def _sync(original: Any, verb: str, owner: Owner) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def request(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        exchange = _open(owner, verb, given.arguments)
        if exchange is None:
            return original(*args, **kwargs)

        def call(changes: Mapping[str, Any]) -> Any:
            given.arguments.update(_changed(given.arguments, changes))
            return original(*given.args, **given.kwargs)

        return send(exchange, call, lambda response: received(exchange, response, False))

    return request


def _async(original: Any, verb: str, owner: Owner) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def request(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        exchange = _open(owner, verb, given.arguments)
        if exchange is None:
            return await original(*args, **kwargs)

        async def call(changes: Mapping[str, Any]) -> Any:
            given.arguments.update(_changed(given.arguments, changes))
            return await original(*given.args, **given.kwargs)

        return await asend(exchange, call, lambda response: received(exchange, response, True))

    return request


class _Sent(Exchange):
    """An exchange of LiteLLM's, whose own error for a time-out looks like a reply of the provider's."""

    def failed(self, error: BaseException) -> Flow[None]:
        """End a call whose request raised."""
        timed_out = getattr(error, "__context__", None)
        is_timeout = any(base.__name__ == "TimeoutException" for base in type(timed_out).__mro__)
        return super().failed(timed_out if is_timeout and timed_out is not None else error)


def _open(owner: Owner, verb: str, arguments: Mapping[str, Any]) -> Exchange | None:
    guard = owner()
    if guard is None:
        return None
    path = urlsplit(str(arguments.get("url"))).path
    provider, endpoint = _row(verb, path)
    if endpoint is None:
        return None
    body = endpoint.told(path, _body_of(arguments))
    session: CallSession | FollowUp | None = session_of(guard.runtime, provider, endpoint, path, body)
    return None if session is None else _Sent(session)


def _row(verb: str, path: str) -> tuple[Provider, Endpoint | None]:
    """Return the first row that knows a path. LiteLLM speaks the formats of others to many hosts."""
    unknown = UNLISTED if verb == "post" else None
    for provider in Provider:
        endpoint = endpoint_of(provider, verb, path)
        if endpoint is not unknown:
            return provider, endpoint
    return Provider.OPENAI, unknown


def _body_of(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in _BODIES:
        body = _read(arguments.get(name))
        if body is not None:
            return body
    return {}


def _read(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, (str, bytes)):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, Mapping) else None


def _changed(arguments: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that change these fields of the body, or the model that is in the path."""
    for name in _BODIES if changes else ():
        given = arguments.get(name)
        body = _read(given)
        if body is not None:
            fields = {**body, **changes}
            found = {}
            if "model" in changes and "model" not in body:
                found["url"] = path_to(fields.pop("model"), str(arguments["url"]))
            return {**found, name: fields if isinstance(given, Mapping) else json.dumps(fields)}
    return {}
