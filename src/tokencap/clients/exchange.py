"""One request through the SDK, and the call session it belongs to.

It knows what is changed on the way out, and how an error on the way back is to be charged.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._flow import Flow
from .._followup import FollowUp
from .._session import CallSession, Ending
from ..providers import endpoint_of
from .counting import counting

if TYPE_CHECKING:
    from .._runtime import Runtime
    from .family import Family

__all__ = ["Exchange", "open_exchange"]

log = logging.getLogger("tokencap.clients")

_refuses_usage: set[str] = set()
"""Base URLs of servers that refuse `stream_options`, for the life of the process."""
_REFUSAL = re.compile(
    r"stream_options|include_usage|extra.?(?:inputs|fields)|extra_forbidden|unrecognized|unknown"
)


def open_exchange(
    runtime: Runtime, family: Family, client: Any, options: Any, streaming: bool
) -> Exchange | None:
    """Return the exchange of a request; None for one that costs nothing."""
    endpoint = endpoint_of(family.provider, options.method, str(options.url))
    if endpoint is None:
        return None
    body = _body_of(options)
    if endpoint.follows:
        begun = next((runtime.pending[s] for s in str(options.url).split("/") if s in runtime.pending), None)
        if begun is None:
            return None
        return Exchange(FollowUp(begun, endpoint), client, options, body, streaming)
    exact = partial(counting, family, client, endpoint, body)
    session = CallSession(runtime, family.provider, endpoint, body, exact)
    return Exchange(session, client, options, body, streaming)


_NOT_GIVEN = frozenset({"NotGiven", "Omit"})
"""The SDKs' words for a field the caller left out, which some versions leave in the body until it is sent."""


def _body_of(options: Any) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for part in (options.json_data, _json(_raw_body(options)[1]), getattr(options, "extra_json", None)):
        if isinstance(part, Mapping):
            body.update({k: v for k, v in part.items() if v.__class__.__name__ not in _NOT_GIVEN})
    return body


def _raw_body(options: Any) -> tuple[str, bytes | str | None]:
    """Return the option that holds the body when it was given as bytes or text, and that body."""
    for name in ("content", "json_data"):
        value = getattr(options, name, None)
        if isinstance(value, (bytes, str)):
            return name, value
    return "", None


def _json(raw: bytes | str | None) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


class Exchange:
    """A session on its way through one `request` of an SDK client."""

    def __init__(
        self,
        session: CallSession | FollowUp,
        client: Any,
        options: Any,
        body: Mapping[str, Any],
        streaming: bool,
    ) -> None:
        self.session = session
        self.options = options
        self.hides_usage = False
        """True when the usage chunk of a stream was asked for by us and not by the caller."""
        self.observed = False
        """True once the reply is read through the SDK's own models, and its bytes need no second look."""
        self.pulling = False
        """True while events are read: their reader ends the call, not the body that closes meanwhile."""
        self._client = client
        self._body = body
        self._streaming = streaming
        self._asked: dict[str, Any] = {}
        self._unasked = options

    @property
    def open(self) -> bool:
        """True while the call is not settled."""
        return self.session.open

    def begin(self) -> Flow[None]:
        """Reserve, and work the changes into the request."""
        changes = yield from self.session.begin()
        if self._streaming and str(self._client.base_url) not in _refuses_usage:
            self._asked = self.session.endpoint.dialect.ask_usage(self._body)
            self.hides_usage = bool(self._asked)
        if callable(self.options.post_parser):
            self.options = copy.copy(self.options)
            self.options.post_parser = self._observe_before(self.options.post_parser)
        self._change(changes)
        self._unasked = self.options
        self._change(self._asked)

    def _change(self, changes: Mapping[str, Any]) -> None:
        if not changes:
            return
        options = copy.copy(self.options)
        # What is in extra_body is laid over the rest by the SDK, so it is changed there.
        extra = getattr(options, "extra_json", None)
        if isinstance(extra, Mapping) and any(name in extra for name in changes):
            options.extra_json = {**extra, **{k: v for k, v in changes.items() if k in extra}}
        name, raw = _raw_body(options)
        if raw is None:
            options.json_data = {**(options.json_data or {}), **changes}
        else:
            body = _json(raw)
            if not isinstance(body, Mapping):
                return
            setattr(options, name, json.dumps({**body, **changes}).encode())
        self.options = options

    def _observe_before(self, post_parser: Any) -> Any:
        # A parser may refuse a reply that was paid for (cut off by its length, say).
        def observing(parsed: Any) -> Any:
            if self.open and not self._streaming:
                self.session.tally.reply(parsed)
            return post_parser(parsed)

        return observing

    def without_usage(self, error: BaseException) -> bool:
        """Take our own request for usage back if that is what the server refused; True if so."""
        if not self._asked or getattr(error, "status_code", None) not in (400, 422):
            return False
        if not _REFUSAL.search(str(error).lower()):
            return False
        _refuses_usage.add(str(self._client.base_url))
        log.info("%s refuses stream_options; usage of its streams is estimated", self._client.base_url)
        self.options, self._asked, self.hides_usage = self._unasked, {}, False
        return True

    def replied(self, payload: Any) -> Flow[None]:
        """Settle by a whole reply."""
        if self.open:
            self.session.tally.reply(payload)
        return self.session.settle()

    def settle(self, ending: Ending = Ending.OK) -> Flow[None]:
        """Settle by what has been observed so far."""
        return self.session.settle(ending)

    def unsent(self) -> Flow[None]:
        """Give everything back: the request was never made."""
        yield from self.session.release(Ending.CANCELLED)

    def failed(self, error: BaseException) -> Flow[None]:
        """End a call whose request raised."""
        tally = self.session.tally
        if tally.usage is None and not tally.done:
            body = _paid_reply(error)
            if body is not None:
                tally.reply(body)
        if tally.done:
            yield from self.session.settle()
        elif isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)):
            yield from self.session.release(Ending.CANCELLED, billed=True)
        else:
            yield from self.session.release(Ending.FAILED, billed=_may_be_billed(error))

    def drop(self) -> None:
        """Settle soon, in another thread. Safe in a finalizer."""
        self.session.drop()

    def visible(self, event: Any) -> Any:
        """Return an event as it would have come had we not asked for usage."""
        if self.hides_usage:
            if isinstance(event, dict):
                return {name: item for name, item in event.items() if name != "usage" or item is not None}
            if getattr(event, "usage", 0) is None:
                given: Any = getattr(event, "__pydantic_fields_set__", None)
                if given is None:
                    given = getattr(event, "__fields_set__", set())
                given.discard("usage")
        return event


_NEVER_SENT = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "UnsupportedProtocol",
        "ProxyError",
        "LocalProtocolError",
        "InvalidURL",
    }
)
_NETWORK = frozenset(
    {"APIConnectionError", "APITimeoutError", "APIResponseValidationError", "JSONDecodeError"}
)


def _may_be_billed(error: BaseException) -> bool:
    """Return whether the provider may have worked for a call that ended in this error."""
    if isinstance(getattr(error, "status_code", None), int) and error.status_code >= 400:  # type: ignore[attr-defined]
        return False
    names = {cls.__name__ for cls in type(error).__mro__}
    if not names & _NETWORK:
        # Raised before anything was sent: a missing key, a body that is no JSON, a middleware.
        return False
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in _NEVER_SENT:
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def _paid_reply(error: BaseException) -> Any:
    """Return the body of a successful reply the SDK could not make sense of."""
    response = getattr(error, "response", None)
    if response is None or not 200 <= getattr(response, "status_code", 0) < 300:
        return None
    try:
        return json.loads(response.content)
    except Exception:
        return None
