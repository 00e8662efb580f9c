"""Errors carry what a program needs, and say in one sentence what a person needs."""

from __future__ import annotations

import copy
import pickle

import pytest

from tokencap import (
    Action,
    BackendError,
    BudgetExceededError,
    BudgetKey,
    BudgetState,
    CheckResult,
    ConfigurationError,
    DimensionPolicy,
    Guard,
    Policy,
    Threshold,
    TokencapError,
)
from tokencap.backends.memory import MemoryBackend


def check(used: int, reserved: int = 0, calls: int = 0, contended: bool = False) -> CheckResult:
    state = BudgetState(BudgetKey("tenant", "acme"), 50_000, used, reserved, calls)
    other = BudgetState(BudgetKey("run", "7"), 10, 1)
    return CheckResult(
        allowed=False,
        states={"tenant": state, "run": other},
        violated=["tenant"],
        need=1_200,
        contended=contended,
    )


def test_every_error_has_one_base() -> None:
    for kind in (BackendError, BudgetExceededError, ConfigurationError):
        assert issubclass(kind, TokencapError)
    assert issubclass(ConfigurationError, ValueError)
    assert not issubclass(BudgetExceededError, ValueError)


def test_a_refusal_has_the_status_of_a_bill_that_is_not_paid_so_that_nobody_repeats_it() -> None:
    # LiteLLM takes an error without a status for a server's, and DSPy then repeats the call.
    assert BudgetExceededError(check(50_000)).status_code == 402


def test_a_refusal_says_whose_budget_is_gone_and_what_the_call_needs() -> None:
    assert str(BudgetExceededError(check(50_312))) == (
        "budget exceeded (tenant=acme: 50,312 of 50,000 tokens used); "
        "this call needs about 1,200 tokens and was not sent"
    )


def test_a_refusal_below_the_limit_says_where_it_begins() -> None:
    block = Threshold(0.55, [Action("BLOCK")])
    with Guard(
        Policy({"tenant": DimensionPolicy(100, [block])}), {"tenant": "acme"}, MemoryBackend()
    ) as guard:
        with guard.call(provider="p", model="m", estimate=10) as call:
            call.settle(50)
        with pytest.raises(BudgetExceededError) as caught, guard.call(provider="p", model="m", estimate=10):
            pass
    assert str(caught.value) == (
        "budget exceeded (tenant=acme: 50 of 100 tokens used, blocked at 55 %); "
        "this call needs about 10 tokens and was not sent"
    )
    assert caught.value.check_result.blocked_at == {"tenant": 0.55}


def test_a_refusal_says_how_much_a_strict_budget_wants_for_the_reply() -> None:
    with Guard(Policy.blocking(100, strict=True), {"session": "s"}, MemoryBackend()) as guard:
        call = guard.call(provider="p", model="m", estimate=10, max_output=200)
        with pytest.raises(BudgetExceededError) as caught, call:
            pass
    assert str(caught.value) == (
        "budget exceeded (session=s: 0 of 100 tokens used); "
        "this call needs about 110 tokens, 100 of them for its reply, and was not sent"
    )


@pytest.mark.parametrize(("calls", "words"), [(1, "1 call"), (3, "3 calls")])
def test_a_refusal_by_calls_in_flight_says_so(calls: int, words: str) -> None:
    error = BudgetExceededError(check(40_000, 9_500, calls, contended=True))
    assert error.contended
    assert str(error) == (
        f"budget contended (tenant=acme: 40,000 of 50,000 tokens used, 9,500 held by {words} in flight); "
        "this call needs about 1,200 tokens and was not sent"
    )


def test_a_refusal_is_read_as_the_documentation_says() -> None:
    error = BudgetExceededError(check(50_312))
    lines = []
    for dim in error.check_result.violated:
        state = error.check_result.states[dim]
        lines.append(f"{dim} exceeded: {state.used:,} / {state.limit:,} tokens")
    assert lines == ["tenant exceeded: 50,312 / 50,000 tokens"]
    assert set(error.check_result.states) == {"tenant", "run"}


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_a_refusal_survives_the_way_between_processes(again: object) -> None:
    error = BudgetExceededError(check(50_312))
    other = again(error)  # type: ignore[operator]
    assert (other.check_result, str(other)) == (error.check_result, str(error))
