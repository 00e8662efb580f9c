"""A call made by hand, for whatever no seam reaches: a websocket, a library with HTTP of its own.

The same session and the same pumps as a call caught in an SDK; only who observes is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Union

from ._flow import Flow, arun, run
from ._session import CallSession, Ending
from .budget import UNLIMITED
from .errors import ConfigurationError
from .policy import Provider, check_count
from .providers import PROVIDERS
from .providers.dialect import Dialect, Endpoint, Tally, get
from .providers.measure import Size
from .usage import TokenUsage

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._runtime import Runtime

__all__ = ["Call", "Prompt"]

Prompt = Union[int, str, Mapping[str, Any], Sequence[Any]]
"""How large a prompt is, in tokens; or the prompt itself, or the whole request, to be estimated."""

_COUNTS = ("input_tokens", "prompt_tokens", "output_tokens", "completion_tokens", "total_tokens")


class Call:
    """One call made by hand: a `with` or `async with` block around it, made by `Guard.call()`.

    Entering the block is the admission: `BudgetExceededError` when the budget is gone, `BackendError`
    when the store failed; nothing may be sent then. Leaving it books the call, once, on every way out:

    - after `settle(usage)`: what was reported, also when the block raised afterwards;
    - after `release()`: nothing;
    - otherwise, by an exception or without one: the estimate. Whether a call that failed was billed is
      known only to whoever made it; call `release()` when it was not (the connection was never made, the
      provider answered with an error).
    """

    def __init__(
        self, runtime: Runtime, provider: Provider | str, model: str, estimate: Prompt, max_output: int | None
    ) -> None:
        name = _provider(provider)
        if not isinstance(model, str) or not model:
            raise ConfigurationError(f"model is {model!r}; it must be a non-empty string")
        body: dict[str, Any] = {"model": model, "request": _request(estimate)}
        if max_output is not None:
            body["max_output"] = check_count(max_output, "max_output")
        self._tally_of: Callable[[], Tally] = Tally
        if isinstance(name, Provider):
            self._tally_of = PROVIDERS[name].ENDPOINTS[0].dialect.tally
        self._session = CallSession(runtime, name, _BY_HAND, body)
        self._entered = self._released = False
        self._max_output = _BY_HAND.dialect.output_cap(body)

    @property
    def model(self) -> str:
        """The model to call: the one asked for, or the cheaper one that a DEGRADE threshold names."""
        return self._session.model

    @property
    def max_output(self) -> int | None:
        """Under a strict budget, the output cap (tokens) to send with the request; else as it was given."""
        return self._max_output

    def settle(self, usage: TokenUsage | int | object) -> None:
        """Say what the call took; it is booked when the block is left.

        `usage` is a `TokenUsage`, the provider's own usage object (a model or a dict), or a total in
        tokens. None is for a reply that reported nothing: the estimate stands. Of several reports the last
        one counts, as for a cumulative count. Raises `ConfigurationError` for what holds no token counts.
        """
        if usage is not None:
            self._session.tally.usage = self._read(usage)

    def release(self) -> None:
        """Say that the call was not billed. What was reported to `settle()` is charged all the same."""
        self._released = True

    def _read(self, usage: Any) -> TokenUsage:
        if isinstance(usage, TokenUsage):
            if all(map(_counts, usage)):
                return usage
        elif _counts(usage):
            given = min(usage, self._session.estimate)
            return TokenUsage(given, usage - given)
        else:
            found = self._tally_of().usage_of(usage)
            if found is not None or any(isinstance(get(usage, name), int) for name in _COUNTS):
                return found or TokenUsage()
        raise ConfigurationError(
            f"usage is {usage!r}; it must be a TokenUsage, the usage object of the provider "
            f"(with {' or '.join(map(repr, _COUNTS[:2]))} ...), or a total; of 0 to 2**53 - 1 tokens"
        )

    def _begin(self) -> Flow[None]:
        changes = yield from self._session.begin()
        self._max_output = changes.get("max_output", self._max_output)

    def _enter(self) -> None:
        if self._entered:
            raise ConfigurationError("a call is made once; ask guard.call() for another")
        self._entered = True

    def _end(self, error: BaseException | None) -> Flow[None]:
        ending = Ending.OK
        if error is not None:
            ending = Ending.FAILED if isinstance(error, Exception) else Ending.CANCELLED
        if self._session.tally.usage is not None:
            return self._session.settle(ending)
        return self._session.release(ending, billed=not self._released)

    def __enter__(self) -> Self:
        self._enter()
        try:
            run(self._begin())
        except BaseException:
            run(self._session.release(Ending.CANCELLED))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self._end(error))

    async def __aenter__(self) -> Self:
        self._enter()
        try:
            await arun(self._begin())
        except BaseException:
            await arun(self._session.release(Ending.CANCELLED))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await arun(self._end(error))


class _ByHandDialect(Dialect):
    """What the caller says of a call: a number of tokens, or a request to be measured."""

    def size(self, body: Mapping[str, Any], count: Callable[[str], int] | None = None) -> Size:
        request = body["request"]
        return Size(request, request) if isinstance(request, int) else super().size(request, count)

    def output_cap(self, body: Mapping[str, Any]) -> int | None:
        return body.get("max_output") or super().output_cap(_fields(body))

    def cap_output(self, body: Mapping[str, Any], cap: int) -> dict[str, Any]:  # noqa: ARG002
        return {"max_output": cap}

    def choices(self, body: Mapping[str, Any]) -> int:
        return super().choices(_fields(body))

    def unbounded(self, body: Mapping[str, Any]) -> str | None:
        return super().unbounded(_fields(body))

    def history(self, body: Mapping[str, Any]) -> str | None:
        return super().history(_fields(body))


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= UNLIMITED


def _fields(body: Mapping[str, Any]) -> Mapping[str, Any]:
    request = body["request"]
    return request if isinstance(request, Mapping) else {}


_BY_HAND = Endpoint("by hand", _ByHandDialect())


def _provider(value: Provider | str) -> Provider | str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(
            f"provider is {value!r}; it must be a Provider or the name of another one, a non-empty string"
        )
    try:
        return Provider(value)
    except ValueError:
        return value


def _request(estimate: Prompt) -> int | Mapping[str, Any]:
    if isinstance(estimate, Mapping):
        return estimate
    if isinstance(estimate, (str, Sequence)) and not isinstance(estimate, (bytes, bytearray)):
        return {"prompt": estimate}
    if not isinstance(estimate, int):
        raise ConfigurationError(
            f"estimate is {estimate!r}; it must be the prompt (a text or messages), the whole request, or a "
            "number of tokens"
        )
    return check_count(estimate, "estimate")
