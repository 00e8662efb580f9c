"""AutoGen: agents and clients of autogen-ext over both SDKs."""

from __future__ import annotations

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.anthropic import AnthropicChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient
from harness import CLAUDE, GPT, HELLO, TOOL, route, volatile
from pydantic import BaseModel

volatile("metadata")


class City(BaseModel):
    """A city."""

    name: str
    people: int


async def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


ASK = [UserMessage(content=HELLO, source="user")]


def _gpt():
    return OpenAIChatCompletionClient(model=GPT)


def _claude():
    return AnthropicChatCompletionClient(model=CLAUDE, temperature=None)


@route("openai create")
async def openai_create():
    return await _gpt().create(ASK)


@route("openai create_stream")
async def openai_create_stream():
    return [part async for part in _gpt().create_stream(ASK)]


@route("openai structured")
async def openai_structured():
    return await _gpt().create(ASK, json_output=City)


@route("openai agent")
async def openai_agent():
    return await AssistantAgent("writer", _gpt()).run(task=HELLO)


@route("openai agent with tools")
async def openai_agent_tools():
    agent = AssistantAgent("writer", _gpt(), tools=[weather], reflect_on_tool_use=True)
    return await agent.run(task=TOOL)


@route("openai agent streamed")
async def openai_agent_streamed():
    agent = AssistantAgent("writer", _gpt(), model_client_stream=True)
    return [event async for event in agent.run_stream(task=HELLO)]


@route("anthropic create")
async def anthropic_create():
    return await _claude().create(ASK)


@route("anthropic create_stream")
async def anthropic_create_stream():
    return [part async for part in _claude().create_stream(ASK)]


@route("anthropic agent with tools")
async def anthropic_agent_tools():
    agent = AssistantAgent("writer", _claude(), tools=[weather], reflect_on_tool_use=True)
    return await agent.run(task=TOOL)
