"""The two pumps: what a flow is sent, what is thrown back into it, and that no cancellation tears it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Callable

import pytest

from tokencap._flow import Flow, Ready, Step, arun, run


def step(name: str, log: list[str], error: BaseException | None = None, pause: float = 0.0) -> Step:
    """Make a step that notes how it was performed."""

    def sync() -> str:
        log.append(f"sync {name}")
        if error is not None:
            raise error
        return name

    async def coroutine() -> str:
        log.append(f"begin {name}")
        if pause:
            await asyncio.sleep(pause)
        log.append(f"end {name}")
        if error is not None:
            raise error
        return name

    return Step(sync, coroutine, ())


def by_hand(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine that has nothing to wait for, with no event loop anywhere."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waited for something")


PUMPS: dict[str, Callable[[Flow[Any]], Any]] = {
    "sync": run,
    "async": lambda flow: asyncio.run(arun(flow)),
    "without a loop": lambda flow: by_hand(arun(flow)),
}


@pytest.fixture(params=PUMPS)
def pump(request: pytest.FixtureRequest) -> Callable[[Flow[Any]], Any]:
    return PUMPS[request.param]


def test_a_flow_is_sent_what_each_step_returns(pump: Any) -> None:
    def flow() -> Flow[list[str]]:
        first = yield step("a", [])
        second = yield step("b", [])
        return [first, second]

    assert pump(flow()) == ["a", "b"]


def test_a_flow_without_steps_returns_its_value(pump: Any) -> None:
    def flow() -> Flow[int]:
        return 3
        yield

    assert pump(flow()) == 3


def test_arguments_reach_the_step(pump: Any) -> None:
    async def aadd(a: int, b: int) -> int:
        return a + b

    def flow() -> Flow[int]:
        total: int = yield Step(lambda a, b: a + b, aadd, (2, 3))
        return total

    assert pump(flow()) == 5


class OddError(BaseException):
    """Neither an Exception nor one that an event loop gives a meaning to."""


@pytest.mark.parametrize("error", [ValueError("broken"), OddError()])
def test_an_error_is_thrown_back_where_the_step_was_asked_for(pump: Any, error: BaseException) -> None:
    log: list[str] = []

    def flow() -> Flow[str]:
        try:
            yield step("a", log, error)
        except BaseException as caught:
            reply: str = yield step(f"after {type(caught).__name__}", log)
            return reply
        return "nothing"

    assert pump(flow()) == f"after {type(error).__name__}"


def test_an_error_the_flow_does_not_handle_reaches_the_caller_unchanged(pump: Any) -> None:
    error = ValueError("broken")

    def flow() -> Flow[None]:
        yield step("a", [], error)

    with pytest.raises(ValueError) as caught:
        pump(flow())
    assert caught.value is error


def test_an_error_of_the_flow_itself_reaches_the_caller(pump: Any) -> None:
    def flow() -> Flow[None]:
        yield step("a", [])
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        pump(flow())


def three(log: list[str], ending: BaseException | None = None) -> Flow[str]:
    for name in "abc":
        yield step(name, log, pause=0.01)
    log.append("flow ended")
    if ending is not None:
        raise ending
    return "done"


WHOLE = ["begin a", "end a", "begin b", "end b", "begin c", "end c", "flow ended"]


@pytest.mark.parametrize("seen", ["begin a", "end a", "begin b", "end b", "begin c", "end c"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_cancellation_at_any_step_is_delivered_when_the_flow_has_ended(seen: str, times: int) -> None:
    log: list[str] = []

    async def main() -> None:
        task = asyncio.ensure_future(arun(three(log)))
        while seen not in log:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert log == WHOLE


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio makes another error of it")
def test_a_cancellation_is_delivered_even_when_the_flow_ends_in_an_error() -> None:
    # Or a time-out would go unnoticed by whoever set it, because a budget was exceeded meanwhile.
    log: list[str] = []
    error = LookupError("refused")

    async def main() -> BaseException:
        task = asyncio.ensure_future(arun(three(log, error)))
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value

    assert asyncio.run(main()).__cause__ is error
    assert log == WHOLE


def cancel(flow: Flow[Any], after: float = 0.0) -> None:
    """Drive a flow in a task that is cancelled, and expect that it ends so."""

    async def main() -> None:
        task = asyncio.ensure_future(arun(flow))
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_cancellation_and_a_failing_step_leave_both_their_marks() -> None:
    log: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield step("a", log, ValueError("broken"), pause=0.01)
        except ValueError:
            log.append("thrown back")

    cancel(flow())
    assert log == ["begin a", "end a", "thrown back"]


def test_a_step_that_cancels_itself_is_thrown_back_as_any_error() -> None:
    log: list[str] = []

    def flow() -> Flow[str]:
        try:
            yield step("a", log, asyncio.CancelledError())
        except asyncio.CancelledError:
            return "released"
        return "nothing"

    assert asyncio.run(arun(flow())) == "released"


def test_a_cancellation_that_came_before_a_wait_is_delivered_at_the_wait() -> None:
    log: list[str] = []

    def flow() -> Flow[None]:
        yield step("a", log, pause=0.01)
        try:
            yield step("wait", log, pause=60)._replace(cancellable=True)
        finally:
            log.append("left")

    cancel(flow())
    assert log == ["begin a", "end a", "left"]


def test_an_answer_that_is_there_takes_no_turn_of_the_event_loop() -> None:
    turns: list[str] = []

    def flow() -> Flow[int]:
        first: int = yield Step(int, lambda: Ready(1), ())
        second: int = yield Step(int, lambda: Ready(2), ())
        return first + second

    async def main() -> int:
        asyncio.get_running_loop().call_soon(turns.append, "turn")
        result = await arun(flow())
        assert await Ready(result) == result
        assert turns == []
        return result

    assert asyncio.run(main()) == 3


def test_a_wait_is_cut_short_by_a_cancellation() -> None:
    log: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield step("wait", log, pause=60)._replace(cancellable=True)
        finally:
            log.append("left")

    cancel(flow(), after=0.005)
    assert log == ["begin wait", "left"]


def test_context_variables_of_the_caller_are_seen_by_the_step() -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")

    async def read() -> str:
        return variable.get()

    def flow() -> Flow[str]:
        reply: str = yield Step(variable.get, read, ())
        return reply

    async def main() -> str:
        variable.set("mine")
        found: str = await arun(flow())
        return found

    assert asyncio.run(main()) == "mine"
