"""What a status says of the budgets it was built from."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tokencap import Action, BudgetKey, BudgetState, DimensionPolicy, Policy, Threshold
from tokencap._plans import Plans
from tokencap.budget import UNLIMITED
from tokencap.status import build_status


def thresholds(*shares: float) -> list[Threshold]:
    warn = Action("WARN", callback=print)
    return [Threshold(share, [warn]) for share in shares]


def status_of(policies: dict[str, DimensionPolicy], **used: int) -> Any:
    plan = Plans(Policy(policies, name="mine"), dict.fromkeys(policies, "x")).of({})
    states = [BudgetState(b.key, b.limit, used.get(b.key.dimension, 0)) for b in plan.budgets]
    return build_status(plan, states)


def test_a_state_is_formatted_as_the_documentation_says() -> None:
    state = BudgetState(BudgetKey("session", "s"), 50_000, 31_200)
    assert (
        f"{state.used:,} / {state.limit:,} tokens ({state.pct_used:.1%})" == "31,200 / 50,000 tokens (62.4%)"
    )
    over = state._replace(used=51_200)
    assert f"{over.used:,} / {over.limit:,} tokens ({over.pct_used:.1%})" == "51,200 / 50,000 tokens (102.4%)"


def test_what_calls_in_flight_hold_is_beside_what_is_used() -> None:
    state = BudgetState(BudgetKey("session", "s"), 1_000, 600, reserved=150, calls=2)
    assert (state.used, state.reserved, state.calls, state.remaining, state.pct_used) == (
        600,
        150,
        2,
        250,
        0.6,
    )


def test_remaining_is_negative_once_over() -> None:
    assert BudgetState(BudgetKey("session", "s"), 1_000, 1_100, reserved=50).remaining == -150


def test_a_dimension_that_is_only_tracked_has_no_threshold_ahead() -> None:
    status = status_of({"session": DimensionPolicy()}, session=312)
    state = status.dimensions["session"]
    assert (state.used, state.limit, state.unlimited) == (312, UNLIMITED, True)
    assert state.remaining > 10**15
    assert f"{state.pct_used:.1%}" == "0.0%"
    assert status.next_threshold is None


@pytest.mark.parametrize(
    ("used", "expected"),
    [(0, (0.5, 500)), (499, (0.5, 500)), (500, (0.8, 800)), (800, (1.0, 1000)), (1000, None), (4000, None)],
)
def test_the_next_threshold_is_the_first_not_reached(used: int, expected: Any) -> None:
    found = status_of(
        {"s": DimensionPolicy(limit=1_000, thresholds=thresholds(1.0, 0.5, 0.8))}, s=used
    ).next_threshold
    assert (found and (found.at_pct, found.triggers_at_tokens)) == expected


def test_the_next_threshold_is_the_one_with_the_fewest_tokens_to_go() -> None:
    policies = {
        "far": DimensionPolicy(limit=1_000_000, thresholds=thresholds(0.1)),
        "near": DimensionPolicy(limit=1_000, thresholds=thresholds(0.9)),
    }
    found = status_of(policies, far=99_000, near=200).next_threshold
    assert (found.dimension, found.action_kinds, found.triggers_at_tokens) == ("near", ["WARN"], 900)
    assert status_of(policies, far=99_990, near=200).next_threshold.dimension == "far"


def test_a_share_that_is_no_whole_number_of_tokens_is_reached_by_the_next_one() -> None:
    policy = {"s": DimensionPolicy(limit=10, thresholds=thresholds(0.25))}
    assert status_of(policy, s=2).next_threshold.triggers_at_tokens == 3
    assert status_of(policy, s=3).next_threshold is None


def test_the_rest_of_a_status() -> None:
    status = status_of({"a": DimensionPolicy(), "b": DimensionPolicy(limit=3)})
    moment = datetime.fromisoformat(status.timestamp)
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - moment) < timedelta(seconds=10)
    assert list(status.dimensions) == ["a", "b"]
    assert status.active_policy == "mine"
