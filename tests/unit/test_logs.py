"""Logs: one tree, structured, without handlers, and without anything that is nobody's business."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest
from calls import aspend, block, degrade, policy, python, spend, warn

import tokencap
from tokencap import Action, BackendError, BudgetExceededError, Guard
from tokencap._loopback import LoopbackProvider
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.redis import RedisBackend
from tokencap.clients.counting import host_of

PACKAGE = Path(tokencap.__file__).parent
SECRET = "c2VudGluZWwtb2YtbWluZS1uZXZlci1sb2dnZWQ"


class Everything(logging.Handler):
    """Keeps all that a formatter could show of the records of our tree."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def text(self) -> str:
        return "\n".join(
            f"{record.getMessage()} {record.__dict__} "
            + ("".join(traceback.format_exception(*record.exc_info)) if record.exc_info else "")
            for record in self.records
        )


@pytest.fixture
def logged() -> Iterator[Everything]:
    handler, logger = Everything(), logging.getLogger("tokencap")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_all_loggers_are_of_one_tree() -> None:
    names = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger":
                (name,) = node.args
                assert isinstance(name, ast.Constant), path
                names.append(name.value)
    assert len(names) >= 8
    assert all(name == "tokencap" or name.startswith("tokencap.") for name in names)


def test_no_handler_is_installed() -> None:
    code = """
        import logging
        from calls import *
        from tokencap.backends.memory import MemoryBackend
        with Guard(policy(100, (0.5, [degrade("gpt-4o-mini")])), backend=MemoryBackend()) as guard:
            spend(guard, 60)
            spend(guard, 1)
        loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if "tokencap" in name]
        print(sum(len(logger.handlers) for logger in [*loggers, logging.root]))
    """
    assert python(code).stdout.strip() == "0"


def test_a_call_that_has_ended_is_logged_for_machines_too(logged: Everything) -> None:
    with Guard(policy(1_000), {"session": "s"}, MemoryBackend(), otel_enabled=False) as guard:
        spend(guard, 42)
    (record,) = [record for record in logged.records if record.name == "tokencap.calls"]
    assert record.levelno == logging.DEBUG
    assert record.getMessage() == "openai call of gpt-4o: ok, 42 tokens"
    told = vars(record)
    assert (told["provider"], told["model"], told["tokens"], told["ending"]) == ("openai", "gpt-4o", 42, "ok")
    assert told["identifiers"] == {"session": "s"}
    assert len(told["call_id"]) == 32


def test_calls_cost_nothing_while_they_are_not_logged() -> None:
    with Guard(policy(1_000), backend=MemoryBackend(), otel_enabled=False) as guard:
        assert not guard.runtime.observed


def test_actions_are_logged_for_machines_too(logged: Everything) -> None:
    steps = [(0.5, [warn(lambda status: None)]), (1.0, [block()])]
    with Guard(policy(100, *steps), backend=MemoryBackend(), otel_enabled=False) as guard:
        spend(guard, 100)
        with pytest.raises(BudgetExceededError):
            spend(guard, 1)
    fired = [vars(record) for record in logged.records if record.name == "tokencap.actions"]
    assert [(each["action_kind"], each["dimension"]) for each in fired] == [
        ("WARN", "session"),
        ("BLOCK", "session"),
    ]


def test_every_record_can_be_written_as_json(logged: Everything) -> None:
    steps = [(0.2, [degrade("gpt-4o-mini")]), (0.5, [warn(lambda status: None)]), (1.0, [block()])]
    with Guard(policy(100, *steps), {"session": "s"}, MemoryBackend(), otel_enabled=False) as guard:
        for _ in range(4):
            with contextlib.suppress(BudgetExceededError):
                spend(guard, 40)
    assert len(logged.records) > 6
    for record in logged.records:
        own = {k: v for k, v in vars(record).items() if k not in vars(logging.makeLogRecord({}))}
        json.dumps(own)


def spend_over_http(loopback: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real calls with a secret in the key, the URL, a header, the prompt and so in the reply."""
    say = [{"role": "user", "content": f"{SECRET} [[reply={SECRET}]]"}]
    with Guard(policy(10_000, (1.0, [block()])), backend=MemoryBackend()) as guard:
        host = loopback.environ["OPENAI_BASE_URL"].split("//")[1]
        plain = openai.OpenAI(
            api_key=SECRET,
            base_url=f"http://user:{SECRET}@{host}",
            default_headers={"X-Secret": SECRET},
            default_query={"token": SECRET},
            max_retries=0,
        )
        client = guard.wrap(plain)
        for prompt in (say, [{"role": "user", "content": f"{SECRET} [[status=500]]"}]):
            for stream in (False, True):
                try:
                    reply = client.chat.completions.create(model="gpt-4o", messages=prompt, stream=stream)
                    list(reply)
                except openai.APIError:
                    pass
        other = guard.wrap(anthropic.Anthropic(api_key=SECRET, max_retries=0))
        other.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=say)


def fail_to_reach_a_store() -> None:
    store = RedisBackend(f"redis://user:{SECRET}@127.0.0.1:1/0", timeout=0.2)
    with Guard(policy(100), backend=store, on_backend_error="allow", otel_enabled=False) as guard:
        spend(guard, 5)
        with pytest.raises(BackendError):
            guard.get_status()
    store.close()


def fail_to_deliver_a_webhook() -> None:
    action = Action(
        "WEBHOOK",
        webhook_url=f"http://user:{SECRET}@127.0.0.1:1/{SECRET}?key={SECRET}",
        webhook_secret=f"whsec_{SECRET}=",
    )
    with Guard(policy(100, (0.5, [action])), backend=MemoryBackend(), otel_enabled=False) as guard:
        spend(guard, 60)


def be_refused_and_warned() -> None:
    steps = [(0.1, [warn(lambda status: 1 / 0)]), (0.2, [degrade("claude-haiku-4-5")]), (1.0, [block()])]
    with Guard(policy(100, *steps), backend=MemoryBackend(), otel_enabled=False) as guard:
        guard.on_call(lambda record: 1 / 0)
        spend(guard, 50, prompt=SECRET)
        spend(guard, 50, prompt=SECRET)
        with pytest.raises(BudgetExceededError):
            spend(guard, 1, prompt=SECRET)
        with pytest.raises(BudgetExceededError):
            asyncio.run(aspend(guard, 1, prompt=SECRET))


def test_nothing_secret_is_ever_logged(
    logged: Everything, loopback: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend_over_http(loopback, monkeypatch)
    fail_to_reach_a_store()
    fail_to_deliver_a_webhook()
    be_refused_and_warned()
    loggers = {record.name for record in logged.records}
    assert {"tokencap.calls", "tokencap.actions", "tokencap.keeper", "tokencap.webhooks"} <= loggers
    assert SECRET not in logged.text()


def test_of_a_url_only_the_host_is_named() -> None:
    assert host_of(f"https://user:{SECRET}@api.example.com/{SECRET}?key={SECRET}") == "api.example.com"
    assert host_of(SECRET) == "the provider"
