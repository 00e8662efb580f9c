"""Agno: agents on chat, Responses and Anthropic models, plain, streamed, async, with tools."""

from __future__ import annotations

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.models.openai import OpenAIChat, OpenAIResponses
from harness import CLAUDE, GPT, HELLO, TOOL, route
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def _agent(model, **more):
    return Agent(model=model, telemetry=False, **more)


def _told(output):
    return [output.content, output.status]


def _streamed(agent):
    return [[event.event, getattr(event, "content", None)] for event in agent.run(HELLO, stream=True)]


@route("chat run")
def chat_run():
    return _told(_agent(OpenAIChat(id=GPT)).run(HELLO))


@route("chat run streamed")
def chat_streamed():
    return _streamed(_agent(OpenAIChat(id=GPT)))


@route("chat arun")
async def chat_arun():
    return _told(await _agent(OpenAIChat(id=GPT)).arun(HELLO))


@route("chat tools")
def chat_tools():
    return _told(_agent(OpenAIChat(id=GPT), tools=[weather]).run(TOOL))


@route("chat structured")
def chat_structured():
    return _told(_agent(OpenAIChat(id=GPT), output_schema=City).run(HELLO))


@route("responses run")
def responses_run():
    return _told(_agent(OpenAIResponses(id=GPT)).run(HELLO))


@route("responses run streamed")
def responses_streamed():
    return _streamed(_agent(OpenAIResponses(id=GPT)))


@route("anthropic run")
def anthropic_run():
    return _told(_agent(Claude(id=CLAUDE)).run(HELLO))


@route("anthropic run streamed")
def anthropic_streamed():
    return _streamed(_agent(Claude(id=CLAUDE)))


@route("anthropic arun")
async def anthropic_arun():
    return _told(await _agent(Claude(id=CLAUDE)).arun(HELLO))


@route("anthropic tools")
def anthropic_tools():
    return _told(_agent(Claude(id=CLAUDE), tools=[weather]).run(TOOL))
