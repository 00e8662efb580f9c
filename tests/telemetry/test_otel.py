"""What OpenTelemetry is told: through the SDK's own in-memory reader and exporter."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tokencap import (
    Action,
    BudgetExceededError,
    ConfigurationError,
    DimensionPolicy,
    Guard,
    Otel,
    Policy,
    Threshold,
)
from tokencap._flow import run
from tokencap._loopback import LoopbackProvider
from tokencap._session import CallSession
from tokencap.backends.memory import MemoryBackend
from tokencap.policy import Provider
from tokencap.providers import endpoint_of
from tokencap.telemetry.names import operation_of, provider_name
from tokencap.usage import TokenUsage

EXAMPLES = Path(__file__).parents[2] / "examples"
CHAT = endpoint_of(Provider.OPENAI, "post", "/chat/completions")
assert CHAT is not None


class Told:
    """What reached the SDK."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))

    def otel(self, **kwargs: Any) -> Otel:
        return Otel(meter_provider=self.meters, tracer_provider=self.tracers, **kwargs)

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            if scope.scope.name == "tokencap"
            for metric in scope.metrics
        }

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """The values of a metric by their labels."""
        metric = self.metrics().get(name)
        points = metric.data.data_points if metric else []
        return {tuple(sorted(point.attributes.items())): point.value for point in points}

    def spans(self) -> list[Any]:
        return [
            each
            for each in self.exporter.get_finished_spans()
            if each.instrumentation_scope.name == "tokencap"
        ]


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.meters.shutdown()
    told.tracers.shutdown()


def policy_of(limit: int = 1_000, *more: tuple[float, Action], **dimensions: int) -> Policy:
    steps = [Threshold(at, [action]) for at, action in (*more, (1.0, Action("BLOCK")))]
    return Policy(
        {
            "session": DimensionPolicy(limit=limit, thresholds=steps),
            **{name: DimensionPolicy(limit=each) for name, each in dimensions.items()},
        }
    )


def guard_on(
    told: Told, policy: Policy | None = None, backend: Any = None, who: Any = None, **kwargs: Any
) -> Guard:
    return Guard(policy or policy_of(), who, backend or MemoryBackend(), otel=told.otel(**kwargs))


def spend(guard: Guard, usage: TokenUsage, model: str = "gpt-4o") -> None:
    session = CallSession(guard.runtime, Provider.OPENAI, CHAT, {"model": model, "messages": []})
    run(session.begin())
    session.tally.usage = usage
    run(session.settle())


# -- metrics -----------------------------------------------------------------------------------------------


def test_tokens_are_counted_for_each_dimension(told: Told) -> None:
    with guard_on(told, policy_of(tenant=5_000)) as guard:
        spend(guard, TokenUsage(100, 20))
        spend(guard, TokenUsage(30))
        assert told.points("tokencap.tokens.used") == {
            (("dimension", name), ("model", "gpt-4o"), ("provider", "openai")): 150
            for name in ("session", "tenant")
        }
        metric = told.metrics()["tokencap.tokens.used"]
        assert metric.data.is_monotonic
        assert metric.unit == "{token}"


def test_the_gauges_show_what_is_left(told: Told) -> None:
    with guard_on(told, policy_of(tenant=5_000)) as guard:
        spend(guard, TokenUsage(100, 20))
        assert told.points("tokencap.tokens.remaining") == {
            (("dimension", "session"),): 880,
            (("dimension", "tenant"),): 4_880,
        }
        assert told.points("tokencap.budget.pct_used") == {
            (("dimension", "session"),): 0.12,
            (("dimension", "tenant"),): 0.024,
        }


def test_of_many_identifiers_a_gauge_shows_the_tightest_budget(told: Told) -> None:
    store = MemoryBackend()
    guards = [guard_on(told, backend=store, who={"session": name}) for name in "abc"]
    for guard, tokens in zip(guards, (100, 700, 300)):
        spend(guard, TokenUsage(tokens))
    assert told.points("tokencap.tokens.remaining") == {(("dimension", "session"),): 300}
    assert told.points("tokencap.budget.pct_used") == {(("dimension", "session"),): 0.7}
    for guard in guards:
        guard.teardown()


def test_identifiers_are_labels_where_they_are_asked_for(told: Told) -> None:
    policy = policy_of(tenant=5_000)
    with guard_on(told, policy, who={"session": "s", "tenant": "acme"}, identifiers=["tenant"]) as guard:
        spend(guard, TokenUsage(120))
        assert told.points("tokencap.tokens.remaining") == {
            (("dimension", "session"),): 880,
            (("dimension", "tenant"), ("identifier", "acme")): 4_880,
        }


def test_a_dimension_without_a_limit_has_no_gauge(told: Told) -> None:
    with guard_on(told, Policy.tracking()) as guard:
        spend(guard, TokenUsage(120))
        assert told.points("tokencap.tokens.remaining") == {}
        assert sum(told.points("tokencap.tokens.used").values()) == 120


def test_the_gauges_forget_a_guard_that_was_closed(told: Told) -> None:
    with guard_on(told) as guard:
        spend(guard, TokenUsage(120))
    assert told.points("tokencap.tokens.remaining") == {}
    assert sum(told.points("tokencap.tokens.used").values()) == 120


def test_every_action_is_counted(told: Told) -> None:
    policy = policy_of(
        1_000,
        (0.5, Action("WARN", callback=lambda status: None)),
        (0.6, Action("DEGRADE", degrade_to="gpt-4o-mini")),
    )
    with guard_on(told, policy) as guard:
        spend(guard, TokenUsage(700))
        spend(guard, TokenUsage(300))
        for _ in range(2):
            with pytest.raises(BudgetExceededError):
                spend(guard, TokenUsage(1))
        counts = {
            dict(labels)["action_kind"]: count
            for labels, count in told.points("tokencap.policy.action_fired").items()
        }
    assert counts == {"WARN": 1, "DEGRADE": 1, "BLOCK": 2}


def test_the_usage_of_a_call_goes_into_the_conventional_histogram(told: Told) -> None:
    with guard_on(told) as guard:
        spend(guard, TokenUsage(100, 20))
        spend(guard, TokenUsage(5, 1))
    metric = told.metrics()["gen_ai.client.token.usage"]
    assert metric.unit == "{token}"
    found = {point.attributes["gen_ai.token.type"]: point for point in metric.data.data_points}
    assert {kind: (point.count, point.sum) for kind, point in found.items()} == {
        "input": (2, 105),
        "output": (2, 21),
    }
    assert found["input"].explicit_bounds == tuple(4**power for power in range(14))
    assert dict(found["input"].attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.token.type": "input",
    }


def test_no_records_are_made_while_nobody_collects_them(told: Told) -> None:
    with Guard(Policy.blocking(1_000), backend=MemoryBackend()) as guard:
        assert guard.runtime.observer is not None
        assert not guard.runtime.observed
        guard.on_call(print)
        assert guard.runtime.observed
    with guard_on(told) as guard:
        assert guard.runtime.observed


def test_each_kind_of_token_has_a_histogram_where_it_is_asked_for(told: Told) -> None:
    prefix = "gen_ai.client.inference.usage."
    with guard_on(told) as guard:
        spend(guard, TokenUsage(100, 20))
    assert not [name for name in told.metrics() if name.startswith(prefix)]
    with guard_on(told, inference_usage=True) as guard:
        spend(guard, TokenUsage(100, 20, cache_read_tokens=60, cache_write_tokens=30, reasoning_tokens=15))
        spend(guard, TokenUsage(7, 2))
    found = {name: metric for name, metric in told.metrics().items() if name.startswith(prefix)}
    points = {name[len(prefix) :]: metric.data.data_points[0] for name, metric in found.items()}
    assert {name: (point.count, point.sum) for name, point in points.items()} == {
        "input_tokens": (2, 107),
        "output_tokens": (2, 22),
        "cache_read.input_tokens": (2, 60),
        "cache_creation.input_tokens": (2, 30),
        "reasoning.output_tokens": (2, 15),
    }
    assert dict(points["input_tokens"].attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
    }


def test_the_names_are_those_of_the_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

    assert gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE == "gen_ai.client.token.usage"
    known = {each.value for each in names.GenAiProviderNameValues}
    assert {provider_name(provider.value) for provider in Provider} <= known
    operations = {each.value for each in names.GenAiOperationNameValues}
    for path, operation in {
        "/chat/completions": "chat",
        "/v1/messages": "chat",
        "/responses": "chat",
        "/completions": "text_completion",
        "/v1/complete": "text_completion",
        "/embeddings": "embeddings",
        "/v1/models/x:generateContent": "generate_content",
    }.items():
        assert operation_of(path) == operation
        assert operation in operations
    written = {value for name, value in vars(names).items() if name.startswith("GEN_AI_USAGE")}
    assert {"gen_ai.usage.input_tokens", "gen_ai.usage.cache_read.input_tokens"} <= written
    assert "gen_ai.usage.cache_creation.input_tokens" in written


def test_guards_share_their_instruments(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    guards = [guard_on(told) for _ in range(3)]
    for guard in guards:
        spend(guard, TokenUsage(10))
        guard.teardown()
    assert sum(told.points("tokencap.tokens.used").values()) == 30
    assert not [record for record in caplog.records if "has been created already" in record.message]


def test_nothing_is_told_when_it_is_turned_off(told: Told) -> None:
    with Guard(policy_of(), backend=MemoryBackend(), otel_enabled=False, otel=told.otel()) as guard:
        spend(guard, TokenUsage(120))
        assert guard.runtime.observer is None
    assert told.metrics() == {}
    assert told.spans() == []


@pytest.mark.parametrize("identifiers", ["tenant", [5]])
def test_identifiers_that_are_no_names_are_a_mistake(identifiers: Any) -> None:
    with pytest.raises(ConfigurationError):
        Otel(identifiers=identifiers)


WITHOUT_API = """
import sys
sys.modules["opentelemetry"] = None
from tokencap import Guard, Otel, Policy
guard = Guard(Policy.blocking(100), otel=Otel(identifiers=["session"]))
assert guard.runtime.observer is None
assert not guard.runtime.observed
guard.teardown()
print([name for name in sys.modules if name.startswith("opentelemetry.")])
"""


def test_without_the_api_there_is_nothing_at_all(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_API],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_api_alone_costs_nobody_an_error(tmp_path: Path) -> None:
    code = """
import sys
from tokencap import Guard, Policy
from tokencap._flow import run
from tokencap._session import CallSession
from tokencap.policy import Provider
from tokencap.providers import endpoint_of
with Guard(Policy.blocking(100)) as guard:
    row = endpoint_of(Provider.OPENAI, "post", "/responses")
    session = CallSession(guard.runtime, Provider.OPENAI, row, {})
    assert guard.runtime.observer.begin(session) is None
    run(session.begin())
    run(session.settle())
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# -- spans -------------------------------------------------------------------------------------------------


@pytest.fixture
def client(told: Told, loopback: LoopbackProvider) -> Iterator[Any]:
    with guard_on(told, policy_of(10_000)) as guard:
        yield guard.wrap(openai.OpenAI(max_retries=0))


def ask(client: Any, prompt: str = "hi", **kwargs: Any) -> Any:
    return client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": prompt}], **kwargs
    )


def test_a_call_of_an_sdk_that_makes_no_span_has_one(told: Told, client: Any) -> None:
    reply = ask(client)
    (span,) = told.spans()
    assert (span.name, span.kind) == ("chat gpt-4o", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": reply.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": reply.usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "tokencap.tokens": reply.usage.total_tokens,
        "tokencap.ending": "ok",
    }


def test_it_covers_a_stream_to_its_end(told: Told, client: Any) -> None:
    stream = ask(client, stream=True)
    next(stream)
    assert told.spans() == []
    for _ in stream:
        pass
    (span,) = told.spans()
    assert span.attributes["gen_ai.usage.output_tokens"] > 0


def test_it_is_a_child_of_what_the_call_was_made_in(told: Told, client: Any) -> None:
    tracer = told.tracers.get_tracer("tokencap")
    with tracer.start_as_current_span("outer") as outer:
        ask(client)
        with tracer.start_as_current_span("beside"):
            pass
    spans = {span.name: span for span in told.spans()}
    assert spans["chat gpt-4o"].parent.span_id == outer.get_span_context().span_id
    assert spans["beside"].parent.span_id == outer.get_span_context().span_id


def test_a_call_that_fails_says_how(told: Told, client: Any, loopback: LoopbackProvider) -> None:
    with pytest.raises(openai.InternalServerError):
        ask(client, "[[status=500]]")
    (span,) = told.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes["error.type"], span.attributes["tokencap.ending"]) == (
        "InternalServerError",
        "failed",
    )


def test_a_call_that_is_refused_says_so(told: Told, loopback: LoopbackProvider) -> None:
    with guard_on(told, policy_of(10)) as guard, pytest.raises(BudgetExceededError):
        ask(guard.wrap(openai.OpenAI()), "x" * 4_000)
    (span,) = told.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "BudgetExceededError"
    assert [(event.name, event.attributes["action_kind"]) for event in span.events] == [
        ("tokencap.action", "BLOCK")
    ]


def test_actions_are_events_of_the_call_that_fired_them(told: Told, loopback: LoopbackProvider) -> None:
    policy = policy_of(
        10_000,
        (0.0001, Action("DEGRADE", degrade_to="gpt-4o-mini")),
        (0.0002, Action("WARN", callback=print)),
    )
    with guard_on(told, policy) as guard:
        ask(guard.wrap(openai.OpenAI()))
    (span,) = told.spans()
    assert [event.attributes["action_kind"] for event in span.events] == ["DEGRADE", "WARN"]
    assert span.name == "chat gpt-4o-mini"
    assert span.attributes["gen_ai.request.model"] == "gpt-4o-mini"
    assert span.attributes["tokencap.model_asked"] == "gpt-4o"


def test_neither_prompt_nor_reply_is_in_a_span(told: Told, client: Any) -> None:
    reply = ask(client, "the secret prompt")
    everything = " ".join(span.to_json() for span in told.spans())
    assert "secret" not in everything
    assert str(reply.choices[0].message.content) not in everything


def test_async_calls_have_their_own_spans(told: Told, loopback: LoopbackProvider) -> None:
    async def main(guard: Guard) -> None:
        async with openai.AsyncOpenAI() as plain:
            client = guard.wrap(plain)
            await asyncio.gather(*[ask(client, f"call {n}") for n in range(5)])

    with guard_on(told, policy_of(10_000)) as guard:
        asyncio.run(main(guard))
    assert [span.parent for span in told.spans()] == [None] * 5


def test_an_sdk_that_makes_spans_gets_no_second_one(told: Told, loopback: LoopbackProvider) -> None:
    if int(anthropic.__version__.split(".")[0]) < 2:
        pytest.skip(f"anthropic {anthropic.__version__} traces nothing by itself")
    options = {"tracer_provider": told.tracers, "traces": {"enabled": True}}
    with guard_on(told, policy_of(100_000)) as guard:
        for traced in (options, False):
            client = guard.wrap(anthropic.Anthropic(open_telemetry=traced))
            client.messages.create(
                model="claude-haiku-4-5", max_tokens=20, messages=[{"role": "user", "content": "hi"}]
            )
    scopes = [span.instrumentation_scope.name for span in told.exporter.get_finished_spans()]
    assert scopes == ["com.anthropic.sdk.python", "tokencap"]


def test_spans_can_be_left_out(told: Told, loopback: LoopbackProvider) -> None:
    with guard_on(told, policy_of(10_000), spans=False) as guard:
        ask(guard.wrap(openai.OpenAI()))
    assert told.spans() == []
    assert told.points("tokencap.tokens.used")


# -- examples ----------------------------------------------------------------------------------------------


def series_of(metric: Any) -> set[str]:
    """The names under which Prometheus knows a metric of OpenTelemetry."""
    assert re.fullmatch(r"|\{\w+\}", metric.unit), (
        "a unit becomes part of the name, unless it is an annotation"
    )
    name = re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name)
    endings = {"Histogram": ("_bucket", "_sum", "_count"), "Sum": ("_total",), "Gauge": ("",)}
    return {name + end for end in endings[type(metric.data).__name__]}


@pytest.fixture
def exported(told: Told) -> dict[str, set[str]]:
    """The series that are really exported, each with its labels."""
    policy = policy_of(1_000, (0.1, Action("WARN", callback=lambda status: None)))
    with guard_on(told, policy, who={"session": "s"}, identifiers=["session"]) as guard:
        spend(guard, TokenUsage(200, 10))
        found: dict[str, set[str]] = {}
        for metric in told.metrics().values():
            labels = {
                label.replace(".", "_") for point in metric.data.data_points for label in point.attributes
            }
            for series in series_of(metric):
                found[series] = labels | ({"le"} if series.endswith("_bucket") else set())
    return found


def test_the_series_are_named_as_the_exporter_names_them(exported: dict[str, set[str]]) -> None:
    assert set(exported) == {
        "tokencap_tokens_used_total",
        "tokencap_policy_action_fired_total",
        "tokencap_tokens_remaining",
        "tokencap_budget_pct_used",
        "gen_ai_client_token_usage_bucket",
        "gen_ai_client_token_usage_sum",
        "gen_ai_client_token_usage_count",
    }


_WORDS = frozenset(("sum", "by", "rate", "increase", "max", "min", "le", "histogram_quantile", "offset"))


def check(expression: str, exported: dict[str, set[str]]) -> None:
    """Every series and every label of an expression is exported."""
    bare = re.sub(r'"[^"]*"|\$\w+|\[[^\]]*\]|\b\d\w*', "", expression)
    series = [
        word
        for word in re.findall(r"[a-zA-Z_:][\w:]*", bare)
        if word.startswith(("tokencap_", "gen_ai_client"))
    ]
    assert series, expression
    labels = set().union(*[exported[name] for name in series])
    for word in re.findall(r"[a-zA-Z_:][\w:]*", bare):
        assert word in _WORDS or word in series or word in labels, f"{word} in {expression}"


def expressions_of(panel: Any) -> Iterator[str]:
    for target in panel.get("targets", ()):
        yield target["expr"]
    for inner in panel.get("panels", ()):
        yield from expressions_of(inner)


def test_the_dashboard_asks_for_what_is_exported(exported: dict[str, set[str]]) -> None:
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    found = [each for panel in dashboard["panels"] for each in expressions_of(panel)]
    assert len(found) >= 6
    for expression in found:
        check(expression, exported)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_alerts_ask_for_what_is_exported(exported: dict[str, set[str]]) -> None:
    text = (EXAMPLES / "prometheus-alerts.yml").read_text()
    found = re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    assert len(found) == text.count("- alert: ") >= 4
    for expression in found:
        check(expression, exported)
