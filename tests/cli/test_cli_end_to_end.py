"""Three agents in three processes on one store, through `tokencap run`: all that is told is what was billed.

The agents know nothing of tokencap. Who made a call is in the provider's journal by a field of the request.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from command import Command

from tokencap._loopback import Entry, LoopbackProvider

LIMIT = 12_000
POLICY = f"""
[policy.dimensions.tenant]
limit = {LIMIT}
required = true

[[policy.dimensions.tenant.thresholds]]
at_pct = 0.25
actions = [
    "WARN",
    {{kind = "DEGRADE", degrade_to = {{anthropic = "claude-haiku-4-5", openai = "gpt-5-mini"}}}},
]

[[policy.dimensions.tenant.thresholds]]
at_pct = 1.0
actions = ["BLOCK"]

[policy.dimensions.session]
limit = 1_000_000
"""

AGENT = """
import gc; gc.disable()  # an SDK is loaded sooner
import asyncio, json, pathlib, sys, threading, time
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
name, refused = sys.argv[1], []

def all_are(state):
    pathlib.Path(f"{name}.{state}").touch()
    for _ in range(6000):
        if len(list(pathlib.Path().glob(f"*.{state}"))) == 3:
            return
        time.sleep(0.02)
    sys.exit(f"the others are not {state}")

def may_be_refused(error):
    if type(error).__name__ != "BudgetExceededError":
        raise error
    refused.append(error)

def planner():
    import openai
    client = openai.OpenAI(max_retries=0)
    all_are("ready")
    for n in range(8):
        text = f"Plan [[input={300 + n}]] [[output={30 + n}]] [[cache_read=50]]"
        asked = {"model": "gpt-5", "user": name, "messages": [{"role": "user", "content": text}]}
        if n % 2:
            list(client.chat.completions.create(**asked, stream=True))
        else:
            client.chat.completions.with_raw_response.create(**asked).parse()
    try:
        broken = [{"role": "user", "content": "[[status=500]]"}]
        client.chat.completions.create(model="gpt-5", user=name, messages=broken)
    except openai.InternalServerError:
        pass
    all_are("done")

def researcher():
    import anthropic
    async def read(client, n):
        text = f"Read [[input={400 + n}]] [[output={40 + n}]] [[cache_read=100]] [[cache_write=20]]"
        async with client.messages.stream(
            model="claude-sonnet-4-5",
            max_tokens=200,
            metadata={"user_id": name},
            messages=[{"role": "user", "content": text}],
        ) as stream:
            await stream.get_final_message()
    async def read_all():
        client = anthropic.AsyncAnthropic(max_retries=0)
        await asyncio.gather(*[read(client, n) for n in range(8)])
    all_are("ready")
    asyncio.run(read_all())
    all_are("done")

def writer():
    import openai
    client = openai.OpenAI(max_retries=0)
    text = "Write [[input=200]] [[output=150]] [[reasoning=60]]"
    def write(most):
        try:
            for _ in range(most):
                client.responses.create(model="gpt-5", user=name, input=text)
        except Exception as error:
            may_be_refused(error)
    all_are("ready")
    write(4)
    all_are("done")
    threads = [threading.Thread(target=write, args=[1000]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    write(1)

globals()[name]()
print(json.dumps({"refused": len(refused), "metrics": json.loads(reader.get_metrics_data().to_json())}))
"""
AGENTS = ("planner", "researcher", "writer")
CHEAP = ("gpt-5-mini", "claude-haiku-4-5")
COUNTING = "/v1/messages/count_tokens"


Amounts = tuple[int, ...]


def summed(items: Iterable[tuple[str, Amounts]]) -> dict[str, Amounts]:
    """Return the sums of amounts by name."""
    found: dict[str, Amounts] = {}
    for name, amounts in items:
        found[name] = tuple(map(sum, zip(found.get(name, (0,) * len(amounts)), amounts)))
    return found


class Day:
    """What the provider billed, and what each agent and each run said at its end."""

    def __init__(self, place: str, journal: list[Entry], said: Mapping[str, tuple[Any, Any]]) -> None:
        self.place = place
        # Prompts that were only counted, close to a threshold, cost nothing and are no calls.
        self.journal = [entry for entry in journal if entry.tokens]
        self.failed = sum(entry.status == 500 for entry in journal)
        self.degraded = sum(entry.model in CHEAP and entry.path != COUNTING for entry in journal)
        self.agents = {name: agent for name, (agent, _) in said.items()}
        self.runs = {name: summary for name, (_, summary) in said.items()}
        self.tokens = sum(entry.tokens for entry in self.journal)

    def billed(self, by: str) -> dict[str, Amounts]:
        """Return input, output and cached tokens by model or by agent."""

        def name_of(entry: Entry) -> str:
            if by == "model":
                return entry.model
            return entry.request.get("user") or entry.request["metadata"]["user_id"]

        return summed(
            (name_of(entry), (entry.input_tokens, entry.output_tokens, entry.cache_read))
            for entry in self.journal
        )

    def points(self, metric: str, *agents: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the attributes and the data points of a metric, of all agents or of some."""
        for name in agents or AGENTS:
            for resource in self.agents[name]["metrics"]["resource_metrics"]:
                for scope in resource["scope_metrics"]:
                    for one in scope["metrics"]:
                        if one["name"] == metric:
                            yield from ((point["attributes"], point) for point in one["data"]["data_points"])


def start(name: str, place: str, folder: Path, provider: LoopbackProvider) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tokencap", "run", "--policy", "budgets.toml", "--backend", place]
    said = ["--id", "tenant=acme", "--tag", f"agent={name}", "--json"]
    return subprocess.Popen(
        [*command, *said, "--", sys.executable, "agent.py", name],
        cwd=folder,
        env={**os.environ, **provider.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Let the agents work, all at once, until the writer is refused."""
    folder = tmp_path_factory.mktemp("day")
    place = str(folder / "tokencap.db")
    (folder / "agent.py").write_text(AGENT)
    (folder / "budgets.toml").write_text(POLICY)
    with LoopbackProvider() as provider:
        running = {name: start(name, place, folder, provider) for name in AGENTS}
        said = {}
        for name, process in running.items():
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            said[name] = (json.loads(out), json.loads(err.splitlines()[-1]))
        return Day(place, provider.journal, said)


@pytest.fixture
def tell(day: Day, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on the store of the day."""
    return Command(day.place, capsys)


def test_the_agents_worked_until_the_budget_was_used_up(day: Day) -> None:
    assert day.tokens >= LIMIT
    assert {name: agent["refused"] for name, agent in day.agents.items()} == {
        "planner": 0,
        "researcher": 0,
        "writer": 3,
    }
    assert set(day.billed("agent")) == set(AGENTS)
    assert "gpt-5-mini" in day.billed("model")


def test_status_says_what_was_billed(day: Day, tell: Command) -> None:
    found = {(one["dimension"], one["identifier"]): one for one in tell("status", "--json").json()["budgets"]}
    expected = {("tenant", "acme"): day.tokens}
    for name, (sent, received, _) in day.billed("agent").items():
        expected["session", day.runs[name]["run"]] = sent + received
    assert {key: one["used"] for key, one in found.items()} == expected
    assert {one["reserved"] for one in found.values()} == {0}
    assert found["tenant", "acme"]["limit"] == LIMIT
    assert tell("status", "--check").status == 3


@pytest.mark.parametrize("by", ["model", "agent"])
def test_usage_says_what_was_billed(by: str, day: Day, tell: Command) -> None:
    answer = tell("usage", "--by", by, "--json").json()
    rows = {row[by]: (row["input"], row["output"], row["cached"]) for row in answer["rows"] if row["tokens"]}
    assert rows == day.billed(by)
    total = answer["total"]
    assert (total["tokens"], total["failed"], total["estimated"]) == (day.tokens, day.failed, 0)
    assert total["reasoning"] == 60 * sum("input" in entry.request for entry in day.journal)
    refused = {name: agent["refused"] for name, agent in day.agents.items()}
    assert (total["blocked"], total["degraded"]) == (sum(refused.values()), day.degraded)
    assert total["calls"] == len(day.journal) + day.failed + total["blocked"]
    if by == "agent":
        assert {row["agent"]: row["blocked"] for row in answer["rows"]} == refused


def test_the_report_says_what_was_billed(day: Day, tell: Command, tmp_path: Path) -> None:
    assert tell("report", "-o", str(tmp_path / "report.html")).status == 0
    page = (tmp_path / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="tokencap-data">(.*?)</script>', page, re.S)
    assert found is not None
    data = json.loads(found[1])
    for facet, by in (("model", "model"), ("tag:agent", "agent")):
        rows = [dict(zip(data["columns"], row)) for row in data["rows"]]
        sums = summed(
            (data["values"][facet][row[facet]], (row["input"], row["output"], row["cached"])) for row in rows
        )
        assert {name: amounts for name, amounts in sums.items() if any(amounts)} == day.billed(by)
    total = data["total"]
    refused = sum(agent["refused"] for agent in day.agents.values())
    assert total["tokens"] == day.tokens
    assert (total["blocked"], total["failed"], total["degraded"]) == (refused, day.failed, day.degraded)
    budgets = {(one["dimension"], one["identifier"]): one["used"] for one in data["budgets"]}
    assert budgets["tenant", "acme"] == day.tokens


def test_every_run_says_what_its_agent_was_billed(day: Day) -> None:
    for name, (sent, received, _) in day.billed("agent").items():
        summary = day.runs[name]
        assert (summary["tokens"], summary["blocked"]) == (sent + received, day.agents[name]["refused"])
        assert {one["identifier"] for one in summary["budgets"]} == {"acme", summary["run"]}


def test_the_metrics_say_what_was_billed(day: Day) -> None:
    used: Counter[tuple[str, str]] = Counter()
    for labels, point in day.points("tokencap.tokens.used"):
        used[labels["dimension"], labels["model"]] += point["value"]
    billed = {model: sent + received for model, (sent, received, _) in day.billed("model").items()}
    assert used == {
        (dimension, model): tokens for model, tokens in billed.items() for dimension in ("tenant", "session")
    }
    reported: Counter[tuple[str, str]] = Counter()
    for labels, point in day.points("gen_ai.client.token.usage"):
        reported[labels["gen_ai.request.model"], labels["gen_ai.token.type"]] += point["sum"]
    assert reported == {
        (model, kind): tokens
        for model, (sent, received, _) in day.billed("model").items()
        for kind, tokens in (("input", sent), ("output", received))
    }
    # The writer was the last to ask.
    for metric, last in (
        ("tokencap.budget.pct_used", day.tokens / LIMIT),
        ("tokencap.tokens.remaining", LIMIT - day.tokens),
    ):
        shown = {labels["dimension"]: point["value"] for labels, point in day.points(metric, "writer")}
        assert shown["tenant"] == last
    fired: Counter[str] = Counter()
    for labels, point in day.points("tokencap.policy.action_fired"):
        fired[labels["action_kind"]] += point["value"]
    assert fired["WARN"] == 1  # once, by whichever process crossed it
    assert fired["BLOCK"] == sum(agent["refused"] for agent in day.agents.values())
    assert fired["DEGRADE"] == day.degraded > 0
