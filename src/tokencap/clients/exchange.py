"""One request through an SDK, and the call session it belongs to.

It knows how a request is tied to a session, and how an error on the way back is to be charged.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Callable

from .._flow import Flow, Step
from .._followup import FollowUp
from .._session import CallSession, Ending
from ..providers import UNLISTED

if TYPE_CHECKING:
    from .._runtime import Runtime
    from ..policy import Provider
    from ..providers.dialect import Endpoint

__all__ = ["Exchange", "ending_of", "session_of"]


def session_of(
    runtime: Runtime,
    provider: Provider,
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any],
    exact: Callable[[], Step] | None = None,
) -> CallSession | FollowUp | None:
    """Return the session of a request to a row; None when it asks for a call that is none of ours."""
    if not endpoint.follows:
        return CallSession(runtime, provider, endpoint, body, exact)
    begun = runtime.ticket(path.split("/"))
    return None if begun is None else FollowUp(begun, endpoint)


class Exchange:
    """A session on its way through one request of an SDK client."""

    def __init__(self, session: CallSession | FollowUp) -> None:
        self.session = session
        self.traces = False
        """True when the SDK makes a span of its own for the call."""
        self.hides_usage = False
        """True when the usage chunk of a stream was asked for by us and not by the caller."""
        self.observed = False
        """True once the reply is read through the SDK's own models, and its bytes need no second look."""
        self.pulling = False
        """True while events are read: their reader ends the call, not the body that closes meanwhile."""
        self._handled = id(sys.exc_info()[1])
        """The error in whose handler the call is made: how that came about says nothing of this call."""

    def traced(self) -> AbstractContextManager[None]:
        """Return the span of the call, to be current while its request is made."""
        session = self.session
        observer = session.runtime.observer
        if self.traces or observer is None or not isinstance(session, CallSession):
            return _untraced
        if session.endpoint is UNLISTED:
            return _untraced
        session.span = observer.begin(session)
        return session.span or _untraced

    @property
    def open(self) -> bool:
        """True while the call is not settled."""
        return self.session.open

    def begin(self) -> Flow[dict[str, Any]]:
        """Reserve; return the fields of the body to change."""
        return self.session.begin()

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

    def refused(self) -> Flow[None]:
        """Give everything back: the provider answered with an error."""
        yield from self.session.release(Ending.FAILED)

    def failed(self, error: BaseException) -> Flow[None]:
        """End a call whose request raised."""
        tally = self.session.tally
        if tally.usage is None and not tally.done:
            body = _paid_reply(error)
            if body is not None:
                tally.reply(body)
        if tally.done:
            yield from self.session.settle()
        elif isinstance(error, Exception):
            yield from self.session.release(Ending.FAILED, billed=_may_be_billed(error, self._handled))
        else:
            yield from self.session.release(Ending.CANCELLED, billed=True)

    def drop(self) -> None:
        """Settle soon, in another thread. Safe in a finalizer."""
        self.session.drop()

    def visible(self, event: Any) -> Any:
        """Return an event as it would have come had we not asked for usage."""
        return event


_untraced = nullcontext()


def ending_of(error: BaseException | None) -> Ending:
    """Return how a reply ended that was left while `error` was on its way; None: simply left."""
    if error is None or isinstance(error, (Exception, GeneratorExit)):
        return Ending.CUT
    return Ending.CANCELLED


_NEVER_SENT = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "UnsupportedProtocol",
        "ProxyError",
        "LocalProtocolError",
        "InvalidURL",
        # Of aiohttp.
        "ClientConnectorError",
        "ClientHttpProxyError",
        "ConnectionTimeoutError",
    }
)
_NETWORK = frozenset(
    {
        "APIConnectionError",
        "APITimeoutError",
        "APIResponseValidationError",
        "JSONDecodeError",
        # Of the HTTP libraries themselves: httpx, aiohttp (whose own time-out is Python's), requests.
        "RequestError",
        "ClientError",
        "TimeoutError",
        "RequestException",
    }
)


def _may_be_billed(error: BaseException, handled: int) -> bool:
    """Return whether the provider may have worked for a call that ended in this error.

    `handled` is the id of an error that was there before the call.
    """
    for name in ("status_code", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and status >= 400:
            return False
    names = {cls.__name__ for cls in type(error).__mro__}
    if not names & _NETWORK:
        # Raised before anything was sent: a missing key, a body that is no JSON, a middleware.
        return False
    sent = True
    cause: BaseException | None = error
    while cause is not None and id(cause) != handled:
        names = {cls.__name__ for cls in type(cause).__mro__}
        sent = sent and not names & _NEVER_SENT
        if type(cause).__module__.startswith("aiohttp"):
            # Under the SDKs, any connection that it loses is handed on as one that was never made.
            return not names & _NEVER_SENT
        cause = cause.__cause__ or cause.__context__
    return sent


def _paid_reply(error: BaseException) -> Any:
    """Return the body of a successful reply the SDK could not make sense of."""
    response = getattr(error, "response", None)
    if response is None or not 200 <= getattr(response, "status_code", 0) < 300:
        return None
    try:
        return json.loads(response.content)
    except Exception:
        return None
