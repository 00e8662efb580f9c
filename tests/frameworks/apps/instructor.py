"""instructor: clients of both SDKs made over, structured output in each of its usual modes."""

from __future__ import annotations

import anthropic
import instructor
import openai
from harness import CLAUDE, GPT, HELLO, route
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


ASK = {"messages": [{"role": "user", "content": HELLO}], "response_model": City}
CLAUDE_ASK = {**ASK, "model": CLAUDE, "max_tokens": 200}


@route("openai tools")
def openai_tools():
    return instructor.from_openai(openai.OpenAI()).chat.completions.create(model=GPT, **ASK)


@route("openai json schema")
def openai_json_schema():
    client = instructor.from_openai(openai.OpenAI(), mode=instructor.Mode.JSON_SCHEMA)
    return client.chat.completions.create(model=GPT, **ASK)


@route("openai async")
async def openai_async():
    return await instructor.from_openai(openai.AsyncOpenAI()).chat.completions.create(model=GPT, **ASK)


@route("openai partial stream")
def openai_partial():
    client = instructor.from_openai(openai.OpenAI())
    return list(client.chat.completions.create_partial(model=GPT, **ASK))


@route("openai with completion")
def openai_with_completion():
    client = instructor.from_openai(openai.OpenAI())
    city, completion = client.chat.completions.create_with_completion(model=GPT, **ASK)
    return city, completion.usage


@route("responses tools")
def responses_tools():
    client = instructor.from_openai(openai.OpenAI(), mode=instructor.Mode.RESPONSES_TOOLS)
    return client.chat.completions.create(model=GPT, **ASK)


@route("by provider name")
def by_provider_name():
    return instructor.from_provider(f"openai/{GPT}").chat.completions.create(**ASK)


@route("anthropic tools")
def anthropic_tools():
    return instructor.from_anthropic(anthropic.Anthropic()).chat.completions.create(**CLAUDE_ASK)


@route("anthropic async")
async def anthropic_async():
    client = instructor.from_anthropic(anthropic.AsyncAnthropic())
    return await client.chat.completions.create(**CLAUDE_ASK)


@route("anthropic partial stream")
def anthropic_partial():
    client = instructor.from_anthropic(anthropic.Anthropic())
    return list(client.chat.completions.create_partial(**CLAUDE_ASK))
