"""The request options of the SDKs of one generator: what is read of them, what is changed on the way out."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._flow import Flow, Step
from .._followup import FollowUp
from .._session import CallSession
from .counting import Remote, counting, host_of
from .exchange import Exchange, session_of
from .passing import row_of

if TYPE_CHECKING:
    from .._runtime import Runtime
    from ..policy import Provider
    from ..providers.dialect import Endpoint

__all__ = ["OptionsExchange", "open_exchange"]

log = logging.getLogger("tokencap.clients")

_refuses_usage: set[str] = set()
"""Base URLs of servers that refuse `stream_options`, for the life of the process."""
_REFUSAL = re.compile(
    r"stream_options|include_usage|extra.?(?:inputs|fields)|extra_forbidden|unrecognized|unknown"
)


def open_exchange(
    runtime: Runtime, provider: Provider, client: Any, options: Any, streaming: bool
) -> OptionsExchange | None:
    """Return the exchange of a request; None for one that costs nothing."""
    endpoint = row_of(provider, options.method, str(options.url))
    if endpoint is None:
        return None
    body = _body_of(options)
    exact = partial(_counting, provider, client, endpoint, body)
    session = session_of(runtime, provider, endpoint, str(options.url), body, exact)
    return None if session is None else OptionsExchange(session, client, options, body, streaming)


_COUNTED = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking"})


def _counting(provider: Provider, client: Any, endpoint: Endpoint, body: Mapping[str, Any]) -> Step:
    if not endpoint.counted_by:
        return counting(provider, endpoint, body)
    counted = {name: value for name, value in body.items() if name in _COUNTED}

    def ask(seconds: float) -> Any:
        options = {"timeout": seconds, "max_retries": 0}
        return client.post(endpoint.counted_by, cast_to=object, body=counted, options=options)

    counter = Remote(str(client.base_url), ask, lambda reply: reply["input_tokens"])
    return counting(provider, endpoint, body, counter)


_NOT_GIVEN = frozenset({"NotGiven", "Omit"})
"""The SDKs' words for a field the caller left out, which some versions leave in the body until it is sent."""


def _body_of(options: Any) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for part in (options.json_data, _json(_raw_body(options)[1]), _field(options, "extra_json")):
        if part and isinstance(part, (dict, Mapping)):
            body.update({k: v for k, v in part.items() if v.__class__.__name__ not in _NOT_GIVEN})
    return body


def _field(options: Any, name: str) -> Any:
    # Straight to the fields: pydantic is slow to say that one is missing.
    return options.__dict__.get(name)


def _raw_body(options: Any) -> tuple[str, bytes | str | None]:
    """Return the option that holds the body when it was given as bytes or text, and that body."""
    for name in ("content", "json_data"):
        value = _field(options, name)
        if isinstance(value, (bytes, str)):
            return name, value
    return "", None


def _json(raw: bytes | str | None) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


class OptionsExchange(Exchange):
    """An exchange that is sent as `FinalRequestOptions`."""

    def __init__(
        self,
        session: CallSession | FollowUp,
        client: Any,
        options: Any,
        body: Mapping[str, Any],
        streaming: bool,
    ) -> None:
        super().__init__(session)
        self.options = options
        self._client = client
        self._body = body
        self._streaming = streaming
        self._asked: dict[str, Any] = {}
        self._unasked = options

    def begin(self) -> Flow[dict[str, Any]]:
        """Reserve, and work the changes into the options."""
        changes = yield from self.session.begin()
        if self._streaming and str(self._client.base_url) not in _refuses_usage:
            self._asked = self.session.endpoint.dialect.ask_usage(self._body)
            self.hides_usage = bool(self._asked)
        parser = self.options.post_parser
        if callable(parser) or getattr(self._client, "_middleware", None):
            self.options = copy.copy(self.options)
            self.options.post_parser = self._observe_before(parser)
        self._change(changes)
        self._unasked = self.options
        self._change(self._asked)
        return changes

    def _change(self, changes: Mapping[str, Any]) -> None:
        if not changes:
            return
        options = copy.copy(self.options)
        # What is in extra_body is laid over the rest by the SDK, so it is changed there.
        extra = _field(options, "extra_json")
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
        # A parser may refuse a reply that was paid for (cut off by its length, say), and a middleware
        # may throw it away and ask again.
        def observing(parsed: Any) -> Any:
            if self.open and not self._streaming:
                self.session.tally.reply(parsed)
            return post_parser(parsed) if callable(post_parser) else parsed

        return observing

    def without_usage(self, error: BaseException) -> bool:
        """Take our own request for usage back if that is what the server refused; True if so."""
        if not self._asked or getattr(error, "status_code", None) not in (400, 422):
            return False
        if not _REFUSAL.search(str(error).lower()):
            return False
        self.options, self._asked, self.hides_usage = self._unasked, {}, False
        return True

    def taken_without(self) -> None:
        """Ask this server for usage no more: it took the call once we had not."""
        _refuses_usage.add(str(self._client.base_url))
        host = host_of(str(self._client.base_url))
        log.info("%s refuses stream_options; usage of its streams is estimated", host, extra={"host": host})

    def visible(self, event: Any) -> Any:
        """Return an event as it would have come had we not asked for usage."""
        if not self.hides_usage:
            return event
        try:
            if event.usage is None:
                event.__pydantic_fields_set__.discard("usage")
        except AttributeError:
            if isinstance(event, dict):
                return {name: item for name, item in event.items() if name != "usage" or item is not None}
            if getattr(event, "usage", 0) is None:
                getattr(event, "__fields_set__", set()).discard("usage")  # pydantic 1
        return event
