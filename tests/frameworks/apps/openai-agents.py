"""The OpenAI Agents SDK: Responses and chat models, runs and streams, tools, handoffs, structured output."""

from __future__ import annotations

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from harness import GPT, HELLO, TOOL, route, volatile
from openai import AsyncOpenAI
from pydantic import BaseModel

volatile("response_id")


class City(BaseModel):
    """A city."""

    name: str
    people: int


@function_tool
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def _responses():
    return OpenAIResponsesModel(GPT, AsyncOpenAI())


def _chat():
    return OpenAIChatCompletionsModel(GPT, AsyncOpenAI())


def _told(result):
    return [result.final_output, result.to_input_list(), len(result.raw_responses)]


async def _streamed(agent, asked):
    result = Runner.run_streamed(agent, asked)
    events = [event.type async for event in result.stream_events()]
    return [*_told(result), events]


@route("run, by name")
async def run_by_name():
    return _told(await Runner.run(Agent("writer", model=GPT), HELLO))


@route("run_sync")
def run_sync():
    return _told(Runner.run_sync(Agent("writer", model=GPT), HELLO))


@route("responses run")
async def responses_run():
    return _told(await Runner.run(Agent("writer", model=_responses()), HELLO))


@route("responses run_streamed")
async def responses_streamed():
    return await _streamed(Agent("writer", model=_responses()), HELLO)


@route("responses tools")
async def responses_tools():
    return _told(await Runner.run(Agent("writer", model=_responses(), tools=[weather]), TOOL))


@route("responses tools run_streamed")
async def responses_tools_streamed():
    return await _streamed(Agent("writer", model=_responses(), tools=[weather]), TOOL)


@route("responses structured")
async def responses_structured():
    return _told(await Runner.run(Agent("writer", model=_responses(), output_type=City), HELLO))


@route("responses handoff")
async def responses_handoff():
    helper = Agent("helper", model=_responses())
    front = Agent("front", model=_responses(), handoffs=[helper])
    result = await Runner.run(front, TOOL)
    return [*_told(result), result.last_agent.name]


@route("chat run")
async def chat_run():
    return _told(await Runner.run(Agent("writer", model=_chat()), HELLO))


@route("chat run_streamed")
async def chat_streamed():
    return await _streamed(Agent("writer", model=_chat()), HELLO)


@route("chat tools")
async def chat_tools():
    return _told(await Runner.run(Agent("writer", model=_chat(), tools=[weather]), TOOL))


@route("chat usage run_streamed")
async def chat_usage_streamed():
    settings = ModelSettings(include_usage=True)
    return await _streamed(Agent("writer", model=_chat(), model_settings=settings, tools=[weather]), TOOL)
