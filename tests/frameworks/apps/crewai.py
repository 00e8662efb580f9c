"""CrewAI: language models of both SDKs, called alone and by crews, plain and async, with tools."""

from __future__ import annotations

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from harness import CLAUDE, GPT, HELLO, TOOL, route
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool("weather")
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def _crew(model, asked=HELLO, **more):
    writer = Agent(role="writer", goal="write", backstory="writes", llm=model, **more)
    task = Task(description=asked, expected_output="a sentence", agent=writer)
    return Crew(agents=[writer], tasks=[task])


def _told(output):
    return [output.raw, output.token_usage]


@route("openai call")
def openai_call():
    return LLM(model=f"openai/{GPT}").call(HELLO)


@route("openai call streamed")
def openai_streamed():
    return LLM(model=f"openai/{GPT}", stream=True).call(HELLO)


@route("openai acall")
async def openai_acall():
    return await LLM(model=f"openai/{GPT}").acall(HELLO)


@route("openai structured")
def openai_structured():
    return LLM(model=f"openai/{GPT}", response_format=City).call(HELLO)


@route("responses call")
def responses_call():
    return LLM(model=f"openai/{GPT}", api="responses").call(HELLO)


@route("openai kickoff")
def openai_kickoff():
    return _told(_crew(f"openai/{GPT}").kickoff())


@route("openai kickoff_async")
async def openai_kickoff_async():
    return _told(await _crew(f"openai/{GPT}").kickoff_async())


@route("openai akickoff")
async def openai_akickoff():
    return _told(await _crew(f"openai/{GPT}").akickoff())


@route("openai kickoff with tools")
def openai_kickoff_tools():
    return _told(_crew(f"openai/{GPT}", TOOL, tools=[weather]).kickoff())


@route("anthropic call")
def anthropic_call():
    return LLM(model=f"anthropic/{CLAUDE}").call(HELLO)


@route("anthropic call streamed")
def anthropic_streamed():
    return LLM(model=f"anthropic/{CLAUDE}", stream=True).call(HELLO)


@route("anthropic acall")
async def anthropic_acall():
    return await LLM(model=f"anthropic/{CLAUDE}").acall(HELLO)


@route("anthropic kickoff")
def anthropic_kickoff():
    return _told(_crew(f"anthropic/{CLAUDE}").kickoff())


@route("anthropic kickoff_async")
async def anthropic_kickoff_async():
    return _told(await _crew(f"anthropic/{CLAUDE}").kickoff_async())


@route("anthropic kickoff with tools")
def anthropic_kickoff_tools():
    return _told(_crew(f"anthropic/{CLAUDE}", TOOL, tools=[weather]).kickoff())
