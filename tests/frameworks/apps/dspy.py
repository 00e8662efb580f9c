"""DSPy: language models by LiteLLM and by its own engine."""

from __future__ import annotations

import dspy
from harness import CLAUDE, EMBEDDER, GPT, HELLO, route


def _asked(model):
    with dspy.context(lm=model):
        return dspy.Predict("question -> answer")(question=HELLO).answer


@route("openai lm")
def openai_lm():
    return dspy.LM(f"openai/{GPT}", cache=False)(HELLO)


@route("openai predict")
def openai_predict():
    return _asked(dspy.LM(f"openai/{GPT}", cache=False))


@route("openai alm")
async def openai_alm():
    return await dspy.LM(f"openai/{GPT}", cache=False).acall(HELLO)


@route("responses lm")
def responses_lm():
    return dspy.LM(f"openai/{GPT}", model_type="responses", cache=False)(HELLO)


@route("anthropic lm")
def anthropic_lm():
    return dspy.LM(f"anthropic/{CLAUDE}", cache=False)(HELLO)


@route("openai embeddings")
def openai_embeddings():
    return dspy.Embedder(f"openai/{EMBEDDER}", caching=False)(["one", "two"]).tolist()
