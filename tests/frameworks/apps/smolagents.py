"""smolagents: models of the OpenAI SDK and of LiteLLM, alone and in tool-calling agents."""

from __future__ import annotations

from harness import CLAUDE, GPT, HELLO, route
from smolagents import LiteLLMModel, OpenAIModel, ToolCallingAgent, tool


@tool
def weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: The city.
    """
    return f"sunny in {city} [[tool=final_answer]]"


ASK = [{"role": "user", "content": [{"type": "text", "text": HELLO}]}]


@route("openai generate")
def openai_generate():
    reply = OpenAIModel(model_id=GPT).generate(ASK)
    return [reply.content, reply.token_usage]


@route("openai generate_stream")
def openai_generate_stream():
    return [[part.content, part.token_usage] for part in OpenAIModel(model_id=GPT).generate_stream(ASK)]


@route("openai agent")
def openai_agent():
    agent = ToolCallingAgent(tools=[weather], model=OpenAIModel(model_id=GPT), max_steps=3, verbosity_level=0)
    return agent.run(HELLO)


@route("openai agent streamed")
def openai_agent_streamed():
    model = OpenAIModel(model_id=GPT)
    agent = ToolCallingAgent(
        tools=[weather], model=model, max_steps=3, verbosity_level=0, stream_outputs=True
    )
    return agent.run(HELLO)


@route("litellm openai generate")
def litellm_openai():
    return LiteLLMModel(model_id=f"openai/{GPT}").generate(ASK).content


@route("litellm anthropic generate")
def litellm_anthropic():
    return LiteLLMModel(model_id=f"anthropic/{CLAUDE}").generate(ASK).content
