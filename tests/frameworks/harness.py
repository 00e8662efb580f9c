"""The routes of one framework, run in this process: bare, or under `tokencap.patch()`.

    python harness.py langchain guarded "openai invoke" "openai stream"

`apps/<framework>.py` holds the routes: small unchanged apps, each returning its answer. The provider is the
loopback provider at LOOPBACK_URL, whose journal is what the books are compared with. For each route a line
with a JSON document is printed for `scripts/frameworks.py`, which starts this and judges it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

APPS = Path(__file__).parent / "apps"
REPORT = "@@report "

GPT, CLAUDE, EMBEDDER = "gpt-4o", "claude-sonnet-4-5", "text-embedding-3-small"
CHEAPER = {"openai": "gpt-4.1-nano", "anthropic": "claude-haiku-4-5"}
HELLO = "Tell me of a token."
TOOL = "What is the weather? [tool]"
FREE = ("/v1/messages/count_tokens", "/v1/responses/input_tokens", "/v1/models")

PLENTY = 10**9
"""Tokens of budget for a run that is not to be refused."""


ROUTES: dict[str, Callable[[], Any]] = {}
"""The ways a framework calls a model, by name."""
_at_once: set[str] = set()
_volatile: set[str] = {"id", "created", "created_at", "timestamp", "request_id", "headers"}


def route(name: str, at_once: bool = False) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function, plain or `async`, as a route: it runs the app once and returns its answer.

    `at_once` says that its calls are made side by side, so that each of them may be refused.
    """

    def register(run: Callable[[], Any]) -> Callable[[], Any]:
        ROUTES[name] = run
        if at_once:
            _at_once.add(name)
        return run

    return register


def volatile(*names: str) -> None:
    """Leave these fields out of answers: two bare runs differ in them too."""
    _volatile.update(names)


# -- what a run is judged by -----------------------------------------------------------------------------

_CHANGING = re.compile(
    r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"
    r"|\b(?:msg|toolu|call|resp|fc|rs|req|chatcmpl|cmpl|cmp)_[0-9A-Za-z]+"
    r"|(?<=127\.0\.0\.1:)\d+"
)


def plain(value: Any, depth: int = 0) -> Any:
    """Return an answer as JSON, without what differs from run to run: identifiers, times, addresses."""
    if depth > 12:
        return "..."
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _CHANGING.sub("<id>", value)
    if isinstance(value, bytes):
        return plain(value.decode("utf-8", "replace"), depth)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, Mapping):
        return {str(k): plain(v, depth + 1) for k, v in value.items() if str(k) not in _volatile}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, depth + 1) for item in value]
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return {"": type(value).__name__, **plain(dump(), depth)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"": type(value).__name__, **plain(fields, depth)}
    return f"<{type(value).__name__}>"


def forget() -> None:
    """Empty the provider's journal."""
    url = f"{os.environ['LOOPBACK_URL']}/journal"
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()


def journal() -> list[dict[str, Any]]:
    """Return what the provider has billed, call by call, without what is free."""
    with urllib.request.urlopen(f"{os.environ['LOOPBACK_URL']}/journal") as reply:
        entries: list[dict[str, Any]] = json.load(reply)
    return [entry for entry in entries if entry["path"] not in FREE]


def billed(entries: list[dict[str, Any]]) -> int:
    return sum(e["input_tokens"] + e["output_tokens"] for e in entries if e["status"] == 200)


_loops: list[asyncio.AbstractEventLoop] = []
"""One for all runs, as in an app: frameworks keep connections, which die with the loop they were made in."""


def run(name: str) -> Any:
    """Run a route once, whichever colour it has."""
    result = ROUTES[name]()
    return _loops[0].run_until_complete(result) if inspect.isawaitable(result) else result


def surfaced(error: BaseException | None, kind: type[BaseException]) -> str:
    """Say how a refusal came out of the framework: by itself, as a cause, or not at all."""
    if error is None:
        return "swallowed"
    seen: list[str] = []
    for link in _chain(error):
        if isinstance(link, kind):
            return "raised" if not seen else f"cause of {' > '.join(seen)}"
        seen.append(type(link).__name__)
    return f"lost in {' > '.join(seen)}: {error}"[:300]


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        # A group (ExceptionGroup, from Python 3.11) holds its causes beside one another.
        inner = getattr(link, "exceptions", None) or (None,)
        link = link.__cause__ or (link.__context__ if not link.__suppress_context__ else None) or inner[0]


# -- the runs --------------------------------------------------------------------------------------------


def bare(name: str) -> dict[str, Any]:
    """Run a route unguarded."""
    answer = run(name)
    entries = journal()
    return {"answer": plain(answer), "calls": len(entries), "tokens": billed(entries)}


def faulty(name: str) -> dict[str, Any]:
    """Run a route unguarded while the provider turns every call down."""
    answer, error = _tried(name)
    raised = None if error is None else type(error).__name__
    return {"calls": len(journal()), "raised": raised, "answer": plain(answer)}


def guarded(name: str) -> dict[str, Any]:
    """Run a route under one Guard: with plenty, degraded, stopped at its first call and after it."""
    import tokencap
    from tokencap import Action, ActionKind, BudgetExceededError, DimensionPolicy, Policy, Threshold

    degrade = Threshold(at_pct=0.01, actions=[Action(ActionKind.DEGRADE, degrade_to=CHEAPER)])
    block = Threshold(at_pct=1.0, actions=[Action(ActionKind.BLOCK)])
    policy = Policy({"session": DimensionPolicy(limit=PLENTY, thresholds=[degrade, block])})
    # Clients that a framework kept from the route before follow the Guard of the moment.
    tokencap.teardown()
    guard = tokencap.init(policy, quiet=True)
    records: list[Any] = []
    guard.on_call(records.append)

    def used() -> int:
        return guard.get_status().dimensions["session"].used

    report: dict[str, Any] = {"answer": plain(run(name))}
    first = journal()
    report.update(calls=len(first), tokens=billed(first), counted=used())

    # From here on the budget counts as all but spent.
    guard.set_limit("session", max(used(), 1) * 100)
    error = _tried(name)[1]
    second = journal()[len(first) :]
    report["degraded"] = {
        "error": None if error is None else plain(error),
        "models": [entry["model"] for entry in second if not entry["path"].endswith("/embeddings")],
        "embeddings": sum(entry["path"].endswith("/embeddings") for entry in second),
    }
    report["counted_degraded"], report["tokens_degraded"] = used(), billed(journal())

    guard.set_limit("session", max(used(), 1))
    report["blocked"] = _refused(name, records, BudgetExceededError)

    # An agent that is stopped between two of its calls.
    report["at_once"] = name in _at_once
    if len(first) > 1 and name not in _at_once:
        guard.set_limit("session", PLENTY)

        def spend(record: Any) -> None:
            if record.ending != "blocked":
                guard.set_limit("session", 1)

        guard.on_call(spend)
        report["stopped"] = _refused(name, records, BudgetExceededError)
    report["counted_last"], report["tokens_last"] = used(), billed(journal())
    return report


def _tried(name: str) -> tuple[Any, BaseException | None]:
    try:
        return run(name), None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        return None, error


def _refused(name: str, records: list[Any], kind: type[BaseException]) -> dict[str, Any]:
    before, sent = len(records), len(journal())
    answer, error = _tried(name)
    refusals = [record for record in records[before:] if record.ending == "blocked"]
    return {
        "sent": len(journal()) - sent,
        "refusals": len(refusals),
        "surfaced": surfaced(error, kind),
        "answer": plain(answer) if error is None else None,
    }


def load(app: str) -> None:
    """Import an app by its path: its name may be that of the framework."""
    spec = importlib.util.spec_from_file_location(f"app_{app.replace('-', '_')}", APPS / f"{app}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def tell(**document: Any) -> None:
    print(f"\n{REPORT}{json.dumps(document)}", flush=True)


def main() -> None:
    app, mode, *names = sys.argv[1:]
    _loops.append(asyncio.new_event_loop())
    asyncio.set_event_loop(_loops[0])
    sys.modules["harness"] = sys.modules["__main__"]
    if mode == "guarded":
        import tokencap

        tokencap.patch(quiet=True)
    if mode == "faulty":
        global HELLO, TOOL
        HELLO, TOOL = (f"{text} [[status=400]]" for text in (HELLO, TOOL))
    load(app)
    tell(routes=list(ROUTES))
    for name in names:
        forget()
        tell(begun=name)
        try:
            tell(ended=name, **{"bare": bare, "guarded": guarded, "faulty": faulty}[mode](name))
        except BaseException as error:
            traceback.print_exc()
            tell(ended=name, error=f"{type(error).__name__}: {error}"[:400])


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        # Frameworks leave threads behind that would keep the process.
        os._exit(status)
