"""Guarded calls without an SDK: what the seam does around a request, with a reply made up here."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable

from tokencap import Action, DimensionPolicy, Guard, Policy, Provider, Threshold, TokenUsage
from tokencap._flow import arun, run
from tokencap._session import CallSession
from tokencap.providers import endpoint_of

CHAT = endpoint_of(Provider.OPENAI, "post", "/chat/completions")
MESSAGES = endpoint_of(Provider.ANTHROPIC, "post", "/v1/messages")
ROOT = Path(__file__).parents[2]


def call(
    guard: Guard, model: str = "gpt-4o", prompt: str = "hi", provider: Provider = Provider.OPENAI
) -> CallSession:
    """Return the session of one call, not begun."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    endpoint = CHAT if provider is Provider.OPENAI else MESSAGES
    assert endpoint is not None
    return CallSession(guard.runtime, provider, endpoint, body)


def spend(guard: Guard, tokens: int, **kwargs: Any) -> dict[str, Any]:
    """Make a call that takes so many tokens; return what was changed in its request."""
    session = call(guard, **kwargs)
    changes = run(session.begin())
    session.tally.usage = TokenUsage(tokens)
    run(session.settle())
    return changes


async def aspend(guard: Guard, tokens: int, **kwargs: Any) -> dict[str, Any]:
    """As `spend`, for coroutines."""
    session = call(guard, **kwargs)
    changes = await arun(session.begin())
    session.tally.usage = TokenUsage(tokens)
    await arun(session.settle())
    return changes


def warn(callback: Callable[[Any], Any]) -> Action:
    return Action("WARN", callback=callback)


def degrade(to: Any) -> Action:
    return Action("DEGRADE", degrade_to=to)


def block() -> Action:
    return Action("BLOCK")


def webhook(url: str) -> Action:
    return Action("WEBHOOK", webhook_url=url)


def policy(limit: int, *thresholds: tuple[float, list[Action]]) -> Policy:
    """Return the policy of one dimension, `session`."""
    steps = [Threshold(at, actions) for at, actions in thresholds]
    return Policy({"session": DimensionPolicy(limit=limit, thresholds=steps)})


def _started_with(code: str, args: tuple[str, ...], env: dict[str, str]) -> dict[str, Any]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "unit")])
    return {
        "args": [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *args],
        "env": {**os.environ, "PYTHONPATH": path, **env},
        "text": True,
    }


def python(code: str, *args: str, **env: str) -> Any:
    """Run a program in a process of its own."""
    done = subprocess.run(**_started_with(code, args, env), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def spawn(code: str, *args: str, **env: str) -> subprocess.Popen[str]:
    """Start a program in a process of its own."""
    return subprocess.Popen(**_started_with(code, args, env), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
