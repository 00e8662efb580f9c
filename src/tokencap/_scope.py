"""Who is calling: the identifiers and tags of the calls made in this task or thread.

Scopes are kept in a context variable, so asyncio tasks and threads started with a copied context
inherit them, and nothing that runs beside them sees them.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Awaitable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Callable, NamedTuple, TypeVar, cast

from .errors import ConfigurationError

__all__ = ["Caller", "Scope", "caller", "check_pairs", "owners"]

F = TypeVar("F", bound=Callable[..., Any])

_entered: contextvars.ContextVar[tuple[Scope, ...]] = contextvars.ContextVar("tokencap_scopes", default=())


def check_pairs(value: Mapping[str, str] | None, what: str, example: str) -> dict[str, str]:
    """Return a copy of a mapping of names to non-empty strings, each of them a `what`; nothing for None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what}s is {value!r}; it must be a mapping like {example}")
    for name, item in value.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{what}s has the name {name!r}; names are non-empty strings")
        if not isinstance(item, str) or not item:
            raise ConfigurationError(f"the {what} of {name!r} is {item!r}; it must be a non-empty string")
    return dict(value)


class Scope:
    """Says who makes the calls inside of it: a `with` block, or a function it decorates.

    Scopes inside of each other add up, and the innermost wins. One object may be entered many times, by
    many tasks at once. A decorated generator is in the scope while it runs and its consumer is not; a
    `with` block in a generator holds until it is left, for its consumer too (so it works in a
    `contextlib.contextmanager`).
    """

    def __init__(
        self,
        identifiers: Mapping[str, str] | None,
        tags: Mapping[str, str] | None,
        check: Callable[[Collection[str]], object],
        owner: object = None,
    ) -> None:
        self.identifiers = check_pairs(identifiers, "identifier", "{'tenant': 'acme'}")
        self.tags = check_pairs(tags, "tag", "{'agent': 'researcher'}")
        self.owner = owner
        """The Guard whose calls it is about; None: those of every Guard."""
        self._check = check

    def __enter__(self) -> None:
        self._check(self.identifiers)
        _entered.set((*_entered.get(), self))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # By what is there and not by a token: an async generator may be closed in another context, and
        # two generators may leave their scopes in the order they came.
        scopes = _entered.get()
        for place in reversed(range(len(scopes))):
            if scopes[place] is self:
                _entered.set(scopes[:place] + scopes[place + 1 :])
                return

    def __call__(self, function: F) -> F:
        """Return `function` (plain, async, a generator or an async one), run inside of this scope."""
        if not callable(function) or inspect.isclass(function):
            raise ConfigurationError(f"a scope decorates functions; it was given {function!r}")
        made = self._decorated(function)
        return cast("F", functools.wraps(function)(made))

    def _decorated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(function):
            return _asteps(self, function)
        if inspect.isgeneratorfunction(function):
            return _steps(self, function)
        if inspect.iscoroutinefunction(function):

            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return coroutine

        async def awaited(made: Awaitable[Any]) -> Any:
            with self:
                return await made

        def plain(*args: Any, **kwargs: Any) -> Any:
            with self:
                made = function(*args, **kwargs)
            # A function that does not show that it is async: below another decorator, or an object to call.
            return awaited(made) if inspect.iscoroutine(made) else made

        return plain

    def checked(self) -> Scope:
        """Return this scope, checked now and not again at each step of a generator."""
        self._check(self.identifiers)
        return Scope(self.identifiers, self.tags, len, self.owner)


def _steps(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    def generator(*args: Any, **kwargs: Any) -> Any:
        inside, source = scope.checked(), function(*args, **kwargs)
        step, value = source.send, None
        try:
            while True:
                with inside:
                    try:
                        item = step(value)
                    except StopIteration as stop:
                        return stop.value
                try:
                    step, value = source.send, (yield item)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step, value = source.throw, error
        finally:
            with inside:
                source.close()

    return generator


def _asteps(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    async def generator(*args: Any, **kwargs: Any) -> Any:
        inside, source = scope.checked(), function(*args, **kwargs)
        step, value = source.asend, None
        try:
            while True:
                with inside:
                    try:
                        item = await step(value)
                    except StopAsyncIteration:
                        return
                try:
                    step, value = source.asend, (yield item)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step, value = source.athrow, error
        finally:
            with inside:
                await source.aclose()

    return generator


class Caller(NamedTuple):
    """What the scopes entered here say of a call."""

    identifiers: Mapping[str, str]
    tags: Mapping[str, str]


_NOBODY = Caller({}, {})


def owners() -> list[object]:
    """Return the Guards whose scopes were entered here, the innermost first."""
    return [scope.owner for scope in reversed(_entered.get()) if scope.owner is not None]


def caller(lineage: Iterable[object], tags: Mapping[str, str]) -> Caller:
    """Return who makes a call of a Guard here and now, by the scopes of it and of those around it.

    `tags` are what is said of it already.
    """
    scopes = _entered.get()
    if not scopes:
        return Caller({}, tags) if tags else _NOBODY
    guards = list(lineage)
    identifiers: dict[str, str] = {}
    tags = dict(tags)
    for scope in scopes:
        if scope.owner is None or scope.owner in guards:
            identifiers.update(scope.identifiers)
            tags.update(scope.tags)
    return Caller(identifiers, tags)
