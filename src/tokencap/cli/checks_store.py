"""What `tokencap doctor` looks at in a store: whether it can be used, tells the time, and missed nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .._entry import EVER, EXPIRED, Label
from ..backends.urls import open_url
from ..errors import TokencapError
from .checks_file import is_current, look_at
from .findings import WRONG, Finding, note, well, wrong
from .store import ELSEWHERE, NoStoreError, opened, path_of
from .text import clean, count, duration

if TYPE_CHECKING:
    from ..backends.protocol import LedgerBackend

__all__ = ["clock", "of_redis", "store", "unseen"]

_WEEK = 7 * 86_400.0
_SKEW, _FAR_OFF = 2.0, 60.0


def store(text: str) -> Iterator[Finding]:
    """Look at the store that `text` names, then at its clock and its ledger."""
    try:
        path = path_of(open_url(text))
    except TokencapError as error:
        yield wrong("store", str(error), f"correct that, or {ELSEWHERE}")
        return
    if path is not None:
        found = list(look_at(path))
        yield from found
        if any(one.level == WRONG for one in found) or not (path.exists() and is_current(path)):
            return
    try:
        with opened(text) as backend:
            if path is None:
                yield from _server(backend)
            yield from clock(backend, shared=path is None)
            yield from unseen(backend)
    except NoStoreError as error:
        yield note("store", str(error), "name a SQLite file or a Redis for budgets that processes share")
    except TokencapError as error:
        yield wrong("store", str(error), "see that it runs and can be reached from here, and ask again")


# -- a server --------------------------------------------------------------------------------------------


def _server(backend: LedgerBackend) -> Iterator[Finding]:
    began = time.perf_counter()
    backend.now()
    took = time.perf_counter() - began
    ask = getattr(backend, "info", None)
    try:
        info = {} if ask is None else ask()
    except TokencapError as error:
        yield note("store", f"it does not say how it is: {error}", "let its user run INFO")
        info = {}
    yield from of_redis(clean(backend.name), took, info)


def of_redis(name: str, took: float, info: Mapping[str, str]) -> Iterator[Finding]:
    """Judge what a Redis says of itself. Pure. `took`: seconds for a question."""
    area = "store"
    used, most = (int(info.get(key, "0") or 0) for key in ("used_memory", "maxmemory"))
    policy = info.get("maxmemory_policy", "noeviction")
    problems = []
    if info.get("role", "master") != "master":
        problems.append(
            wrong(area, f"{name} is a replica: it takes no writes", "name the primary, or a Sentinel group")
        )
    if most and used >= most and policy == "noeviction":
        problems.append(
            wrong(area, f"{name} has used up its memory and refuses writes", "raise its maxmemory")
        )
    if policy.startswith("allkeys"):
        problems.append(
            wrong(
                area,
                f"{name} forgets keys when its memory is full (maxmemory-policy {policy}), budgets too",
                "set maxmemory-policy to noeviction, or use another server for budgets",
            )
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        problems.append(
            wrong(area, f"{name} could not save to disk, and may refuse writes", "see its log, and its disk")
        )
    yield from problems
    if not problems:
        version = info.get("valkey_version") or info.get("redis_version")
        about = f", version {version}" if version else ""
        yield well(area, f"{name} answers in {took * 1000:.1f} ms{about}")
    if info.get("aof_enabled") == "0" and info.get("rdb_saves", "1") == "0":
        yield note(
            area,
            f"{name} has saved nothing to disk since it started: counts would be lost with it",
            "set appendonly to yes, if they are to outlive it",
        )


# -- its clock and its ledger ----------------------------------------------------------------------------


def clock(backend: LedgerBackend, shared: bool) -> Iterator[Finding]:
    """Compare the store's clock with this machine's. `shared`: it is another machine's."""
    area = "clock"
    before = time.time()
    now = backend.now()
    after = time.time()
    # Somewhere between the two it was read.
    ahead = now - after if now > after else now - before if now < before else 0.0
    future = next(iter(backend.calls(now + _FAR_OFF, EVER)), None)
    if future is not None:
        yield wrong(
            area,
            f"the store has a call of {duration(future[0] - now)} from now: its clock has been set back",
            "see that the machine's clock is kept by NTP; budgets that start anew wait for the old time",
        )
    elif abs(ahead) > _SKEW:
        side = "ahead of" if ahead > 0 else "behind"
        yield (wrong if abs(ahead) > _FAR_OFF else note)(
            area,
            f"the store's clock is {duration(abs(ahead))} {side} this machine's",
            "keep both by NTP: days and hours of budgets and reports are the store's",
        )
    else:
        yield well(
            area, "the store's clock agrees with this machine's" if shared else "no call is from the future"
        )


def unseen(backend: LedgerBackend) -> Iterator[Finding]:
    """Say what of the last week was charged in another way than by the provider's report beforehand."""
    area = "unseen"
    calls = unknown = unknown_tokens = expired = expired_tokens = estimated = 0
    providers: set[str] = set()
    for one in backend.sums(backend.now() - _WEEK, EVER):
        label = Label.parse(one.label)
        tokens = one.input + one.output
        calls += one.calls
        if not label.endpoint:
            unknown, unknown_tokens = unknown + one.calls, unknown_tokens + tokens
            providers.add(label.provider)
        if one.ending == EXPIRED:
            expired, expired_tokens = expired + one.calls, expired_tokens + tokens
        else:
            estimated += one.estimated
    if unknown:
        names = ", ".join(sorted(map(clean, providers)))
        yield note(
            area,
            f"{_calls(unknown)} ({names}, {count(unknown_tokens)} tokens) went "
            "to paths that tokencap does not know: counted afterwards, but not stopped",
            "see whether a newer tokencap knows them; tokencap.coverage() in the app names them",
        )
    if expired:
        yield note(
            area,
            f"{_calls(expired)} of processes that died: {count(expired_tokens)} tokens, charged as estimated",
            "tokencap usage --since 7d --where ending=expired",
        )
    if estimated:
        yield note(
            area,
            f"{_calls(estimated)} were charged as estimated: the provider reported no usage, or not all",
            "tokencap usage --since 7d --by endpoint,ending --json has `estimated`",
        )
    if not (unknown or expired or estimated):
        yield well(
            area,
            f"the {_calls(calls)} of the last 7 days were charged what the provider reported"
            if calls
            else "no call in the last 7 days",
        )


def _calls(many: int) -> str:
    return "1 call" if many == 1 else f"{count(many)} calls"
