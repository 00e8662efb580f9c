"""An agent that never stops, and the budget that stops it: warned, degraded, then blocked.

With ANTHROPIC_API_KEY or OPENAI_API_KEY in the environment the calls go to that provider (some thousand
tokens of small models: about a cent). Without one they go to a stand-in provider on the loopback interface,
through the real SDK and real HTTP. Exit status 0 means that all three things really happened.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokencap
from tokencap import Action, ActionKind, DimensionPolicy, Policy, Threshold
from tokencap._loopback import LoopbackProvider

LIMIT = 3_000
WARN_AT, DEGRADE_AT, BLOCK_AT = 0.5, 0.75, 1.0
MOST_CALLS = 60
STUBBORN = 3

SYSTEM = "You are a research agent. Report what you found in one sentence."
TASK = "Find the three most cited papers on token budgets."
RETRY = "That was not it. Try again, and look harder this time."


class Style:
    """Colours, where there is a terminal to show them and nobody asked for none."""

    def __init__(self, stream: Any) -> None:
        self.on = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.on else text


paint = Style(sys.stdout)
DIM, BOLD, GREEN, YELLOW, MAGENTA, RED = "2", "1", "32", "33", "35", "31"


class Model(NamedTuple):
    """One SDK, the model the agent asks for and the one it gets when the budget runs low."""

    sdk: str
    asked: str
    cheaper: str


MODELS = {
    "anthropic": Model("anthropic", "claude-sonnet-4-6", "claude-haiku-4-5"),
    "openai": Model("openai", "gpt-4o-mini", "gpt-4.1-nano"),
}


class Agent:
    """Retries for ever: the bug this library is for. It knows nothing of tokencap."""

    def __init__(self, client: Any, model: Model, directive: str) -> None:
        self.client = client
        self.model = model
        self.system = SYSTEM + directive
        self.messages = [{"role": "user", "content": TASK}]

    def step(self) -> tuple[str, int]:
        """Make one call; return the model that answered and the tokens the provider reported."""
        if self.model.sdk == "anthropic":
            reply = self.client.messages.create(
                model=self.model.asked, max_tokens=60, system=self.system, messages=self.messages
            )
            text = "".join(block.text for block in reply.content if block.type == "text")
            tokens = reply.usage.input_tokens + reply.usage.output_tokens
        else:
            reply = self.client.chat.completions.create(
                model=self.model.asked,
                max_tokens=60,
                messages=[{"role": "system", "content": self.system}, *self.messages],
            )
            text, tokens = reply.choices[0].message.content or "", reply.usage.total_tokens
        # What makes such loops expensive: every retry sends the whole conversation again.
        self.messages += [{"role": "assistant", "content": text or "..."}, {"role": "user", "content": RETRY}]
        return reply.model, tokens


def main() -> int:
    parser = argparse.ArgumentParser(
        description="A looping agent is warned, degraded and blocked by its token budget."
    )
    parser.add_argument(
        "--offline", action="store_true", help="use the loopback provider even with a key set"
    )
    parser.add_argument("--provider", choices=sorted(MODELS), help="which SDK to use")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        # The default store is a file in the current directory; this run is to leave none behind.
        stack.enter_context(_somewhere_else())
        try:
            name, provider = _choose(arguments, stack)
        except ImportError as error:
            print(f"{error}\nThe demo needs an SDK: pip install 'tokencap[anthropic]', or run make demo.")
            return 2
        try:
            return run(MODELS[name], provider)
        except sys.modules[name].APIError as error:
            print(f"\nthe provider answered with an error: {error}")
            print("Without the provider: scripts/demo.py --offline")
            return 1


def _choose(
    arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[str, LoopbackProvider | None]:
    """Return which SDK to use, and the loopback provider unless there is a key for the real one."""
    keys = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
    candidates = [arguments.provider] if arguments.provider else list(MODELS)
    if not arguments.offline:
        for name in candidates:
            if os.environ.get(keys[name]):
                __import__(name)
                return name, None
    name = candidates[0]
    __import__(name)
    provider = stack.enter_context(LoopbackProvider())
    os.environ.update(provider.environ)
    return name, provider


@contextlib.contextmanager
def _somewhere_else() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="tokencap-demo-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            tokencap.teardown()
            os.chdir(before)


def run(model: Model, provider: LoopbackProvider | None) -> int:
    warnings: list[float] = []

    def on_warn(status: tokencap.StatusResponse) -> None:
        warnings.append(status.dimensions["session"].pct_used)

    policy = Policy(
        {
            "session": DimensionPolicy(
                limit=LIMIT,
                thresholds=[
                    Threshold(WARN_AT, [Action(ActionKind.WARN, callback=on_warn)]),
                    Threshold(DEGRADE_AT, [Action(ActionKind.DEGRADE, degrade_to=model.cheaper)]),
                    Threshold(BLOCK_AT, [Action(ActionKind.BLOCK)]),
                ],
            )
        }
    )
    _introduce(model, provider)
    client = tokencap.wrap(_new_client(model.sdk), policy=policy)
    print()

    # The loopback provider answers in as many words as it is told to; a real one decides by itself.
    agent = Agent(client, model, " [[output=24]]" if provider else "")
    outcome = _loop(agent, client, warnings, provider)
    return 0 if _conclude(client, outcome, provider) else 1


class Outcome:
    """What really happened, collected call by call."""

    def __init__(self) -> None:
        self.calls = 0
        self.reported = 0
        self.warned = 0
        self.degraded = 0
        self.refused = 0
        self.sent_after_block = 0


def _loop(agent: Agent, client: Any, warnings: list[float], provider: LoopbackProvider | None) -> Outcome:
    outcome = Outcome()
    sent_before_block = 0
    while outcome.calls + outcome.refused < MOST_CALLS and outcome.refused < STUBBORN:
        _breathe()
        try:
            answered, tokens = agent.step()
        except tokencap.BudgetExceededError as error:
            if not outcome.refused:
                sent_before_block = _paid(provider)
                _say_blocked(error)
            outcome.refused += 1
            continue
        outcome.calls += 1
        outcome.reported += tokens
        cheaper = answered.startswith(agent.model.cheaper)
        if cheaper and not outcome.degraded:
            _event(
                MAGENTA,
                "DEGRADE",
                f"{DEGRADE_AT:.0%} reached: the agent asks for {agent.model.asked} as before",
            )
            _event(MAGENTA, "", f"and is answered by {agent.model.cheaper} from here on")
        outcome.degraded += cheaper
        state = client.get_status().dimensions["session"]
        _say_call(outcome.calls, answered, cheaper, tokens, state)
        if len(warnings) > outcome.warned:
            outcome.warned = len(warnings)
            _event(YELLOW, "WARN", f"the callback was told: {warnings[-1]:.1%} of the budget is used")
    outcome.sent_after_block = _paid(provider) - sent_before_block if outcome.refused else 0
    return outcome


def _paid(provider: LoopbackProvider | None) -> int:
    """Return how many calls the provider has billed; its free token counter is asked near a threshold."""
    return sum(entry.tokens > 0 for entry in provider.journal) if provider else 0


def _new_client(sdk: str) -> Any:
    if sdk == "anthropic":
        import anthropic

        return anthropic.Anthropic()
    import openai

    return openai.OpenAI()


# ---- what is printed


def _introduce(model: Model, provider: LoopbackProvider | None) -> None:
    where = "a stand-in provider on this machine (no API key needed)" if provider else "the real provider"
    print()
    print(paint(BOLD, "A research agent with a bug: it retries for ever."))
    print(f"It calls {model.asked} through the {model.sdk} SDK, on {where}.")
    print(f"Its budget is {LIMIT:,} tokens: ", end="")
    print(f"warn at {WARN_AT:.0%}, degrade at {DEGRADE_AT:.0%}, block at {BLOCK_AT:.0%}.")
    print()
    print(paint(DIM, f"  client = tokencap.wrap({_class_name(model.sdk)}(), policy=policy)"))


def _class_name(sdk: str) -> str:
    return "anthropic.Anthropic" if sdk == "anthropic" else "openai.OpenAI"


def _say_call(number: int, model: str, cheaper: bool, tokens: int, state: tokencap.BudgetState) -> None:
    share = min(1.0, state.pct_used)
    colour = (
        RED
        if share >= BLOCK_AT
        else MAGENTA
        if share >= DEGRADE_AT
        else YELLOW
        if share >= WARN_AT
        else GREEN
    )
    shown = paint(MAGENTA, f"{model[:24]:24}") if cheaper else f"{model[:24]:24}"
    print(
        f"  call {number:<3} {shown} {tokens:>6,} tokens  {_bar(share, colour)} "
        f"{state.used:>6,} / {state.limit:,}  {state.pct_used:>6.1%}"
    )


def _bar(share: float, colour: str, width: int = 24) -> str:
    full, empty = ("█", "░") if _can_draw() else ("#", ".")
    done = round(share * width)
    return paint(colour, full * done) + paint(DIM, empty * (width - done))


def _can_draw() -> bool:
    try:
        "█░".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _event(colour: str, name: str, text: str) -> None:
    print(f"  {paint(f'{BOLD};{colour}', f'{name:8}')} {paint(colour, text)}")


def _say_blocked(error: tokencap.BudgetExceededError) -> None:
    lines = textwrap.wrap(f"BudgetExceededError: {error}", 86)
    _event(RED, "BLOCK", lines[0])
    for line in lines[1:]:
        _event(RED, "", line)


def _conclude(client: Any, outcome: Outcome, provider: LoopbackProvider | None) -> bool:
    """Print the status and what happened; return whether all of it did."""
    status = client.get_status()
    print()
    print(paint(BOLD, "client.get_status()"))
    for name, state in status.dimensions.items():
        print(
            f"  {name}: {state.used:,} / {state.limit:,} tokens ({state.pct_used:.1%}), "
            f"{state.reserved:,} reserved, {state.remaining:,} remaining"
        )
    ahead = status.next_threshold
    if ahead:
        kinds = " + ".join(ahead.action_kinds)
        print(f"  next threshold: {kinds} at {ahead.at_pct:.0%}, or {ahead.triggers_at_tokens:,} tokens used")
    print()
    print(paint(BOLD, "What happened"))
    state = status.dimensions["session"]
    checks = [
        (outcome.warned == 1, f"warned: once, at {WARN_AT:.0%}"),
        (
            outcome.degraded > 0,
            f"degraded: the cheaper model answered {outcome.degraded} of {outcome.calls} calls",
        ),
        (outcome.refused > 0, f"blocked: {outcome.refused} further calls were refused"),
    ]
    if provider:
        nothing_sent = not outcome.sent_after_block
        checks.append((nothing_sent, f"the provider answered {_paid(provider)} calls, none after the block"))
        verb, total = "billed", provider.tokens
    else:
        verb, total = "reported", outcome.reported
    checks.append((total == state.used, f"it {verb} {total:,} tokens, tokencap counted {state.used:,}"))
    for passed, text in checks:
        print(f"  {paint(GREEN, 'yes') if passed else paint(RED, 'NO ')}  {text}")
    print()
    return all(passed for passed, _ in checks)


def _breathe() -> None:
    """Leave a person the time to watch; a pipe needs none."""
    if sys.stdout.isatty():
        time.sleep(0.15)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `make demo | head`; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
