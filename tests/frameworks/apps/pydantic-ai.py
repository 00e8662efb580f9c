"""pydantic-ai: chat, Responses and Anthropic models; run and run_stream, tools, structured output."""

from __future__ import annotations

from harness import CLAUDE, EMBEDDER, GPT, HELLO, TOOL, route, volatile
from pydantic import BaseModel
from pydantic_ai import Agent, Embedder, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

volatile("provider_response_id", "run_id", "conversation_id")


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def _told(result):
    return [result.output, result.usage, result.all_messages()]


async def _streamed(agent, asked):
    async with agent.run_stream(asked) as result:
        texts = [text async for text in result.stream_text(delta=True, debounce_by=None)]
    return [texts, result.usage, result.all_messages()]


@route("chat run")
async def chat_run():
    return _told(await Agent(OpenAIChatModel(GPT)).run(HELLO))


@route("chat run_sync")
def chat_run_sync():
    return _told(Agent(f"openai-chat:{GPT}").run_sync(HELLO))


@route("chat run_stream")
async def chat_run_stream():
    return await _streamed(Agent(OpenAIChatModel(GPT)), HELLO)


@route("chat tools")
async def chat_tools():
    return _told(await Agent(OpenAIChatModel(GPT), tools=[weather]).run(TOOL))


@route("chat structured by tool")
async def chat_structured():
    return _told(await Agent(OpenAIChatModel(GPT), output_type=City).run(HELLO))


@route("chat structured")
async def chat_structured_native():
    return _told(await Agent(OpenAIChatModel(GPT), output_type=NativeOutput(City)).run(HELLO))


@route("responses run")
async def responses_run():
    return _told(await Agent(OpenAIResponsesModel(GPT)).run(HELLO))


@route("responses run_stream")
async def responses_run_stream():
    return await _streamed(Agent(OpenAIResponsesModel(GPT)), HELLO)


@route("responses tools")
async def responses_tools():
    return _told(await Agent(OpenAIResponsesModel(GPT), tools=[weather]).run(TOOL))


@route("anthropic run")
async def anthropic_run():
    return _told(await Agent(AnthropicModel(CLAUDE)).run(HELLO))


@route("anthropic run_stream")
async def anthropic_run_stream():
    return await _streamed(Agent(AnthropicModel(CLAUDE)), HELLO)


@route("anthropic tools")
async def anthropic_tools():
    return _told(await Agent(AnthropicModel(CLAUDE), tools=[weather]).run(TOOL))


@route("anthropic structured by tool")
async def anthropic_structured():
    return _told(await Agent(AnthropicModel(CLAUDE), output_type=City).run(HELLO))


@route("embeddings")
async def embeddings():
    return (await Embedder(f"openai:{EMBEDDER}").embed_documents(["one", "two"])).embeddings
