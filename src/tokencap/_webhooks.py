"""Delivery of webhooks: one bounded queue, one worker, never in the way of a call."""

from __future__ import annotations

import heapq
import json
import logging
import os
import random
import ssl
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from ._delivery import LONGEST_PAUSE, TIMEOUT, Delivery, deliver, tls
from ._fork import ForkAware, Mutex, load_before_forks, survive_forks

__all__ = ["Webhooks"]

log = logging.getLogger("tokencap.webhooks")

CAPACITY = 1_000
"""Deliveries that may wait; further ones are dropped, and that is counted and logged."""
PAUSES = (1.0, 5.0, 30.0, 120.0, LONGEST_PAUSE)
"""Seconds before a delivery that failed is tried again, and up to a quarter more. Then it is given up."""


class Webhooks(ForkAware):
    """A queue of deliveries and the thread that makes them.

    A delivery is tried again, with the same id, while its receiver cannot be reached or says that it is its
    own fault; at least once, then, and a receiver drops what it has seen.
    """

    def __init__(self) -> None:
        self.dropped = 0
        """Deliveries that found the queue full."""
        self._queue: deque[Delivery] = deque()
        self._later: list[Delivery] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._pid = os.getpid()
        self._context: ssl.SSLContext | None = None
        # All TLS of a child would wait for ever for what a thread of its parent was setting up for it.
        self._preparing = Mutex(patience=TIMEOUT)
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """See `_fork`: the queue is the parent's, whose thread stayed there."""
        self.__init__()  # type: ignore[misc]

    def post(self, url: str, payload: dict[str, Any], secret: str | None = None) -> None:
        """Queue one delivery; return at once. `id` lets the receiver drop a repeat."""
        delivery = uuid4().hex
        body = json.dumps({"id": delivery, **payload}).encode()
        if self._pid != os.getpid():
            self.after_fork_in_child()  # of a fork that nobody announced
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
            self._queue.append(Delivery(0.0, delivery, url, body, secret))
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._wake.notify_all()

    def _start(self) -> None:
        load_before_forks()
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

    def _next(self) -> Delivery | None:
        """Return what is to be delivered now, a new delivery before an old one."""
        if self._queue:
            return self._queue.popleft()
        if self._later and (self._stopping or self._later[0].due <= time.monotonic()):
            return heapq.heappop(self._later)
        return None

    def _attempt(self, item: Delivery) -> None:
        item.attempts += 1
        failure = deliver(item, self._tls())
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

    def _tls(self) -> ssl.SSLContext:
        with self._preparing.lock:
            if self._context is None:
                self._context = tls()
            return self._context

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
