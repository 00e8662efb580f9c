"""Guard: a policy, whose budgets they are, and where they are kept."""

# A subclass (Azure) is listed before its base to keep its own type.
# mypy: disable-error-code="overload-overlap"
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import atexit
import inspect
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ._audit import GRANT, LIMIT, RESET
from ._call import Call, Prompt
from ._flow import run
from ._plans import Plans
from ._runtime import Runtime
from ._scope import Scope, check_pairs
from ._tree import child_of, child_policy
from .backends.aio import Threads
from .backends.protocol import Backend
from .backends.sqlite import SQLiteBackend
from .budget import BudgetKey
from .clients.family import family_of, owner_of
from .errors import ConfigurationError
from .ledger import make_change
from .ledger import open as open_ledger
from .policy import DimensionPolicy, Policy, Provider, check_count, check_flag, resolve_policy
from .status import StatusResponse
from .telemetry.otel import Otel, observer

if TYPE_CHECKING:
    import openai
    from typing_extensions import Self

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
    from ._usage import Moment, Usage, Where
    from .ledger import RecordedCall
    from .telemetry.record import CallHook

__all__ = ["Guard"]

C = TypeVar("C")

LEASE_SECONDS = 60.0
_SHOWN = 64
_DAY = 86_400.0


class Guard:
    """Counts what its clients spend against the budgets of a policy, and enforces it.

    `identifiers` says whose budget each dimension is (`{"tenant": "acme"}`); a dimension that is
    left out gets a random one, so a budget of this Guard alone, unless the policy says `required`. A
    `scope` says it for the calls inside of it. Several Guards may share a backend.
    `wait` is how many seconds a call waits when only the holds of other calls stand in its way (0: it
    is refused at once). `on_backend_error` is what happens while the store fails: "block" raises
    `BackendError` and makes no call; "allow" makes the call and books it when the store is back.
    `lease_seconds` is how long the hold of a process that died is kept. `ledger=False` keeps no record
    of the calls (see `usage`); `otel` says what OpenTelemetry is told beyond the defaults.

    A Guard is closed with `teardown()` or by leaving a `with` block; its clients then raise
    `ConfigurationError` rather than spend unguarded.
    """

    def __init__(
        self,
        policy: Policy,
        identifiers: Mapping[str, str] | None = None,
        backend: Backend | None = None,
        otel_enabled: bool = True,
        *,
        wait: float = 0.0,
        on_backend_error: str = "block",
        lease_seconds: float = LEASE_SECONDS,
        ledger: bool = True,
        otel: Otel | None = None,
    ) -> None:
        if not isinstance(policy, Policy):
            raise ConfigurationError(f"policy is {policy!r}; it must be a tokencap.Policy")
        self.policy = policy
        self.identifiers: dict[str, str] = _check_identifiers(policy, identifiers)
        """Whose budgets the calls outside of every scope count on."""
        # A class has the methods too, and is usually one that somebody forgot to call.
        if backend is not None and (isinstance(backend, type) or not isinstance(backend, Backend)):
            raise ConfigurationError(
                f"backend is {backend!r}; it must have the methods of tokencap.backends.protocol.Backend "
                "(SQLiteBackend, RedisBackend or your own)"
            )
        check_flag(otel_enabled, "otel_enabled")
        check_flag(ledger, "ledger")
        if otel is not None and not isinstance(otel, Otel):
            raise ConfigurationError(f"otel is {otel!r}; it must be a tokencap.Otel")
        _check_seconds(lease_seconds, "lease_seconds", 0.1)
        _check_seconds(wait, "wait", 0.0)
        if on_backend_error not in ("block", "allow"):
            raise ConfigurationError(
                f"on_backend_error is {on_backend_error!r}; accepted are 'block', 'allow'"
            )
        self.name = ""
        """Of a child: its path, `researcher/reader`."""
        self._owns_backend = backend is None
        self.backend: Backend = SQLiteBackend() if backend is None else backend
        self.runtime = Runtime(
            Plans(policy, self.identifiers),
            self.backend,
            observer(otel) if otel_enabled else None,
            lease=float(lease_seconds),
            wait=float(wait),
            on_backend_error=on_backend_error,
            ledger=ledger,
        )
        self._children: weakref.WeakSet[Guard] = weakref.WeakSet()
        self._closed = False
        _open_guards.add(self)

    @property
    def closed(self) -> bool:
        """True after `teardown()`."""
        return self._closed

    @overload
    def wrap(self, client: AnAnthropic) -> GuardedAnthropic: ...
    @overload
    def wrap(self, client: AnAsyncAnthropic) -> GuardedAsyncAnthropic: ...
    @overload
    def wrap(self, client: AnAzureOpenAI) -> openai.AzureOpenAI: ...
    @overload
    def wrap(self, client: AnAsyncAzureOpenAI) -> openai.AsyncAzureOpenAI: ...
    @overload
    def wrap(self, client: AnOpenAI) -> GuardedOpenAI: ...
    @overload
    def wrap(self, client: AnAsyncOpenAI) -> GuardedAsyncOpenAI: ...
    @overload
    def wrap(self, client: C) -> C: ...
    def wrap(self, client: Any) -> Any:
        """Return a guarded copy of a client of a supported SDK; the one given stays as it is.

        The copy has the same class and shares the connections, and it has `get_status()`. A client
        that this Guard guards already is returned as it is. Raises `ConfigurationError`.
        """
        self._check_open()
        family = family_of(client)
        return client if self._guards(client) else family.copy(client, self._owner)

    @overload
    def wrap_anthropic(self, client: AnAnthropic) -> GuardedAnthropic: ...
    @overload
    def wrap_anthropic(self, client: AnAsyncAnthropic) -> GuardedAsyncAnthropic: ...
    @overload
    def wrap_anthropic(self, client: C) -> C: ...
    def wrap_anthropic(self, client: Any) -> Any:
        """Return a guarded copy of a client of the anthropic SDK."""
        return self._wrap_of(Provider.ANTHROPIC, client)

    @overload
    def wrap_openai(self, client: AnAzureOpenAI) -> openai.AzureOpenAI: ...
    @overload
    def wrap_openai(self, client: AnAsyncAzureOpenAI) -> openai.AsyncAzureOpenAI: ...
    @overload
    def wrap_openai(self, client: AnOpenAI) -> GuardedOpenAI: ...
    @overload
    def wrap_openai(self, client: AnAsyncOpenAI) -> GuardedAsyncOpenAI: ...
    @overload
    def wrap_openai(self, client: C) -> C: ...
    def wrap_openai(self, client: Any) -> Any:
        """Return a guarded copy of a client of the openai SDK."""
        return self._wrap_of(Provider.OPENAI, client)

    def _wrap_of(self, provider: Provider, client: Any) -> Any:
        found = family_of(client).provider
        if found is not provider:
            raise ConfigurationError(f"this is a client of the {found} SDK; use wrap_{found}() or wrap()")
        return self.wrap(client)

    def _guards(self, client: Any) -> bool:
        owner = owner_of(client)
        try:
            return owner is not None and owner() is self
        except ConfigurationError:
            return False

    def _owner(self) -> Guard:
        self._check_open()
        return self

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError(
                "this Guard was closed by teardown(); its clients make no unguarded calls. "
                "Wrap the client again with a new Guard"
            )

    def call(
        self, *, provider: Provider | str, model: str, estimate: Prompt, max_output: int | None = None
    ) -> Call:
        """Guard a call that no seam reaches: `with guard.call(...) as call:` (or `async with`).

        `estimate` is the size of the prompt in tokens, or the prompt (text, messages) or the request itself,
        which is then estimated. `max_output` is the output cap in tokens, which a strict budget holds too
        and may lower. Send `call.model` and `call.max_output`, then say `call.settle(usage)`. `provider` may
        be any name: it is what records, metrics and a `degrade_to` mapping know the call by. See `Call` for
        what is charged when. Raises `ConfigurationError`.
        """
        self._check_open()
        return Call(self.runtime, provider, model, estimate, max_output)

    def get_status(self) -> StatusResponse:
        """Return the state of every budget that a call made here would count on.

        A required dimension is left out where nobody says whose budget it is. Raises `BackendError` when
        the store fails.
        """
        self._check_open()
        plan = self.runtime.plan_here()
        return self.runtime.status(plan, run(self.runtime.states(plan)))

    def scope(
        self, identifiers: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None
    ) -> Scope:
        """Say whose budgets the calls of this Guard count on inside a `with` block or a decorated function.

        `tags` go into the `CallRecord`. Entering it raises `ConfigurationError` for a dimension that the
        policy does not have.
        """
        return Scope(identifiers, tags, self.runtime.plans.check, self.runtime)

    def child(
        self,
        name: str,
        limit: int | None = None,
        *,
        policy: Policy | None = None,
        identifiers: Mapping[str, str] | None = None,
        strict: bool = False,
    ) -> Guard:
        """Return a Guard inside this one: its calls count on the budgets of both, in one step.

        `limit` makes one dimension of its name (of its path, for a child of a child), blocked at 100 %; the
        dimensions of a `policy` are called `name/dimension`; without either it is only counted. Whose those
        budgets are is made up unless `identifiers` says so. A child made inside a scope stays in it, and
        inside `with child.scope():` the calls of its parent's clients are the child's.
        """
        self._check_open()
        short = policy is None
        own = resolve_policy(limit, policy, strict)
        outer, who = self.runtime.plans, self.runtime.caller()
        outer.check(who.identifiers)
        path = child_of(self.name, name)
        named, given = child_policy(path, own, identifiers, outer.dimensions, short)
        child = object.__new__(type(self))
        child.name, child.policy, child.backend = path, named, self.backend
        child.identifiers = {
            **outer.identifiers,
            **who.identifiers,
            **_check_identifiers(named, given),
        }
        child.runtime = self.runtime.sprout(name, Plans(named, child.identifiers, outer), who.tags)
        child._owns_backend = child._closed = False
        child._children = weakref.WeakSet()
        self._children.add(child)
        return child

    def usage(
        self,
        by: str | Sequence[str] | None = None,
        *,
        since: Moment = None,
        until: Moment = None,
        where: Where | None = None,
    ) -> Usage:
        """Sum up the calls in the ledger of the store, those of other Guards included: see `Ledger`."""
        self._check_open()
        run(self.runtime.settle_due())
        return open_ledger(self.backend).usage(by, since=since, until=until, where=where)

    def calls(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        where: Where | None = None,
        newest_first: bool = False,
    ) -> Iterator[RecordedCall]:
        """Iterate the single calls in the ledger of the store: see `Ledger`."""
        self._check_open()
        run(self.runtime.settle_due())
        found = open_ledger(self.backend).calls
        return found(since=since, until=until, where=where, newest_first=newest_first)

    def set_limit(self, dimension: str, limit: int | None, identifier: str | None = None) -> None:
        """Change the limit of a budget for every process from its next call on; None: as the policy says.

        Without `identifier` it is the budget that a call made here would count on.
        """
        if limit is not None:
            check_count(limit, "limit")
        self._change(self._key(dimension, identifier), LIMIT, limit)

    def grant(self, dimension: str, identifier: str, tokens: int) -> None:
        """Raise the limit of `identifier` by so many tokens, in every process, until its window ends.

        A budget without windows has them until it is reset.
        """
        check_count(tokens, "tokens")
        self._change(self._key(dimension, identifier), GRANT, tokens)

    def reset(self, dimension: str, identifier: str | None = None) -> None:
        """Start a budget anew: nothing used, nothing held, every threshold ahead."""
        self._change(self._key(dimension, identifier), RESET, None)

    def _change(self, key: BudgetKey, action: str, tokens: int | None) -> None:
        period = self.runtime.plans.dimensions[key.dimension][0].period
        make_change(self.backend, key, action, tokens, period)

    def _key(self, dimension: str, identifier: str | None) -> BudgetKey:
        self._check_open()
        if dimension not in self.runtime.plans.dimensions:
            known = ", ".join(map(repr, self.runtime.plans.dimensions))
            raise ConfigurationError(f"there is no dimension {dimension!r} in the policy; there is {known}")
        if identifier is None:
            identifier = self.runtime.caller().identifiers.get(dimension) or self.identifiers.get(dimension)
            if identifier is None:
                raise ConfigurationError(
                    f"whose {dimension!r} is meant? Say identifier=, or ask inside a scope that does"
                )
        check_pairs({dimension: identifier}, "identifier", "")
        return BudgetKey(dimension, identifier)

    def on_call(self, hook: CallHook) -> None:
        """Have `hook(record)` called with the `CallRecord` of every call that has ended.

        It runs in the thread or event loop that ends the call; what it raises is logged.
        """
        self._check_open()
        if not callable(hook) or inspect.iscoroutinefunction(hook):
            raise ConfigurationError(f"on_call was given {hook!r}; it takes a function that is not async")
        self.runtime.hooks.append(hook)

    def teardown(self) -> None:
        """Settle what is open, close the children, deliver the webhooks queued, release the store.

        Idempotent. A child only settles what is its own: the rest is its parent's.
        """
        if self._closed:
            return
        self._closed = self.runtime.closed = True
        _open_guards.discard(self)
        for child in list(self._children):
            child.teardown()
        if self.runtime.parent is not None:
            self.runtime.keeper.close_calls(self.runtime)
            self.runtime.branch.close()
            return
        try:
            self.runtime.keeper.close()
            self.runtime.webhooks.flush()
        finally:
            if self.runtime.observer is not None:
                self.runtime.observer.close()
            if self._owns_backend:
                self.backend.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.teardown()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Open calls are settled and webhooks delivered, which may take seconds that an event loop has not.
        threads = Threads(1)
        try:
            await threads.run(self.teardown)
        finally:
            threads.close()

    def startup_lines(self) -> list[str]:
        """Return what is printed when a session starts: one line a dimension."""
        where = f"backend={self.backend.name}"
        return [
            f"[tokencap] session started: {name}={self.shown(name)} {where} {self.limit_of(name)}"
            for name in self.policy.dimensions
        ]

    def budget_lines(self) -> list[str]:
        """Return the same without a session to name: where, and how much of each dimension."""
        first, *others = self.policy.dimensions
        if not others:
            return [f"backend={self.backend.name} {self.limit_of(first)}"]
        named = [f"{name}={self.shown(name)} {self.limit_of(name)}" for name in self.policy.dimensions]
        return [f"backend={self.backend.name}", *named]

    def shown(self, dimension: str) -> str:
        """Return an identifier as it is printed, on one line: a generated one by its first 8 characters."""
        identifier = self.identifiers.get(dimension)
        if identifier is None:
            return "(said by scopes)"
        if isinstance(identifier, _Generated):
            return identifier[:8]
        shown = identifier if identifier.isprintable() else ascii(identifier)
        return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."

    def limit_of(self, dimension: str) -> str:
        """Return how the limit of a dimension is printed, saying so when nothing will block."""
        policy = self.policy.dimensions[dimension]
        if policy.limit is None:
            return "(no limit set)"
        blocks = "" if policy.block_at is not None else " (no BLOCK action: never blocked)"
        if not self.policy.enforce:
            blocks = " (observe only)"
        limit = policy.limit
        if callable(limit):
            return f"limit=(by function){_per(policy)}{blocks}"
        if isinstance(limit, Mapping):
            others = len(limit) - 1
            limit = limit["*"]
            blocks = f" ({others} with their own){blocks}" if others else blocks
        return f"limit={limit} tokens{_per(policy)}{blocks}"


def _per(policy: DimensionPolicy) -> str:
    if policy.window is not None:
        return f" in any {policy.window}"
    return "" if policy.reset_every is None else f" per {policy.reset_every}"


def _check_seconds(value: object, name: str, least: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Threads cannot sleep for longer than a few centuries, and nobody means to.
    if not number or not least <= value <= _DAY:  # type: ignore[operator]
        raise ConfigurationError(
            f"{name} is {value!r}; it must be a number of seconds, at least {least:g} and at most a day"
        )


class _Generated(str):
    """An identifier made up by us."""

    __slots__ = ()


def _check_identifiers(policy: Policy, identifiers: Mapping[str, str] | None) -> dict[str, str]:
    given = check_pairs(identifiers, "identifier", "{'tenant': 'acme'}")
    Plans(policy, {}).check(given)
    return {
        name: given.get(name) or _Generated(uuid.uuid4())
        for name, one in policy.dimensions.items()
        if name in given or not one.required
    }


_open_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _close_all() -> None:
    for guard in list(_open_guards):
        guard.teardown()


atexit.register(_close_all)
