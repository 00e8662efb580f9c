"""A child of a fork goes on, whatever another thread of its parent was doing at that moment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import tokencap
from forked import fork, forks, join
from tokencap import Provider, _default
from tokencap.clients import mistral, passing
from tokencap.providers import tokenizer

pytestmark = [
    forks,
]


def hook() -> None:
    with mistral._hooking.lock:
        pass


BUSY: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "making a Guard": (lambda: _default._process.lock, tokencap.teardown),
    "counting a prompt": (
        lambda: tokenizer._tables.mutex.lock,
        lambda: tokenizer.count_text(Provider.OPENAI, "gpt-4o", os.urandom(8).hex()),
    ),
    "noting what passes": (lambda: passing._mutex.lock, passing.passed),
    "hooking an SDK": (lambda: mistral._hooking.lock, hook),
}


@pytest.mark.parametrize("busy", BUSY)
def test_it_does_not_wait_for_a_thread_that_stayed_in_the_parent(busy: str) -> None:
    lock, step = BUSY[busy]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        join(fork(step, 5))
    finally:
        done.set()
        thread.join()


SLOW_TO_IMPORT = """
import time
time.sleep(0.5)

class Table:
    name = "table"
    def encode_ordinary(self, text):
        return [0] * 1234

def list_encoding_names():
    return []

def get_encoding(name):
    return Table()
"""
FORKING = """
import os, signal, sys, time
from tokencap import Provider
from tokencap.providers.tokenizer import count_text

count_text(Provider.OPENAI, "gpt-4o", "loads the table in a thread")
while "tiktoken" not in sys.modules:
    time.sleep(0.001)
child = os.fork()
signal.alarm(20)
import tiktoken
while count_text(Provider.OPENAI, "gpt-4o", "hello") != 1234:
    time.sleep(0.01)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_it_can_import_and_load_what_a_thread_of_its_parent_was_loading(tmp_path: Path) -> None:
    (tmp_path / "tiktoken.py").write_text(SLOW_TO_IMPORT)
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        timeout=60,
    )


CONNECTING = """
import asyncio, os, ssl, sys, threading, time
from tokencap.backends.redis import RedisBackend
from tokencap.budget import BudgetKey

of_openssl = threading.Lock()  # stands for the ones it takes while it reads certificates
make_context = ssl.create_default_context

def slowly(*args, **kwargs):
    with of_openssl:
        time.sleep(0.5)
        return make_context(*args, **kwargs)

ssl.create_default_context = slowly
backend = RedisBackend(sys.argv[1])
question = [(BudgetKey("session", "s"), 100)]
steps = {
    "thread": lambda: backend.get_states(question),
    "loop": lambda: asyncio.run(backend.as_async().get_states(question)),
}
threading.Thread(target=steps[sys.argv[2]], daemon=True).start()
while not of_openssl.locked():
    time.sleep(0.001)
child = os.fork()
if child == 0:
    os._exit(not of_openssl.acquire(timeout=1))
status = os.waitpid(child, 0)[1]
os._exit(status != 0)
"""


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_it_can_use_tls_though_its_parent_was_connecting_to_a_store(where: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rediss://127.0.0.1:{server.getsockname()[1]}"
        subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CONNECTING, url, where],
            check=True,
            timeout=60,
        )
