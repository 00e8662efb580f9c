"""Delivery of webhooks: one bounded queue, one worker, never in the way of a call."""

from __future__ import annotations

import codecs
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from ._version import __version__

__all__ = ["Webhooks"]

log = logging.getLogger("tokencap.webhooks")

TIMEOUT = 5.0
"""Seconds a receiver may take to accept a connection, and to answer."""
CAPACITY = 1_000
"""Deliveries that may wait; further ones are dropped, and that is logged."""


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


class Webhooks:
    """A queue of deliveries and the thread that makes them."""

    def __init__(self) -> None:
        self.dropped = 0
        self._queue: deque[tuple[str, bytes, str]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._pid = os.getpid()

    def post(self, url: str, payload: dict[str, Any]) -> None:
        """Queue one delivery; return at once. `id` lets the receiver drop a repeat."""
        delivery = uuid4().hex
        body = json.dumps({"id": delivery, **payload}).encode()
        if self._pid != os.getpid():
            self.__init__()  # type: ignore[misc]  # a fork copies the queue but not the thread
        with self._wake:
            if len(self._queue) >= CAPACITY:
                self.dropped += 1
                log.error("webhook queue is full (%d waiting); delivery %s was dropped", CAPACITY, delivery)
                return
            self._queue.append((url, body, delivery))
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
                while not self._queue:
                    if self._stopping:
                        return
                    self._wake.wait()
                item = self._queue.popleft()
            _deliver(*item)

    def flush(self, timeout: float = 2 * TIMEOUT) -> None:
        """Deliver what is queued, for at most `timeout` seconds, then end the worker."""
        if self._pid != os.getpid():
            return
        deadline = time.monotonic() + timeout
        with self._wake:
            thread, self._thread = self._thread, None
            self._stopping = True
            self._wake.notify_all()
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
        while self._queue and time.monotonic() < deadline:
            _deliver(*self._queue.popleft())
        if self._queue:
            log.error("%d webhook deliveries were not made in %.0f s", len(self._queue), timeout)
        self._stopping = False


def _deliver(url: str, body: bytes, delivery: str) -> None:
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"tokencap/{__version__}",
        "Webhook-Id": delivery,
    }
    # A URL may carry a secret in its path or query, so only the host is logged.
    host = urlsplit(url).hostname
    try:
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310
        with _opener().open(request, timeout=TIMEOUT):
            pass
    except Exception as error:
        log.warning("webhook %s to %s failed: %s", delivery, host, type(error).__name__)
