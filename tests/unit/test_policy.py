"""Policies are checked once, where they are written, and say what would be accepted."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import time, timedelta
from typing import Any

import pytest

from tokencap import (
    Action,
    ActionKind,
    ConfigurationError,
    DimensionPolicy,
    Policy,
    Provider,
    ResetPeriod,
    Threshold,
    TokencapError,
)
from tokencap._degrade import cheaper, degraded
from tokencap._periods import calendar, rolling
from tokencap._plan import Plan
from tokencap._plans import Plans
from tokencap.budget import UNLIMITED, BudgetKey, BudgetState

BLOCK = Action(kind="BLOCK")
CLAUDE, GPT = Provider.ANTHROPIC, Provider.OPENAI


def ignore(status: Any) -> None:
    pass


def refused(make: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make(*args, **kwargs)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TokencapError)
    return str(caught.value)


@pytest.mark.parametrize("limit", [0, -1, -50_000])
def test_a_limit_below_one_token_is_refused_with_the_number(limit: int) -> None:
    message = refused(DimensionPolicy, limit=limit)
    assert f"limit is {limit:,}" in message
    assert "at least 1" in message


@pytest.mark.parametrize("limit", [50_000.0, 0.5, True, False, "50000", b"1", [1], float("nan")])
def test_a_limit_that_is_no_int_is_refused_with_what_it_was(limit: Any) -> None:
    message = refused(DimensionPolicy, limit=limit)
    assert repr(limit) in message
    assert "a whole number of tokens" in message


@pytest.mark.parametrize("flag", ["false", "yes", 0, 1, None])
def test_a_flag_is_true_or_false(flag: Any) -> None:
    """`os.environ.get("STRICT", "false")` is true."""
    for name in ("strict", "required"):
        flags: Any = {name: flag}
        assert f"{name} is {flag!r}; it must be True or False" in refused(DimensionPolicy, limit=5, **flags)
    assert f"enforce is {flag!r}" in refused(Policy, {"session": DimensionPolicy()}, enforce=flag)
    assert f"strict is {flag!r}" in refused(Policy.blocking, 5, flag)


def test_a_limit_no_store_can_count_is_refused() -> None:
    assert "below 9,007,199,254,740,991" in refused(DimensionPolicy, limit=UNLIMITED)
    assert DimensionPolicy(limit=UNLIMITED - 1).limit == UNLIMITED - 1


@pytest.mark.parametrize(
    "at_pct",
    [
        0,
        0.0,
        -0.1,
        1.01,
        80,
        float("nan"),
        float("inf"),
        float("-inf"),
        "0.8",
        None,
        True,
        False,
        10**400,
        1j,
    ],
)
def test_at_pct_outside_of_its_range_is_refused_with_an_example(at_pct: Any) -> None:
    message = refused(Threshold, at_pct=at_pct, actions=[BLOCK])
    assert f"at_pct is {at_pct!r}" in message
    assert "above 0 and at most 1 (0.8 is 80 %)" in message


@pytest.mark.parametrize("at_pct", [1, 1.0, 0.8, 1e-9])
def test_at_pct_within_its_range_is_kept_as_a_float(at_pct: Any) -> None:
    kept = Threshold(at_pct=at_pct, actions=[BLOCK]).at_pct
    assert (kept, type(kept)) == (at_pct, float)


@pytest.mark.parametrize("kind", ["warn", "KILL", "", None, 3, [], object])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind: Any) -> None:
    message = refused(Action, kind=kind)
    assert repr(kind) in message
    assert "accepted are 'WARN', 'WEBHOOK', 'DEGRADE', 'BLOCK'" in message


@pytest.mark.parametrize("callback", [None, "print", 3])
def test_a_warning_without_a_function_is_refused(callback: Any) -> None:
    message = refused(Action, kind=ActionKind.WARN, callback=callback)
    assert "callback=, a function of one StatusResponse" in message


@pytest.mark.parametrize(
    "degrade_to",
    [None, "", "  ", 3, [], {}, {"openai": ""}, {"openai": None}, {"": "gpt"}, {1: "gpt"}, b"gpt"],
)
def test_degrading_to_no_model_is_refused_with_an_example(degrade_to: Any) -> None:
    message = refused(Action, kind=ActionKind.DEGRADE, degrade_to=degrade_to)
    assert "needs degrade_to=, a model name or a mapping like" in message
    assert repr(degrade_to) in message


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        3,
        "example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "http://",
        "https:///path",
        "http://a:99999/",
        "http://[::1",
        "http://exa mple.com",
        "http://example.com/a b",
        "http://example.com/\n",
        "http://example.com/\x00",
        "http://example.com/ü",
        b"http://example.com",
    ],
)
def test_a_webhook_without_a_usable_url_is_refused(url: Any) -> None:
    message = refused(Action, kind=ActionKind.WEBHOOK, webhook_url=url)
    assert "http:// or https:// URL" in message


@pytest.mark.parametrize(
    "url", ["http://h", "https://h:1/p?q=1#f", "HTTP://H/", "http://[::1]:8/x", "http://u:p@h"]
)
def test_a_webhook_with_an_http_url_is_accepted(url: str) -> None:
    assert Action(kind=ActionKind.WEBHOOK, webhook_url=url).webhook_url == url


@pytest.mark.parametrize(
    ("kind", "surplus"),
    [
        ("BLOCK", {"callback": ignore}),
        ("BLOCK", {"degrade_to": "m"}),
        ("WARN", {"callback": ignore, "webhook_url": "http://h"}),
        ("DEGRADE", {"degrade_to": "m", "callback": ignore}),
        ("WEBHOOK", {"webhook_url": "http://h", "degrade_to": "m"}),
    ],
)
def test_a_field_the_action_has_no_use_for_is_refused(kind: Any, surplus: dict[str, Any]) -> None:
    assert f"to a {kind} action, which has no use for it" in refused(Action, kind=kind, **surplus)


@pytest.mark.parametrize("dimensions", [{}, None, [], "session", 3])
def test_a_policy_of_no_dimensions_is_refused(dimensions: Any) -> None:
    assert "non-empty mapping like" in refused(Policy, dimensions=dimensions)


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_a_dimension_without_a_name_is_refused(name: Any) -> None:
    assert "names are non-empty strings" in refused(Policy, {name: DimensionPolicy()})


@pytest.mark.parametrize("one", [None, 50_000, {"limit": 3}, DimensionPolicy])
def test_a_dimension_without_a_policy_is_refused(one: Any) -> None:
    assert "the policy of 'session' is" in refused(Policy, {"session": one})


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_policy_without_a_name_is_refused(name: Any) -> None:
    assert "the name of a Policy" in refused(Policy, {"session": DimensionPolicy()}, name=name)


@pytest.mark.parametrize("actions", [None, BLOCK, "BLOCK", [], [ActionKind.BLOCK], {BLOCK: 1}, iter([BLOCK])])
def test_actions_that_are_no_list_of_actions_are_refused(actions: Any) -> None:
    assert "Action" in refused(Threshold, at_pct=1.0, actions=actions)


@pytest.mark.parametrize("thresholds", [None, BLOCK, Threshold(1.0, [BLOCK]), [BLOCK], "x"])
def test_thresholds_that_are_no_list_of_thresholds_are_refused(thresholds: Any) -> None:
    assert "Threshold" in refused(DimensionPolicy, limit=1, thresholds=thresholds)


def test_two_cheaper_models_at_one_threshold_are_refused() -> None:
    two = [Action(ActionKind.DEGRADE, degrade_to="a"), Action(ActionKind.DEGRADE, degrade_to="b")]
    assert "more than one DEGRADE" in refused(Threshold, at_pct=0.5, actions=two)


def test_thresholds_of_no_limit_are_refused() -> None:
    assert "shares of a limit" in refused(DimensionPolicy, thresholds=[Threshold(1.0, [BLOCK])])


@pytest.mark.parametrize("period", ["minute", "hour", ResetPeriod.DAY, "week", ResetPeriod.MONTH])
def test_a_budget_may_start_anew_with_the_calendar(period: Any) -> None:
    policy = DimensionPolicy(limit=1, reset_every=period)
    assert policy.reset_every is ResetPeriod(period)
    assert policy.period == calendar(str(period))
    assert policy == DimensionPolicy(limit=1, reset_every=str(period))  # type: ignore[arg-type]


def test_whose_calendar_and_from_when_can_be_said() -> None:
    policy = DimensionPolicy(reset_every="week", timezone="Europe/Berlin", reset_at="06:30")  # type: ignore[arg-type]
    assert policy.period == calendar("week", "Europe/Berlin", 390)
    assert DimensionPolicy(reset_every=ResetPeriod.HOUR, timezone="Asia/Kolkata").period == calendar(
        "hour", "Asia/Kolkata"
    )


def test_a_budget_may_count_the_time_just_gone() -> None:
    assert DimensionPolicy(limit=1, window=timedelta(hours=1)).period == rolling(3600.0)
    assert DimensionPolicy(limit=1).period is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reset_every": "fortnight"}, "reset_every is 'fortnight'; accepted are 'minute', 'hour', 'day'"),
        ({"reset_every": 3600}, "reset_every is 3600"),
        ({"reset_every": "day", "window": timedelta(hours=1)}, "not both"),
        ({"window": 3600}, "window is 3600; it must be a timedelta"),
        ({"window": timedelta(0)}, "from a second to 366 days"),
        ({"window": timedelta(days=400)}, "from a second to 366 days"),
        ({"timezone": "Europe/Berlin"}, "timezone= was given without reset_every="),
        ({"timezone": "Europe/Berlin", "window": timedelta(hours=1)}, "without reset_every="),
        ({"reset_at": "06:00"}, "reset_at= was given without reset_every="),
        ({"reset_every": "day", "timezone": "Europe/Atlantis"}, "'Europe/Atlantis'; it must be the name"),
        ({"reset_every": "day", "timezone": ""}, "it must be the name of a time zone"),
        ({"reset_every": "day", "timezone": 2}, "it must be the name of a time zone"),
        ({"reset_every": "hour", "reset_at": "06:00"}, "it is for day, week and month"),
        ({"reset_every": "minute", "reset_at": "00:00"}, "it is for day, week and month"),
        *[
            ({"reset_every": "day", "reset_at": value}, "a time of day from '00:00' to '23:59'")
            for value in ("6:00", "24:00", "06:60", "06:00:00", "06:00\n", "six", "", 6, time(6))
        ],
    ],
)
def test_a_period_that_makes_no_sense_is_refused(given: Any, said: str) -> None:
    assert said in refused(DimensionPolicy, limit=1, **given)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ActionKind, ["WARN", "WEBHOOK", "DEGRADE", "BLOCK"]),
        (Provider, ["anthropic", "openai", "gemini", "mistral", "cohere"]),
        (ResetPeriod, ["minute", "hour", "day", "week", "month"]),
    ],
)
def test_enum_members_are_their_strings_everywhere(kind: Any, values: list[str]) -> None:
    assert [member.value for member in kind] == values
    for member, value in zip(kind, values):
        assert member == value
        assert isinstance(member, str)
        assert (str(member), f"{member}", f"{member:>12}", f"{member}") == (
            value,
            value,
            f"{value:>12}",
            value,
        )
        assert kind(value) is member
        assert {value: 1}[member] == 1


def test_a_kind_given_as_a_string_is_the_member() -> None:
    assert Action(kind=ActionKind.BLOCK) == BLOCK
    assert BLOCK.kind is ActionKind.BLOCK


@pytest.mark.parametrize(
    "thing",
    [BLOCK, Threshold(1.0, [BLOCK]), DimensionPolicy(limit=1), Policy.blocking(5)],
)
def test_policies_are_frozen_and_can_be_pickled(thing: Any) -> None:
    name = dataclasses.fields(thing)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, name, None)
    assert pickle.loads(pickle.dumps(thing)) == thing


def test_what_a_policy_was_made_of_can_be_changed_without_changing_it() -> None:
    dimensions = {"a": DimensionPolicy(limit=1)}
    actions, models = [BLOCK], {"openai": "gpt-4o-mini"}
    policy, threshold = Policy(dimensions), Threshold(1.0, actions)
    action = Action(ActionKind.DEGRADE, degrade_to=models)
    dimensions.clear()
    actions.clear()
    models.clear()
    assert list(policy.dimensions) == ["a"]
    assert list(threshold.actions) == [BLOCK]
    assert action.degrade_to == {"openai": "gpt-4o-mini"}


def test_thresholds_are_kept_in_ascending_order() -> None:
    policy = DimensionPolicy(limit=9, thresholds=[Threshold(at, [BLOCK]) for at in (1.0, 0.2, 0.6)])
    assert [threshold.at_pct for threshold in policy.thresholds] == [0.2, 0.6, 1.0]


def test_the_lowest_block_decides_where_calls_are_refused() -> None:
    warn = Action(ActionKind.WARN, callback=ignore)
    policy = DimensionPolicy(
        limit=9, thresholds=[Threshold(1.0, [BLOCK]), Threshold(0.1, [warn]), Threshold(0.7, [BLOCK])]
    )
    assert policy.block_at == 0.7
    assert DimensionPolicy(limit=9, thresholds=[Threshold(0.1, [warn])]).block_at is None


def test_a_limit_alone_blocks_at_all_of_it() -> None:
    one = Policy.blocking(50_000).dimensions["session"]
    assert (one.limit, one.block_at, Policy.blocking(1).name) == (50_000, 1.0, "default")
    assert Policy.tracking().dimensions["session"].limit is None


# -- DEGRADE ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrade_to", "provider", "model", "expected"),
    [
        ("claude-haiku-4-5", CLAUDE, "claude-sonnet-4-6", "claude-haiku-4-5"),
        ("claude-haiku-4-5", GPT, "gpt-4o", None),
        ("gpt-4o-mini", CLAUDE, "claude-sonnet-4-6", None),
        ("gpt-4o-mini", GPT, "gpt-4o", "gpt-4o-mini"),
        ("o4-mini", GPT, "gpt-5", "o4-mini"),
        # Served through the other SDK by a compatible server: of one maker, so understood.
        ("claude-haiku-4-5", GPT, "claude-sonnet-4-6", "claude-haiku-4-5"),
        # Names that do not tell go where such names are already used.
        ("my-small-model", GPT, "my-large-model", "my-small-model"),
        ("my-small-model", GPT, "gpt-4o", None),
        ("my-small-model", CLAUDE, "claude-opus-4-6", None),
        (
            "us.anthropic.claude-haiku-4-5-v1:0",
            CLAUDE,
            "us.anthropic.claude-opus-4-v1:0",
            "us.anthropic.claude-haiku-4-5-v1:0",
        ),
        ({"openai": "x", "anthropic": "y"}, GPT, "gpt-4o", "x"),
        ({"openai": "x", "anthropic": "y"}, CLAUDE, "claude-opus-4-6", "y"),
        ({Provider.OPENAI: "x"}, GPT, "gpt-4o", "x"),
        ({"openai": "x"}, CLAUDE, "claude-opus-4-6", None),
        ({"gpt-4o": "gpt-4o-mini", "openai": "gpt-5-nano"}, GPT, "gpt-4o", "gpt-4o-mini"),
        ({"gpt-4o": "gpt-4o-mini", "openai": "gpt-5-nano"}, GPT, "gpt-5", "gpt-5-nano"),
        ({"gpt-4o": "gpt-4o-mini"}, GPT, "gpt-5", None),
    ],
)
def test_a_cheaper_model_is_found_by_model_then_by_provider_and_never_crosses_over(
    degrade_to: Any, provider: Provider, model: str, expected: str | None
) -> None:
    action = Action(ActionKind.DEGRADE, degrade_to=degrade_to)
    assert cheaper(action.degrade_to, provider, model) == expected


def degrading(*steps: tuple[float, str]) -> Plan:
    thresholds = [Threshold(at, [Action(ActionKind.DEGRADE, degrade_to=to)]) for at, to in steps]
    return Plans(Policy({"d": DimensionPolicy(limit=100, thresholds=thresholds)}), {"d": "i"}).of({})


@pytest.mark.parametrize(
    ("used", "reserved", "estimate", "expected"),
    [
        (0, 0, 49, None),
        (0, 0, 50, "gpt-b"),
        (49, 0, 1, "gpt-b"),
        (20, 29, 1, "gpt-b"),
        (89, 0, 1, "gpt-c"),
        (300, 0, 1, "gpt-c"),
    ],
)
def test_the_highest_threshold_reached_says_which_model(
    used: int, reserved: int, estimate: int, expected: str | None
) -> None:
    plan = degrading((0.9, "gpt-c"), (0.5, "gpt-b"))
    state = BudgetState(BudgetKey("d", "i"), 100, used, reserved)
    due = degraded(plan, [state], estimate, GPT, "gpt-a")
    assert getattr(due, "model", None) == expected


def test_a_cheaper_model_of_the_other_provider_is_said_instead_of_sent() -> None:
    state = BudgetState(BudgetKey("d", "i"), 100, 100)
    due = degraded(degrading((0.5, "claude-haiku-4-5")), [state], 1, GPT, "gpt-4o")
    assert due == (
        "degrade_to='claude-haiku-4-5' names no model of openai for 'gpt-4o'; "
        "name one by provider: degrade_to={'openai': '...'}"
    )
