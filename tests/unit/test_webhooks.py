"""Webhooks on a real HTTP server: what is delivered, how often, and what a bad receiver can do."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Callable, Optional

import pytest
from calls import aspend, block, policy, python, spend, warn, webhook

from forked import forks
from tokencap import Action, BudgetExceededError, ConfigurationError, Guard, _delivery, _webhooks
from tokencap._delivery import signed
from tokencap._webhooks import Webhooks
from tokencap.backends.memory import MemoryBackend

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Receiver:
    """A server that keeps what is posted to it and answers as it is told."""

    def __init__(self, port: int = 0) -> None:
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] = self.accept
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((self.path, dict(self.headers), json.loads(body)))
                receiver.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/alerts?key=secret"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @staticmethod
    def accept(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(204)
        handler.end_headers()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 5
        while len(self.posts) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(self.posts) == count

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def redirect(location: str, code: int = 307) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        if "moved" in handler.path:
            Receiver.accept(handler)
            return
        handler.send_response(code)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def guard_on(url: str, *more: Any, limit: int = 1_000) -> Guard:
    return Guard(
        policy(limit, (0.5, [webhook(url)]), *more),
        {"session": "acme\n*"},
        MemoryBackend(),
        otel_enabled=False,
    )


def test_the_body_says_what_was_reached_and_nothing_of_the_prompt(receiver: Receiver) -> None:
    with guard_on(receiver.url) as guard:
        spend(guard, 100, prompt="the secret prompt")
        spend(guard, 500, prompt="the secret prompt")
    receiver.wait_for(1)
    path, headers, body = receiver.posts[0]
    assert datetime.fromisoformat(body.pop("timestamp")).utcoffset() is not None
    identity = body.pop("id")
    assert body == {
        "event": "threshold_reached",
        "dimension": "session",
        "identifier": "acme\n*",
        "at_pct": 0.5,
        "limit": 1_000,
        "used": 600,
        "remaining": 400,
        "pct_used": 0.6,
        "policy": "default",
    }
    assert path == "/alerts?key=secret"
    assert headers["Content-Type"] == "application/json"
    assert headers["Webhook-Id"] == identity
    assert len(identity) == 32
    assert headers["User-Agent"].startswith("tokencap/")
    assert "secret prompt" not in json.dumps(receiver.posts)


def test_each_delivery_has_an_id_of_its_own(receiver: Receiver) -> None:
    with guard_on(receiver.url, (0.6, [webhook(receiver.url), webhook(receiver.url)])) as guard:
        spend(guard, 700)
    receiver.wait_for(3)
    assert len({body["id"] for _, _, body in receiver.posts}) == 3
    assert [body["at_pct"] for _, _, body in receiver.posts] == [0.5, 0.6, 0.6]


def test_a_threshold_is_posted_once_however_many_calls_follow(receiver: Receiver) -> None:
    with guard_on(receiver.url, (1.0, [block(), webhook(receiver.url)])) as guard:
        spend(guard, 995)
        for _ in range(3):
            with pytest.raises(BudgetExceededError):
                spend(guard, 1)
    receiver.wait_for(2)
    assert [body["at_pct"] for _, _, body in receiver.posts] == [0.5, 1.0]


def test_leaving_the_guard_delivers_what_is_queued(receiver: Receiver) -> None:
    with guard_on(receiver.url, *((at / 100, [webhook(receiver.url)]) for at in range(51, 71))) as guard:
        spend(guard, 800)
    assert len(receiver.posts) == 21
    assert not any(thread.name == "tokencap-webhooks" for thread in threading.enumerate())


def test_leaving_the_guard_of_an_event_loop_does_not_block_it(receiver: Receiver) -> None:
    def slowly(handler: Any) -> None:
        time.sleep(0.5)
        Receiver.accept(handler)

    receiver.answer = slowly
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    async def main() -> None:
        turning = asyncio.ensure_future(turn())
        async with guard_on(receiver.url) as guard:
            await aspend(guard, 800)
        turning.cancel()

    asyncio.run(main())
    assert len(receiver.posts) == 1
    assert turns > 10


EXITING = """
    import sys
    from calls import *
    from tokencap.backends.memory import MemoryBackend
    guard = Guard(policy(100, (0.5, [webhook(sys.argv[1])])), backend=MemoryBackend())
    spend(guard, 60)
    if sys.argv[2] == "raise":
        raise SystemExit(0)
    if sys.argv[2] == "atexit":
        import atexit
        guard.reset("session")
        atexit.register(spend, guard, 60)
"""


@pytest.mark.parametrize(("way", "posts"), [("return", 1), ("raise", 1), ("atexit", 2)])
def test_a_post_made_as_the_process_exits_arrives_once(receiver: Receiver, way: str, posts: int) -> None:
    python(EXITING, receiver.url, way)
    assert len(receiver.posts) == posts


def silent_port() -> Iterator[int]:
    """Accept connections and say nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


def time_of_calls(url: str, monkeypatch: pytest.MonkeyPatch, thresholds: int) -> float:
    steps = [(at / 1_000, [webhook(url)]) for at in range(1, thresholds + 1)]
    monkeypatch.setattr(_delivery, "TIMEOUT", 0.2)
    with Guard(policy(1_000, *steps), backend=MemoryBackend()) as guard:
        started = time.perf_counter()
        for _ in range(thresholds):
            spend(guard, 1)
        taken = time.perf_counter() - started
        guard.runtime.webhooks._queue.clear()
    return taken


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_a_bad_endpoint_adds_no_time_to_a_call(
    receiver: Receiver, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = silent_port()
    port = next(silent)
    if kind == "dead":
        silent.close()
    good = time_of_calls(receiver.url, monkeypatch, 100)
    bad = time_of_calls(f"http://127.0.0.1:{port}/", monkeypatch, 100)
    silent.close()
    # A hundred silent answers would take 20 s.
    assert bad < 5 * good + 5


def test_a_hanging_endpoint_is_given_up_and_the_next_delivery_made(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(_delivery, "TIMEOUT", 0.1)
    silent = silent_port()
    url = f"http://127.0.0.1:{next(silent)}/hidden-token"
    with guard_on(url, (0.6, [webhook(receiver.url)])) as guard:
        spend(guard, 700)
    silent.close()
    assert len(receiver.posts) == 1
    (message,) = [record.getMessage() for record in caplog.records if "webhook" in record.name]
    assert "127.0.0.1 failed" in message
    assert "hidden-token" not in message


@pytest.mark.parametrize("code", [400, 404, 410])
def test_a_receiver_that_refuses_is_logged_and_not_asked_again(
    receiver: Receiver, code: int, caplog: Any
) -> None:
    def refuse(handler: Any) -> None:
        handler.send_response(code)
        handler.end_headers()

    receiver.answer = refuse
    with guard_on(receiver.url) as guard:
        spend(guard, 700)
    assert len(receiver.posts) == 1
    assert "HTTPError" in caplog.text


@pytest.mark.parametrize("code", [301, 302, 303, 307])
def test_a_redirect_is_followed_with_the_same_body_to_the_host_it_names(
    receiver: Receiver, code: int
) -> None:
    other = Receiver()
    receiver.answer = redirect(f"http://127.0.0.1:{other.port}/moved", code)
    with guard_on(receiver.url) as guard:
        spend(guard, 700)
    other.close()
    (first,), (second,) = receiver.posts, other.posts
    assert second[0] == "/moved"
    assert second[2] == first[2]
    assert second[1]["Host"] == f"127.0.0.1:{other.port}"
    assert second[1]["Webhook-Id"] == first[1]["Webhook-Id"]


@pytest.mark.parametrize(
    "location", ["https://127.0.0.1/moved", "ftp://127.0.0.1/moved", "file:///etc/passwd"]
)
def test_a_redirect_to_another_scheme_is_refused(receiver: Receiver, location: str, caplog: Any) -> None:
    receiver.answer = redirect(location)
    with guard_on(receiver.url) as guard:
        spend(guard, 700)
    assert len(receiver.posts) == 1
    assert "HTTPError" in caplog.text


def test_a_redirect_in_a_circle_ends(receiver: Receiver) -> None:
    receiver.answer = redirect("/again")
    with guard_on(receiver.url) as guard:
        spend(guard, 700)
    assert 1 < len(receiver.posts) <= 5


def test_a_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{receiver.port}")
    monkeypatch.setenv("no_proxy", "")
    with guard_on("http://receiver.invalid/alerts") as guard:
        spend(guard, 700)
    assert [path for path, _, _ in receiver.posts] == ["http://receiver.invalid/alerts"]


def test_the_queue_is_bounded_and_what_is_dropped_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(_webhooks, "CAPACITY", 3)
    monkeypatch.setattr(_delivery, "TIMEOUT", 0.2)
    silent = silent_port()
    url = f"http://127.0.0.1:{next(silent)}/"
    webhooks = Webhooks()
    with caplog.at_level(logging.ERROR, "tokencap.webhooks"):
        for number in range(10):
            webhooks.post(url, {"number": number})
    assert 6 <= webhooks.dropped <= 7
    assert len(webhooks._queue) == 3
    assert sum("was dropped" in record.message for record in caplog.records) == webhooks.dropped
    webhooks._queue.clear()
    webhooks.flush()
    silent.close()


def test_a_flush_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    silent = silent_port()
    url = f"http://127.0.0.1:{next(silent)}/"
    webhooks = Webhooks()
    monkeypatch.setattr(_delivery, "TIMEOUT", 0.5)
    for number in range(5):
        webhooks.post(url, {"number": number})
    started = time.monotonic()
    webhooks.flush(timeout=0.2)
    assert time.monotonic() - started < 0.45
    assert "were not made" in caplog.text
    webhooks._queue.clear()
    silent.close()


def test_posts_after_a_flush_are_delivered_too(receiver: Receiver) -> None:
    webhooks = Webhooks()
    for number in range(3):
        webhooks.post(receiver.url, {"number": number})
        webhooks.flush()
        receiver.wait_for(number + 1)


def test_posts_from_many_threads_all_arrive(receiver: Receiver) -> None:
    webhooks = Webhooks()

    def work() -> None:
        for _ in range(10):
            webhooks.post(receiver.url, {})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    webhooks.flush()
    assert len({body["id"] for _, _, body in receiver.posts}) == 80
    assert len(receiver.posts) == 80


# -- tried again -------------------------------------------------------------------------------------------


def failing(codes: list[int], **headers: str) -> Callable[[Any], None]:
    """Answer with these codes, then accept."""

    def answer(handler: Any) -> None:
        handler.send_response(codes.pop(0) if codes else 204)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def wait_for_failures(webhooks: Webhooks, count: int) -> None:
    """Wait until so many deliveries have failed and are to be tried again."""
    deadline = time.monotonic() + 5
    while len(webhooks._later) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(webhooks._later) == count


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_receiver_with_troubles_of_its_own_is_asked_again(
    receiver: Receiver, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_webhooks, "PAUSES", (0.01, 0.01, 0.01))
    receiver.answer = failing([code, code])
    webhooks = Webhooks()
    webhooks.post(receiver.url, {"number": 1})
    receiver.wait_for(3)
    webhooks.flush()
    assert len(receiver.posts) == 3
    assert len({body["id"] for _, _, body in receiver.posts}) == 1
    assert len({headers["Webhook-Id"] for _, headers, _ in receiver.posts}) == 1


def test_a_receiver_that_was_down_gets_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_webhooks, "PAUSES", (0.05,) * 200)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    webhooks = Webhooks()
    webhooks.post(f"http://127.0.0.1:{port}/", {"number": 1})
    time.sleep(0.1)
    receiver = Receiver(port)
    receiver.wait_for(1)
    receiver.close()
    webhooks.flush()


def test_a_delivery_is_given_up_after_the_last_pause(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(_webhooks, "PAUSES", (0.01, 0.01))
    receiver.answer = failing([500] * 9)
    webhooks = Webhooks()
    webhooks.post(receiver.url, {})
    deadline = time.monotonic() + 5
    while "given up" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.005)
    webhooks.flush()
    assert len(receiver.posts) == 3
    assert "HTTPError 500 (attempt 3, given up)" in caplog.text


def test_the_pauses_grow_and_heed_what_the_receiver_asks_for(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    receiver.answer = failing([503], Retry_After="77")
    webhooks = Webhooks()
    with caplog.at_level(logging.INFO, "tokencap.webhooks"):
        webhooks.post(receiver.url, {})
        wait_for_failures(webhooks, 1)
        assert 70 < webhooks._later[0].due - time.monotonic() <= 77
    assert "again in 77 s" in caplog.text
    webhooks.flush()
    assert list(_webhooks.PAUSES) == sorted(_webhooks.PAUSES)


def test_what_waits_for_another_try_is_tried_a_last_time_by_a_flush(receiver: Receiver) -> None:
    receiver.answer = failing([503])
    webhooks = Webhooks()
    webhooks.post(receiver.url, {})
    wait_for_failures(webhooks, 1)
    webhooks.flush()
    assert len(receiver.posts) == 2
    assert not webhooks._later


def test_one_receiver_that_is_down_does_not_hold_up_another(receiver: Receiver) -> None:
    other = Receiver()
    other.answer = failing([500] * 9)
    webhooks = Webhooks()
    webhooks.post(other.url, {})
    wait_for_failures(webhooks, 1)
    webhooks.post(receiver.url, {})
    receiver.wait_for(1)
    webhooks._later.clear()
    webhooks.flush()
    other.close()


def test_what_waits_for_another_try_takes_room_in_the_queue(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_webhooks, "CAPACITY", 2)
    receiver.answer = failing([500] * 9)
    webhooks = Webhooks()
    for number in (1, 2):
        webhooks.post(receiver.url, {})
        receiver.wait_for(number)
    wait_for_failures(webhooks, 2)
    webhooks.post(receiver.url, {})
    assert webhooks.dropped == 1
    webhooks._later.clear()
    webhooks.flush()


# -- signed ------------------------------------------------------------------------------------------------

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_signature_is_that_of_the_standard() -> None:
    # The example of the specification's own libraries.
    body = b'{"test": 2432232314}'
    assert signed("msg_p5jXN8AQM9LWM0D4loKWxJek", body, SECRET, 1614265330) == {
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_posts_are_signed_over_what_was_sent_when_there_is_a_secret(receiver: Receiver) -> None:
    action = Action("WEBHOOK", webhook_url=receiver.url, webhook_secret=SECRET)
    with Guard(policy(1_000, (0.5, [action])), backend=MemoryBackend(), otel_enabled=False) as guard:
        spend(guard, 700)
    (_, headers, body) = receiver.posts[0]
    sent = json.dumps(body).encode()
    assert abs(int(headers["Webhook-Timestamp"]) - time.time()) < 60
    assert headers["Webhook-Id"] == body["id"]
    expected = signed(body["id"], sent, SECRET, int(headers["Webhook-Timestamp"]))
    assert headers["Webhook-Signature"] == expected["Webhook-Signature"]
    assert SECRET not in repr(action)
    assert SECRET not in json.dumps(receiver.posts)


def test_without_a_secret_there_is_no_signature(receiver: Receiver) -> None:
    with guard_on(receiver.url) as guard:
        spend(guard, 700)
    assert "Webhook-Signature" not in receiver.posts[0][1]


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!", SECRET[6:], 5])
def test_a_secret_that_is_none_is_a_mistake_that_is_not_repeated(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="webhook_secret must be") as caught:
        Action("WEBHOOK", webhook_url="https://example.com/", webhook_secret=secret)
    assert SECRET[6:] not in str(caught.value)


def test_only_a_webhook_has_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="no use for it"):
        Action("BLOCK", webhook_secret=SECRET)


FORKING = """
    import os, sys, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what this is about
    from tokencap._webhooks import Webhooks
    webhooks = Webhooks()
    webhooks.post(sys.argv[1] + "&hold", {"who": "parent"})
    while webhooks._queue: time.sleep(0.001)
    webhooks.post(sys.argv[1], {"who": "parent, queued"})
    child = os.fork()
    if child == 0:
        webhooks.post(sys.argv[1], {"who": "child"})
        webhooks.flush()
        os._exit(0)
    os.waitpid(child, 0)
    webhooks.flush()
"""


FORKING_AT_TLS = """
    import os, signal, sys, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    from tokencap._webhooks import Webhooks
    webhooks = Webhooks()
    webhooks.post(sys.argv[1], {"who": "parent"})
    begun = time.monotonic()
    while time.monotonic() < begun + 5:
        if any(frame.f_globals["__name__"] == "ssl" for frame in sys._current_frames().values()): break
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        import ssl
        ssl.create_default_context()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os._exit(0)
"""


@forks
def test_a_forked_process_can_use_tls_though_a_delivery_was_about_to(receiver: Receiver) -> None:
    python(FORKING_AT_TLS, receiver.url.replace("http:", "https:"))


@forks
def test_a_forked_process_delivers_its_own_posts_and_not_those_of_its_parent(receiver: Receiver) -> None:
    def slow(handler: Any) -> None:
        if "hold" in handler.path:
            time.sleep(0.3)
        Receiver.accept(handler)

    receiver.answer = slow
    python(FORKING, receiver.url)
    assert sorted(body["who"] for _, _, body in receiver.posts) == ["child", "parent", "parent, queued"]


def test_the_guard_of_a_warning_keeps_posting_when_the_warning_fails(receiver: Receiver) -> None:
    def fail(status: Any) -> Optional[int]:  # noqa: UP045
        raise ValueError("mine")

    with guard_on(receiver.url, (0.5, [warn(fail)])) as guard:
        spend(guard, 700)
    assert len(receiver.posts) == 1
