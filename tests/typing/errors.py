"""Never executed: each marked line is an error to mypy and to pyright, and `mypy --strict` says so if not."""

from __future__ import annotations

import openai

import tokencap
from tokencap import Action, DimensionPolicy, Guard, Policy, Threshold

policy = Policy({"session": DimensionPolicy(limit=50_000)})

tokencap.wrap(openai.OpenAI(), limit=5, policy=policy)  # type: ignore[call-overload]
tokencap.wrap(openai.OpenAI(), limit="5")  # type: ignore[call-overload]
tokencap.wrap(openai.OpenAI(), limit=5.5)  # type: ignore[call-overload]
tokencap.wrap(openai.OpenAI(), policy=5)  # type: ignore[call-overload]
tokencap.wrap()  # type: ignore[call-overload]
tokencap.wrap(openai.AzureOpenAI()).get_status()  # type: ignore[attr-defined]
tokencap.patch(limit="5")  # type: ignore[arg-type]
tokencap.patch(providers=5)  # type: ignore[arg-type]
str(tokencap.no_such_name)  # type: ignore[attr-defined]
tokencap.init(identifiers={"session": 5})  # type: ignore[dict-item]
Guard()  # type: ignore[call-arg]
Guard(policy, backend="redis://h")  # type: ignore[arg-type]
Threshold(at_pct=0.5, actions=Action(kind="BLOCK"))  # type: ignore[arg-type]
Threshold(at_pct="80%", actions=[])  # type: ignore[arg-type]
DimensionPolicy(limit="5")  # type: ignore[arg-type]
policy.name = "other"  # type: ignore[misc]
guard = Guard(policy)
guard.call("openai", "m", 5)  # type: ignore[call-arg]
guard.call(provider="openai", model="m")  # type: ignore[call-arg]
guard.call(provider="openai", model="m", estimate=None)  # type: ignore[arg-type]
