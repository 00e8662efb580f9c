"""The process-wide Guard, and the functions over it."""

# A subclass (Azure) is listed before its base to keep its own type.
# mypy: disable-error-code="overload-overlap"
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ._config import configuration
from ._fork import ForkAware, survive_forks
from ._plans import Plans
from ._scope import Scope
from .backends.protocol import Backend
from .backends.urls import open_url
from .clients.family import family_of
from .clients.patching import Patch
from .errors import ConfigurationError
from .guard import Guard
from .policy import Policy, Provider, resolve_policy
from .status import StatusResponse
from .telemetry.otel import Otel

if TYPE_CHECKING:
    import openai

    from ._typing import (
        AnAnthropic,
        AnAsyncAnthropic,
        AnAsyncAzureOpenAI,
        AnAsyncOpenAI,
        AnAzureOpenAI,
        AnOpenAI,
        GuardedAnthropic,
        GuardedAsyncAnthropic,
        GuardedAsyncOpenAI,
        GuardedOpenAI,
    )

__all__ = ["get_status", "init", "patch", "scope", "teardown", "unpatch", "wrap"]

log = logging.getLogger("tokencap")

C = TypeVar("C")


class _Process(ForkAware):
    """What is process-wide: one Guard, and one patch of the SDKs."""

    def __init__(self) -> None:
        self.after_fork_in_child()
        survive_forks(self)
        self.guard: Guard | None = None
        self.taken = False
        """True once wrap() or patch() has taken the Guard up."""
        self.quiet = False
        self.sources: tuple[str, ...] = ()
        """The file and the variables that configured it, where no argument did."""
        self.patch: Patch | None = None
        self.imposed: Guard | None = None
        """The Guard of `tokencap run`, which the app does not replace."""

    def after_fork_in_child(self) -> None:
        """See `_fork`: a thread of the parent may have been making a Guard."""
        self.lock = threading.RLock()

    def current(self) -> Guard:
        """Return the Guard of the moment for clients made under patch()."""
        if self.guard is None or self.guard.closed:
            raise ConfigurationError(
                "this client was made under tokencap.patch() and there is no active Guard any more; "
                "it makes no unguarded calls. Call tokencap.init(...) for a new Guard, or "
                "tokencap.unpatch() to let it spend freely"
            )
        return self.guard

    def check_scope(self, names: Collection[str]) -> None:
        """Raise `ConfigurationError` for dimensions that the active Guard does not have, if there is one."""
        if self.guard is not None and not self.guard.closed:
            self.guard.runtime.plans.check(names)

    def take(self, limit: int | None, policy: Policy | None, strict: bool, wait: float, caller: str) -> Guard:
        """Return the Guard for a call of wrap() or patch(), made from its arguments if there is none."""
        asked: Policy | None = resolve_policy(limit, policy, strict)
        if limit is None and policy is None:
            asked = None
        if self.guard is None or self.guard.closed:
            return self.make(asked, wait=wait)
        if self.taken or limit is not None or policy is not None or wait:
            log.warning(
                "%s: a Guard is active and is used as it is; limit=, policy= and the like are ignored here. "
                "Call tokencap.teardown() first to start a fresh session",
                caller,
            )
        return self.guard

    def make(
        self,
        policy: Policy | None,
        identifiers: Mapping[str, str] | None = None,
        backend: Backend | None = None,
        otel_enabled: bool = True,
        quiet: bool = False,
        *,
        wait: float = 0.0,
        on_backend_error: str = "block",
        ledger: bool = True,
        otel: Otel | None = None,
    ) -> Guard:
        """Make the Guard. What no argument says is as it was configured."""
        found = configuration()
        sources = found.sources_of({"policy": policy, "identifiers": identifiers, "backend": backend})
        asked = policy if policy is not None else found.policy or Policy.tracking()
        if identifiers is None and found.identifiers is not None:
            try:
                Plans(asked, {}).check(found.identifiers)
            except ConfigurationError as error:
                raise found.at("identifiers", error) from None
            identifiers = found.identifiers
        if backend is None and found.backend is not None:
            try:
                backend = open_url(found.backend)
            except ConfigurationError as error:
                raise found.at("backend", error) from None
        if on_backend_error == "block" and found.on_backend_error is not None:
            on_backend_error = found.on_backend_error
        guard = Guard(
            asked,
            identifiers,
            backend,
            otel_enabled and found.otel is not False,
            wait=wait or found.wait or 0.0,
            on_backend_error=on_backend_error,
            ledger=ledger and found.ledger is not False,
            otel=otel,
        )
        self.guard, self.taken = guard, False
        self.quiet, self.sources = quiet or bool(found.quiet), sources
        return guard

    def announce(self, lines: list[str], quiet: bool) -> None:
        """Print the start-up lines, the first time a Guard is taken up."""
        if self.sources:
            lines = [*lines, f"[tokencap] configured by {', '.join(self.sources)}"]
        if not (self.taken or self.quiet or quiet):
            text = "\n".join(lines)
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            # Neither a terminal of few letters nor a closed one is a reason not to guard a client.
            with contextlib.suppress(OSError, ValueError):
                print(text.encode(encoding, "backslashreplace").decode(encoding))  # noqa: T201
        self.taken = True


_process = _Process()


@overload
def wrap(
    client: AnAnthropic, limit: None = ..., *, policy: Policy, quiet: bool = ..., wait: float = ...
) -> GuardedAnthropic: ...
@overload
def wrap(
    client: AnAnthropic,
    limit: int | None = ...,
    policy: None = ...,
    quiet: bool = ...,
    *,
    strict: bool = ...,
    wait: float = ...,
) -> GuardedAnthropic: ...
@overload
def wrap(
    client: AnAsyncAnthropic, limit: None = ..., *, policy: Policy, quiet: bool = ..., wait: float = ...
) -> GuardedAsyncAnthropic: ...
@overload
def wrap(
    client: AnAsyncAnthropic,
    limit: int | None = ...,
    policy: None = ...,
    quiet: bool = ...,
    *,
    strict: bool = ...,
    wait: float = ...,
) -> GuardedAsyncAnthropic: ...
@overload
def wrap(
    client: AnAzureOpenAI, limit: None = ..., *, policy: Policy, quiet: bool = ..., wait: float = ...
) -> openai.AzureOpenAI: ...
@overload
def wrap(
    client: AnAzureOpenAI,
    limit: int | None = ...,
    policy: None = ...,
    quiet: bool = ...,
    *,
    strict: bool = ...,
    wait: float = ...,
) -> openai.AzureOpenAI: ...
@overload
def wrap(
    client: AnAsyncAzureOpenAI, limit: None = ..., *, policy: Policy, quiet: bool = ..., wait: float = ...
) -> openai.AsyncAzureOpenAI: ...
@overload
def wrap(
    client: AnAsyncAzureOpenAI,
    limit: int | None = ...,
    policy: None = ...,
    quiet: bool = ...,
    *,
    strict: bool = ...,
    wait: float = ...,
) -> openai.AsyncAzureOpenAI: ...
@overload
def wrap(
    client: AnOpenAI, limit: None = ..., *, policy: Policy, quiet: bool = ..., wait: float = ...
) -> GuardedOpenAI: ...
@overload
def wrap(
    client: AnOpenAI,
    limit: int | None = ...,
    policy: None = ...,
    quiet: bool = ...,
    *,
    strict: bool = ...,
    wait: float = ...,
) -> GuardedOpenAI: ...
@overload
def wrap(
    client: AnAsyncOpenAI, limit: None = ..., *, policy: Policy, quiet: bool = ..., wait: float = ...
) -> GuardedAsyncOpenAI: ...
@overload
def wrap(
    client: AnAsyncOpenAI,
    limit: int | None = ...,
    policy: None = ...,
    quiet: bool = ...,
    *,
    strict: bool = ...,
    wait: float = ...,
) -> GuardedAsyncOpenAI: ...
@overload
def wrap(client: C, limit: None = ..., *, policy: Policy, quiet: bool = ..., wait: float = ...) -> C: ...
@overload
def wrap(
    client: C,
    limit: int | None = ...,
    policy: None = ...,
    quiet: bool = ...,
    *,
    strict: bool = ...,
    wait: float = ...,
) -> C: ...
def wrap(
    client: Any,
    limit: int | None = None,
    policy: Policy | None = None,
    quiet: bool = False,
    *,
    strict: bool = False,
    wait: float = 0.0,
) -> Any:
    """Return a guarded copy of a client of a supported SDK, sync or async.

    `limit` (tokens) is short for a policy that blocks at 100 %; without both it is as it was configured (see
    `init`), else tokens are only counted.
    `strict` makes it a limit that is never passed; `wait` is for how many seconds a call waits for the
    holds of others before it is refused.
    The copy is of the same class and has `get_status()`. The process-wide Guard is made at the first
    call and reused by later ones, with a warning, until `teardown()`. Raises `ConfigurationError`.
    """
    with _process.lock:
        family_of(client)
        guard = _process.take(limit, policy, strict, wait, "tokencap.wrap()")
        _process.announce(guard.startup_lines(), quiet)
        return guard.wrap(client)


def init(
    policy: Policy | None = None,
    identifiers: Mapping[str, str] | None = None,
    backend: Backend | None = None,
    otel_enabled: bool = True,
    quiet: bool = False,
    *,
    wait: float = 0.0,
    on_backend_error: str = "block",
    ledger: bool = True,
    otel: Otel | None = None,
) -> Guard:
    """Configure the process-wide Guard before `wrap()` or `patch()` takes it up, and return it.

    What is left out is as `tokencap.toml`, `[tool.tokencap]` in `pyproject.toml` and the `TOKENCAP_*`
    variables say, if there are any. Raises `ConfigurationError` when one is active already.
    """
    with _process.lock:
        if _process.guard is not None and not _process.guard.closed:
            if _process.guard is _process.imposed:
                log.warning(
                    "tokencap.init(): the app runs under `tokencap run`, whose Guard is used as it is; "
                    "what init() says is ignored here"
                )
                return _process.guard
            raise ConfigurationError("a Guard is active already; call tokencap.teardown() before init()")
        return _process.make(
            policy,
            identifiers,
            backend,
            otel_enabled,
            quiet,
            wait=wait,
            on_backend_error=on_backend_error,
            ledger=ledger,
            otel=otel,
        )


def impose(policy: Policy, identifiers: Mapping[str, str], backend: Backend) -> Guard:
    """Make the process-wide Guard of `tokencap run`: neither `init()` nor `teardown()` has a say in it."""
    with _process.lock:
        _process.imposed = _process.make(policy, identifiers, backend, quiet=True)
        return _process.imposed


def patch(
    limit: int | None = None,
    policy: Policy | None = None,
    quiet: bool = False,
    providers: Iterable[Provider | str] | None = None,
    *,
    strict: bool = False,
    wait: float = 0.0,
) -> None:
    """Guard every SDK client that is made from now on, in this process, until `unpatch()`.

    `providers` defaults to Anthropic, OpenAI and LiteLLM ("litellm"), as far as they are installed; the
    others are asked for by name. For applications, not for libraries.
    Raises `ConfigurationError` when the SDKs are patched already or are not installed.
    """
    with _process.lock:
        if _process.patch is not None:
            raise ConfigurationError("patch() is active already; call tokencap.unpatch() first")
        resolve_policy(limit, policy, strict)
        if providers is None:
            providers = configuration().providers
        prepared = Patch.prepare(providers, _process.current)
        guard = _process.take(limit, policy, strict, wait, "tokencap.patch()")
        prepared.apply()
        _process.patch = prepared
        names = " + ".join(prepared.names)
        _process.announce(
            [f"[tokencap] patched: {names}", *(f"           {line}" for line in guard.budget_lines())], quiet
        )


def unpatch() -> None:
    """Reverse `patch()`: clients made from now on, and those made under it, are plain. Idempotent."""
    with _process.lock:
        if _process.patch is not None:
            _process.patch.revert()
            _process.patch = None


def scope(identifiers: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None) -> Scope:
    """Say whose budgets calls count on, whichever Guard makes them, inside a `with` block or a function.

    `tags` go into the `CallRecord`. A dimension that the Guard does not have is a `ConfigurationError`:
    on entering, when a process-wide Guard is active, else at the call.
    """
    return Scope(identifiers, tags, _process.check_scope)


def get_status() -> StatusResponse:
    """Return the status of the process-wide Guard. Raises `ConfigurationError` when there is none."""
    guard = _process.guard
    if guard is None or guard.closed:
        raise ConfigurationError("no Guard is active; call tokencap.wrap(), patch() or init() first")
    return guard.get_status()


def teardown() -> None:
    """Close the process-wide Guard and its backend. Its clients refuse to spend from now on. Idempotent."""
    with _process.lock:
        if _process.guard is not None and _process.guard is _process.imposed:
            return
        guard, _process.guard = _process.guard, None
        _process.taken = _process.quiet = False
    # Not under the lock: it waits for callbacks and deliveries, which may call this module.
    if guard is not None:
        try:
            guard.teardown()
        finally:
            guard.backend.close()
