"""Strands: agents on chat, Responses and Anthropic models; all of its calls are streams."""

from __future__ import annotations

from harness import CLAUDE, GPT, HELLO, TOOL, route, volatile
from pydantic import BaseModel
from strands import Agent, tool
from strands.models.anthropic import AnthropicModel
from strands.models.openai import OpenAIModel
from strands.models.openai_responses import OpenAIResponsesModel

volatile("timeToFirstByteMs", "latencyMs")


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def _gpt():
    return OpenAIModel(model_id=GPT)


def _responses():
    return OpenAIResponsesModel(model_id=GPT)


def _claude():
    return AnthropicModel(model_id=CLAUDE, max_tokens=200)


def _agent(model, **more):
    return Agent(model=model, callback_handler=None, **more)


def _told(result):
    return [result.stop_reason, result.message, result.metrics.accumulated_usage]


@route("chat call")
def chat_call():
    return _told(_agent(_gpt())(HELLO))


@route("chat invoke_async")
async def chat_invoke_async():
    return _told(await _agent(_gpt()).invoke_async(HELLO))


@route("chat tools")
def chat_tools():
    return _told(_agent(_gpt(), tools=[weather])(TOOL))


@route("chat structured")
def chat_structured():
    return _agent(_gpt())(HELLO, structured_output_model=City).structured_output


@route("responses call")
def responses_call():
    return _told(_agent(_responses())(HELLO))


@route("responses tools")
def responses_tools():
    return _told(_agent(_responses(), tools=[weather])(TOOL))


@route("anthropic call")
def anthropic_call():
    return _told(_agent(_claude())(HELLO))


@route("anthropic stream_async")
async def anthropic_stream_async():
    return [event["data"] async for event in _agent(_claude()).stream_async(HELLO) if "data" in event]


@route("anthropic tools")
def anthropic_tools():
    return _told(_agent(_claude(), tools=[weather])(TOOL))
