"""LiteLLM: OpenAI through its SDK, Anthropic and Responses through HTTP of its own."""

from __future__ import annotations

import os

import litellm
from harness import CLAUDE, EMBEDDER, GPT, HELLO, TOOL, route

ASK = {"messages": [{"role": "user", "content": HELLO}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@route("openai completion")
def openai_completion():
    return litellm.completion(f"openai/{GPT}", **ASK)


@route("openai stream")
def openai_stream():
    return list(litellm.completion(f"openai/{GPT}", stream=True, **ASK))


@route("openai acompletion")
async def openai_acompletion():
    return await litellm.acompletion(f"openai/{GPT}", **ASK)


@route("openai acompletion stream")
async def openai_astream():
    return [chunk async for chunk in await litellm.acompletion(f"openai/{GPT}", stream=True, **ASK)]


@route("openai tools")
def openai_tools():
    asked = [{"role": "user", "content": TOOL}]
    return litellm.completion(f"openai/{GPT}", messages=asked, tools=[WEATHER])


@route("openai retries")
def openai_retries():
    return litellm.completion(f"openai/{GPT}", num_retries=3, **ASK)


@route("openai embedding")
def openai_embedding():
    return litellm.embedding(f"openai/{EMBEDDER}", input=["one", "two"])


@route("openai aembedding")
async def openai_aembedding():
    return await litellm.aembedding(f"openai/{EMBEDDER}", input=["one", "two"])


@route("openai text completion")
def openai_text_completion():
    return litellm.text_completion(HELLO, f"text-completion-openai/{GPT}")


@route("openai responses")
def openai_responses():
    return litellm.responses(input=HELLO, model=f"openai/{GPT}")


@route("openai responses stream")
def openai_responses_stream():
    return [event.type for event in litellm.responses(input=HELLO, model=f"openai/{GPT}", stream=True)]


@route("anthropic completion")
def anthropic_completion():
    return litellm.completion(f"anthropic/{CLAUDE}", **ASK)


@route("anthropic stream")
def anthropic_stream():
    return list(litellm.completion(f"anthropic/{CLAUDE}", stream=True, **ASK))


@route("anthropic acompletion")
async def anthropic_acompletion():
    return await litellm.acompletion(f"anthropic/{CLAUDE}", **ASK)


@route("anthropic acompletion stream")
async def anthropic_astream():
    return [chunk async for chunk in await litellm.acompletion(f"anthropic/{CLAUDE}", stream=True, **ASK)]


@route("anthropic messages")
async def anthropic_messages():
    asked = {"model": f"anthropic/{CLAUDE}", "max_tokens": 50, "api_base": os.environ["ANTHROPIC_BASE_URL"]}
    return await litellm.anthropic.messages.acreate(**asked, **ASK)


def _router(model):
    named = {"model_name": "writer", "litellm_params": {"model": model}}
    return litellm.Router([named], num_retries=2)


@route("openai router")
def openai_router():
    return _router(f"openai/{GPT}").completion("writer", **ASK)


@route("anthropic router")
async def anthropic_router():
    return await _router(f"anthropic/{CLAUDE}").acompletion("writer", **ASK)


@route("anthropic retries")
def anthropic_retries():
    return litellm.completion(f"anthropic/{CLAUDE}", num_retries=3, **ASK)
