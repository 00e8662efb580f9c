"""LlamaIndex: complete, chat, stream and async over both SDKs, Responses, structured output, embeddings."""

from __future__ import annotations

from harness import CLAUDE, EMBEDDER, GPT, HELLO, TOOL, route, volatile
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.openai import OpenAI, OpenAIResponses
from pydantic import BaseModel

volatile("raw", "block_id", "tool_call_id", "tool_id")


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


ASK = [ChatMessage(role="user", content=HELLO)]


def _told(reply):
    return [str(reply), reply.raw]


@route("openai complete")
def openai_complete():
    return _told(OpenAI(model=GPT).complete(HELLO))


@route("openai chat")
def openai_chat():
    return _told(OpenAI(model=GPT).chat(ASK))


@route("openai stream_complete")
def openai_stream_complete():
    return [part.delta for part in OpenAI(model=GPT).stream_complete(HELLO)]


@route("openai stream_chat")
def openai_stream_chat():
    return [part.delta for part in OpenAI(model=GPT).stream_chat(ASK)]


@route("openai achat")
async def openai_achat():
    return _told(await OpenAI(model=GPT).achat(ASK))


@route("openai astream_chat")
async def openai_astream_chat():
    return [part.delta async for part in await OpenAI(model=GPT).astream_chat(ASK)]


@route("openai structured")
def openai_structured():
    return OpenAI(model=GPT).as_structured_llm(City).chat(ASK).raw


@route("openai agent")
async def openai_agent():
    agent = FunctionAgent(tools=[weather], llm=OpenAI(model=GPT), streaming=False)
    return str(await agent.run(TOOL))


@route("openai agent streamed")
async def openai_agent_streamed():
    return str(await FunctionAgent(tools=[weather], llm=OpenAI(model=GPT)).run(TOOL))


@route("responses chat")
def responses_chat():
    return str(OpenAIResponses(model=GPT).chat(ASK))


@route("responses astream_chat")
async def responses_astream_chat():
    return [part.delta async for part in await OpenAIResponses(model=GPT).astream_chat(ASK)]


@route("openai embeddings")
def openai_embeddings():
    embedder = OpenAIEmbedding(model=EMBEDDER)
    return embedder.get_text_embedding_batch(["one", "two"]), embedder.get_query_embedding("three")


@route("anthropic complete")
def anthropic_complete():
    return str(Anthropic(model=CLAUDE).complete(HELLO))


@route("anthropic chat")
def anthropic_chat():
    return _told(Anthropic(model=CLAUDE).chat(ASK))


@route("anthropic stream_chat")
def anthropic_stream_chat():
    return [part.delta for part in Anthropic(model=CLAUDE).stream_chat(ASK)]


@route("anthropic achat")
async def anthropic_achat():
    return _told(await Anthropic(model=CLAUDE).achat(ASK))


@route("anthropic astream_chat")
async def anthropic_astream_chat():
    return [part.delta async for part in await Anthropic(model=CLAUDE).astream_chat(ASK)]


@route("anthropic agent")
async def anthropic_agent():
    return str(await FunctionAgent(tools=[weather], llm=Anthropic(model=CLAUDE)).run(TOOL))
