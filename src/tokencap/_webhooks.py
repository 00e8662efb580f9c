"""Delivery of webhooks: one bounded queue, one worker, never in the way of a call."""

from __future__ import annotations

import base64
import codecs
import hashlib
import heapq
import hmac
import http.client
import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from ._version import __version__
from .policy import secret_key

__all__ = ["Webhooks", "signed"]

log = logging.getLogger("tokencap.webhooks")

TIMEOUT = 5.0
"""Seconds a receiver may take to accept a connection, and to answer."""
CAPACITY = 1_000
"""Deliveries that may wait; further ones are dropped, and that is counted and logged."""
PAUSES = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Seconds before a delivery that failed is tried again, and up to a quarter more. Then it is given up."""
_AGAIN = frozenset({408, 425, 429})


class _SameSchemeRedirect(urllib.request.HTTPRedirectHandler):
    """Follow a redirect with the same body, and never to another scheme."""

    max_redirections = 3

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: ARG002
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise urllib.error.HTTPError(
                req.full_url, code, "redirect to another scheme refused", headers, fp
            )
        return urllib.request.Request(newurl, data=req.data, headers=req.headers, method="POST")  # noqa: S310


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameSchemeRedirect(),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(order=True)
class _Delivery:
    due: float
    """By `time.monotonic`: when it is to be tried again."""
    id: str
    url: str = field(compare=False, repr=False)
    body: bytes = field(compare=False, repr=False)
    secret: str | None = field(compare=False, repr=False)
    attempts: int = field(compare=False, default=0)


class Webhooks:
    """A queue of deliveries and the thread that makes them.

    A delivery is tried again, with the same id, while its receiver cannot be reached or says that it is its
    own fault; at least once, then, and a receiver drops what it has seen.
    """

    def __init__(self) -> None:
        self.dropped = 0
        """Deliveries that found the queue full."""
        self._queue: deque[_Delivery] = deque()
        self._later: list[_Delivery] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._pid = os.getpid()

    def post(self, url: str, payload: dict[str, Any], secret: str | None = None) -> None:
        """Queue one delivery; return at once. `id` lets the receiver drop a repeat."""
        delivery = uuid4().hex
        body = json.dumps({"id": delivery, **payload}).encode()
        if self._pid != os.getpid():
            self.__init__()  # type: ignore[misc]  # a fork copies the queue but not the thread
        with self._wake:
            if len(self._queue) + len(self._later) >= CAPACITY:
                self.dropped += 1
                log.error(
                    "webhook queue is full (%d waiting); delivery %s was dropped, %d so far",
                    CAPACITY,
                    delivery,
                    self.dropped,
                    extra={"delivery": delivery, "dropped": self.dropped},
                )
                return
            self._queue.append(_Delivery(0.0, delivery, url, body, secret))
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._wake.notify_all()

    def _start(self) -> None:
        # Sockets import it when they first look up a name. Were it the thread that does so while another
        # one forks, the child would wait for that import for ever.
        codecs.lookup("idna")
        thread = threading.Thread(target=self._work, name="tokencap-webhooks", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # the interpreter is going down: `flush` delivers
        self._thread = thread

    def _work(self) -> None:
        while True:
            with self._wake:
                item = self._next()
                while item is None:
                    if self._stopping:
                        return
                    self._wake.wait(self._later[0].due - time.monotonic() if self._later else None)
                    item = self._next()
            self._attempt(item)

    def _next(self) -> _Delivery | None:
        """Return what is to be delivered now, a new delivery before an old one."""
        if self._queue:
            return self._queue.popleft()
        if self._later and (self._stopping or self._later[0].due <= time.monotonic()):
            return heapq.heappop(self._later)
        return None

    def _attempt(self, item: _Delivery) -> None:
        item.attempts += 1
        failure = _deliver(item)
        if failure is None:
            return
        # A URL may carry a secret in its path or query, so only the host is logged.
        about = {"delivery": item.id, "host": urlsplit(item.url).hostname, "attempts": item.attempts}
        if failure.lasting or item.attempts > len(PAUSES) or self._stopping:
            log.warning(
                "webhook %s to %s failed: %s (attempt %d, given up)",
                item.id,
                about["host"],
                failure.name,
                item.attempts,
                extra=about,
            )
            return
        pause = max(PAUSES[item.attempts - 1] * (1 + random.random() / 4), failure.pause)  # noqa: S311
        log.info(
            "webhook %s to %s failed: %s (attempt %d, again in %.0f s)",
            item.id,
            about["host"],
            failure.name,
            item.attempts,
            pause,
            extra=about,
        )
        with self._wake:
            item.due = time.monotonic() + pause
            heapq.heappush(self._later, item)
            self._wake.notify_all()

    def flush(self, timeout: float = 2 * TIMEOUT) -> None:
        """Deliver what is queued and, once more, what has failed; then end the worker.

        Takes at most `timeout` seconds.
        """
        if self._pid != os.getpid():
            return
        deadline = time.monotonic() + timeout
        with self._wake:
            thread, self._thread = self._thread, None
            self._stopping = True
            self._wake.notify_all()
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
        while time.monotonic() < deadline:
            with self._wake:
                item = self._next()
            if item is None:
                break
            self._attempt(item)
        left = len(self._queue) + len(self._later)
        if left:
            log.error("%d webhook deliveries were not made in %.0f s", left, timeout, extra={"left": left})
        self._stopping = False


class _Failure(NamedTuple):
    name: str
    """What went wrong, without anything the URL or the receiver said."""
    lasting: bool
    """True when trying again makes no sense."""
    pause: float = 0.0
    """Seconds the receiver asks for."""


def _deliver(item: _Delivery) -> _Failure | None:
    """Post one delivery; return what went wrong."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"tokencap/{__version__}",
        "Webhook-Id": item.id,
    }
    if item.secret is not None:
        headers.update(signed(item.id, item.body, item.secret, int(time.time())))
    try:
        request = urllib.request.Request(item.url, data=item.body, headers=headers, method="POST")  # noqa: S310
        with _opener().open(request, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        with error:
            asked = error.headers.get("Retry-After", "") if error.headers else ""
        pause = min(float(asked), PAUSES[-1]) if asked.isdecimal() and asked.isascii() else 0.0
        return _Failure(f"HTTPError {error.code}", not (error.code in _AGAIN or error.code >= 500), pause)
    except OSError as error:
        return _Failure(type(error).__name__, False)
    except Exception as error:
        # A receiver that speaks no HTTP may do so next time; a URL that is none will not.
        return _Failure(type(error).__name__, not isinstance(error, http.client.HTTPException))


def signed(id: str, body: bytes, secret: str, timestamp: int) -> dict[str, str]:
    """Return the headers by which a receiver knows a body for ours: Standard Webhooks, version 1."""
    content = b"%s.%d.%s" % (id.encode(), timestamp, body)
    mac = hmac.new(secret_key(secret), content, hashlib.sha256).digest()
    return {"Webhook-Timestamp": str(timestamp), "Webhook-Signature": f"v1,{base64.b64encode(mac).decode()}"}
